"""A folder by its path or its hub id: the one place that speaks to the hub, and only to fetch data.

A name is a folder wherever there is one. What else looks like OWNER/NAME is asked of the hub, unless a folder
OWNER is here: then it is a mistyped path, and nobody outside is asked.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from cicjax.errors import BadInput

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def resolve(path_or_hub_id: str | Path, files: Sequence[str], *, wanted: str) -> Path:
    """The folder itself, or the local copy of a hub id's `files`: names or patterns of data, never of code.

    The path of one of `files` stands for its folder. `wanted` says in errors what the folder should hold.
    Raises BadInput, in one line, where there is neither a folder nor such a model to be had.
    """
    path = Path(os.path.expanduser(path_or_hub_id))
    if os.path.exists(os.path.expanduser(path_or_hub_id)):
        return path.parent if path.name in files and path.is_file() else path
    if isinstance(path_or_hub_id, Path) or not HUB_ID.fullmatch(path_or_hub_id) or path.parent.exists():
        raise BadInput(
            f"{path_or_hub_id}: no such folder; give a folder with {wanted}, or a hub id such as OWNER/NAME"
        )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils.logging import set_verbosity_error

        set_verbosity_error()  # its retries would bury the one line that matters
        return Path(snapshot_download(path_or_hub_id, allow_patterns=list(files)))
    except Exception as error:  # the hub's client has many kinds, of network, access and absence
        raise BadInput(
            f"{path_or_hub_id}: no such folder, "
            f"and not to be had as a hub id ({type(error).__name__}); pass a folder"
        ) from None
