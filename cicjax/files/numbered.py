"""Numbered folders, such as the steps of a training: each appears in one rename, whole or not at all,
durable, and with the digests of its files in it, which the run's seal knows."""

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from cicjax.errors import BadInput, CicjaxError, OutOfResources
from cicjax.files import seal, strict
from cicjax.files.whole import check_space, file_digest, no_space, permit, sync, write_json

MANIFEST = "digests.json"
_LEFTOVERS = (".saving-*", ".removing-*")
# How the system, and libraries that put its words into their own, speak of a disk that refuses.
_REFUSED = (
    "RESOURCE_EXHAUSTED",
    "No space left",
    "Disk quota",
    "Input/output error",
    "Read-only",
    "OS error",
)


def numbers(directory: Path) -> list[int]:
    """Those of the complete folders, ascending."""
    if not directory.is_dir():
        return []
    return sorted(
        int(path.name)
        for path in directory.iterdir()
        if re.fullmatch("0|[1-9][0-9]*", path.name) and path.is_dir()
    )


def lost(directory: Path) -> int | None:
    """The largest number that the run's seal knows, where it is larger than any that is there."""
    names = [name.split("/") for name in seal.listed(directory)]
    newest = max((int(name[0]) for name in names if name[1:] == [MANIFEST]), default=-1)
    return newest if newest > max(numbers(directory), default=-1) else None


@contextmanager
def filling(target: Path, *, need: int) -> Iterator[Path]:
    """A name beside `target` to fill, and to hand to `finish`; an error leaves nothing under it.

    Raises OutOfResources where the disk has not `need` bytes to give, or refuses in between, whichever
    library was at it.
    """
    check_space(target, need)
    unfinished = target.with_name(f".saving-{target.name}")
    try:
        yield unfinished
    except BaseException as error:
        with suppress(OSError):
            shutil.rmtree(unfinished)
        if said := _refusal(error, target, need):
            raise OutOfResources(f"{target}: {said}") from error
        raise


def _refusal(error: BaseException, target: Path, need: int) -> str:
    """What a disk that refused is reported as; empty for any other error."""
    # Threads that failed together raise together.
    texts = [str(each) for each in getattr(error, "exceptions", [error])]
    refused = next((text for text in texts if any(mark in text for mark in _REFUSED)), "")
    if isinstance(error, CicjaxError) or not (refused or isinstance(error, OSError)):
        return ""
    if "No space left" in refused or "RESOURCE_EXHAUSTED" in refused:
        return no_space(target, need)
    reason = getattr(error, "strerror", None) or (refused or str(error)).splitlines()[0][:200]
    return f"cannot be written ({reason}); see to the disk and repeat the command"


def finish(unfinished: Path, target: Path, *, final: bool, content: str, keep: int) -> None:
    """Give a filled folder its name, in the place of one that had it, and let go of those before it but the
    last `keep - 1` and the final ones.

    `content` is a digest of what the folder says: a final one that was lost can only be made again with it.
    """
    directory = target.parent
    _make_durable(unfinished, number=int(target.name), final=final)
    there = numbers(directory)
    kept = {int(target.name), *sorted({int(target.name), *there})[-keep:]}
    retired = [directory / str(n) for n in there if n not in kept and not _is_final(directory / str(n))]
    forget = [folder / MANIFEST for folder in retired]
    seal.admit(unfinished / MANIFEST, target / MANIFEST, content=content, once=final, forget=forget)
    discard(target)
    unfinished.rename(target)
    sync(directory)
    for folder in retired:
        discard(folder)


def discard(folder: Path) -> None:
    """Remove a folder in one rename first, so that a kill half way leaves none with files missing."""
    if folder.exists():
        doomed = folder.with_name(f".removing-{folder.name}")
        folder.rename(doomed)
        shutil.rmtree(doomed)


def sweep(directory: Path, *, below: bool = False) -> None:
    """Remove what a kill left half written or half removed, with `below` in the folders below too."""
    for pattern in _LEFTOVERS:
        for leftover in [*(directory.rglob if below else directory.glob)(pattern)]:
            shutil.rmtree(leftover)


def _make_durable(folder: Path, *, number: int, final: bool) -> None:
    inside = sorted(folder.rglob("*"))
    digests = {path.relative_to(folder).as_posix(): file_digest(path) for path in inside if path.is_file()}
    write_json(folder / MANIFEST, {"step": number, "final": final, "files": digests})
    for path in [*inside, folder]:
        permit(path, 0o700 if path.is_dir() else 0o600)
    # Syncs that come together share a commit of the file system: a twentieth of the time, one by one.
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(sync, [*inside, folder]))


def _is_final(folder: Path) -> bool:
    try:
        return strict.load((folder / MANIFEST).read_bytes())["final"] is True
    except (OSError, BadInput, KeyError, TypeError):
        return False
