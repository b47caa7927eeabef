"""What ships with the package."""

from pathlib import Path

from cicjax.errors import BadInput


def default_model_folder() -> Path:
    """The embedded base: package data where installed, else the repository's checkpoints/tiny. Raises
    BadInput where neither is there."""
    package = Path(__file__).resolve().parent
    for folder in (package / "_tiny", package.parent / "checkpoints" / "tiny"):
        if (folder / "tokenizer.json").is_file():
            return folder
    raise BadInput(
        "this installation has no embedded base; "
        "name a folder with --model DIR (for `mask` with --tokenizer DIR)"
    )
