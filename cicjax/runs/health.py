"""Whether a machine can run this project, and whether a run's folder is as it was written: what `cicjax
doctor` says.

Every check gives findings, in words, with the exit code that a command would end with: 0 where all is well or
worth a look only. Nothing is written and no lock is kept.
"""

import os
import platform
import shutil
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from cicjax.errors import BadInput, Corrupted, Locked, OutOfResources
from cicjax.files import seal, strict
from cicjax.files.numbered import MANIFEST
from cicjax.files.whole import PARTIAL, TEMPORARY, file_digest
from cicjax.runs import environment, folder, metrics

PACKAGES = (*environment.PACKAGES, "safetensors", "transformers", "huggingface-hub")
OLDEST_SQLITE = (3, 37, 0)  # strict tables
LITTLE_MEMORY, LITTLE_DISK = 1 << 30, 1 << 28
LEFTOVERS = (".saving-*", ".removing-*", f".*{TEMPORARY}", f".*{PARTIAL}")
Version = tuple[int, ...]


class Finding(NamedTuple):
    """What a check found: its name, the exit code (0: nothing wrong), whether a person should look, and the
    words."""

    check: str
    text: str
    code: int = 0
    note: bool = False

    @property
    def word(self) -> str:
        """How bad it is, in one word."""
        return "bad" if self.code else "look" if self.note else "ok"


def machine(where: Path) -> Iterator[Finding]:
    """What this process has to run on: versions, devices, memory, the disk of `where`, the cache of compiled
    programs, SQLite."""
    versions = list(_versions(installed(), python=tuple(map(int, platform.python_version_tuple()[:2]))))
    yield from versions
    if any(finding.code for finding in versions):
        yield Finding("devices", "not asked for: the versions do not go together", note=True)
    else:
        yield from _devices()
    yield _memory()
    yield _disk(where)
    yield _cache(os.environ.get("JAX_COMPILATION_CACHE_DIR"))
    yield _sqlite(sqlite3.sqlite_version_info, sqlite3.sqlite_version)


def installed() -> dict[str, str]:
    """Versions of the packages that are there."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _versions(found: Mapping[str, str], *, python: Version) -> Iterator[Finding]:
    numbers = {name: _numbers(text) for name, text in found.items()}
    jax, flax = numbers.get("jax", (0,)), numbers.get("flax", (0,))
    wrong = [f"{name} is missing" for name in PACKAGES if name not in found]
    if jax >= (0, 11, 2) and flax < (0, 12, 10):
        wrong.append(f"flax {found.get('flax')} fails on import under jax {found['jax']}")
    if jax < (0, 11) and flax > (0, 12, 8):
        wrong.append(f"flax {found.get('flax')} needs a newer jax than {found.get('jax')}")
    if python < (3, 12) and jax >= (0, 11):
        wrong.append(f"jax {found['jax']} needs Python 3.12")
    if jax[:2] != numbers.get("jaxlib", jax)[:2]:
        wrong.append(f"jaxlib {found['jaxlib']} is not of jax {found['jax']}")
    if wrong:
        advice = "install the project anew, which chooses the pair (CONTRIBUTING.md, Versions)"
        yield Finding("versions", f"{'; '.join(wrong)}; {advice}", BadInput.exit_code)
        return
    named = ", ".join(f"{name} {text}" for name, text in found.items())
    yield Finding("versions", f"Python {platform.python_version()}, {named}")


def _numbers(text: str) -> Version:
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())


def _devices() -> Iterator[Finding]:
    try:
        import jax

        from cicjax.devices import kind

        devices, here = jax.devices(), kind.here()
    except Exception as error:  # whatever keeps jax from starting, in its own words
        what = " ".join(str(error).split())[:300]
        yield Finding("devices", f"jax does not start: {what}", BadInput.exit_code)
        return
    what = f"{len(devices)} of {devices[0].device_kind}, kind {here.name}, {environment.cores()} cores"
    yield Finding("devices", what)
    unused = [name for name in ("nvidia0", "accel0", "vfio/0") if Path("/dev", name).exists()]
    if devices[0].platform == "cpu" and unused:
        asked = f" (JAX_PLATFORMS={os.environ['JAX_PLATFORMS']})" if "JAX_PLATFORMS" in os.environ else ""
        told = f"/dev/{unused[0]} is there, and jax runs on the CPU{asked}; install the extra cuda or tpu"
        yield Finding("devices", told, note=True)


def _memory() -> Finding:
    from cicjax.devices import kind

    free = min(filter(None, (kind.memory_of(kind.ANY), _limit())))
    code = OutOfResources.exit_code if free < LITTLE_MEMORY else 0
    return Finding("memory", f"{_size(free)} free{', too little for a training' if code else ''}", code)


def _limit() -> int | None:
    """What a container leaves of its memory; None outside of one."""
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text())
        return max(limit - int((group / "memory.current").read_text()), 1)
    return None


def _disk(where: Path) -> Finding:
    there = next(path for path in (where.absolute(), *where.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    code = OutOfResources.exit_code if free < LITTLE_DISK else 0
    return Finding("disk", f"{_size(free)} free at {there}{', too little' if code else ''}", code)


def _cache(named: str | None) -> Finding:
    if not named:
        told = "programs are compiled anew in every process: ~/.cache/cicjax cannot be used"
        return Finding("cache", told, note=True)
    path, sizes = Path(named), []
    with suppress(OSError):
        for file in path.iterdir():
            with suppress(OSError):
                sizes.append(file.stat().st_size)
    usable = os.access(path, os.W_OK) or not path.exists()
    told = f"{len(sizes)} files, {_size(sum(sizes))}, in {path}"
    return Finding("cache", told if usable else f"{told}, which cannot be written", note=not usable)


def _sqlite(numbers: Version, name: str) -> Finding:
    if numbers < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        return Finding("SQLite", f"{name} is older than {oldest}; take a newer Python", BadInput.exit_code)
    return Finding("SQLite", name)


def run(path: Path) -> Iterator[Finding]:
    """The state of a run's folder: configuration, lock, environment, steps, files with digests, metrics,
    leftovers, permissions."""
    if not path.is_dir():
        yield Finding("run", f"{path}: no such folder", BadInput.exit_code)
        return
    if not (path / "config.json").exists():
        told = f"{path}: no config.json, so that nothing says what this run was"
        yield Finding("run", f"{told}; restore it from a copy", Corrupted.exit_code)
        return
    yield from _lock(path)
    yield from _checked("config", lambda: _config(path))
    yield from _checked("environment", lambda: _environment(path))
    yield from _steps(path)
    yield from _sealed(path)
    if folder.holder(path) is None:  # else it is at work on them
        yield from _leftovers(path)
    yield from _permissions(path)


def _checked(check: str, look: Any) -> Iterator[Finding]:
    try:
        yield look()
    except (Corrupted, BadInput) as error:
        yield Finding(check, str(error), Corrupted.exit_code)
    except OSError as error:
        yield Finding(check, str(error), BadInput.exit_code)


def _lock(path: Path) -> Iterator[Finding]:
    holder = folder.holder(path)
    if holder is not None:
        told = f"in use by {holder}; what follows may change while it is read"
        yield Finding("lock", told, Locked.exit_code)
    elif not folder.locks_exclude(path):
        told = f"{path}: locks of this file system keep nobody out; never run two commands on this folder"
        yield Finding("lock", told, note=True)
    else:
        yield Finding("lock", "free")


def _config(path: Path) -> Finding:
    config = _object(path / "config.json")
    named = ("objective", "experiment", "scale", "seed", "model_name_or_path")
    said = ", ".join(f"{name} {config[name]}" for name in named if config.get(name) is not None)
    done = "finished" if (path / "results.json").exists() else "not finished: the same command resumes"
    return Finding("run", f"{path}: {said}; {done}", note=not (path / "results.json").exists())


def _object(file: Path) -> dict[str, Any]:
    with strict.place(str(file)):
        return strict.mapping(strict.load(file.read_bytes()), "the file")


def _environment(path: Path) -> Finding:
    if not (path / environment.FILE).exists():
        return Finding("environment", "not recorded", note=True)
    there = _object(path / environment.FILE)
    found = installed()
    differing = [
        f"{name} was {was} and is {found[name]}"
        for name, was in strict.mapping(there.get("versions", {}), "versions").items()
        if name in found and found[name] != was
    ]
    told = "; ".join(differing) or "the versions it was made with"
    return Finding("environment", told, note=bool(differing))


def _steps(path: Path) -> Iterator[Finding]:
    """A line a stage; one for each step that is not as it was written."""
    stages: dict[Path, list[int]] = {}
    for manifest in sorted(_below(path, MANIFEST)):
        if not manifest.parent.name.isdigit():
            continue
        damaged = list(_damaged(manifest))
        if damaged and not manifest.parent.exists():
            continue  # a writer has let go of it meanwhile
        for name in damaged:
            told = f"{manifest.parent}: {name} is not as it was written; the same command goes on before it"
            yield Finding("steps", told, Corrupted.exit_code)
        stages.setdefault(manifest.parents[1], []).append(int(manifest.parent.name))
    for stage, steps in stages.items():
        yield Finding("steps", f"{stage.relative_to(path)}: {', '.join(map(str, sorted(steps)))}")


def _below(path: Path, *patterns: str) -> Iterator[Path]:
    """What has such a name, in a folder where a writer may make and remove folders meanwhile."""
    for where, folders, files in os.walk(path):
        names = (*folders, *files)
        yield from (Path(where, name) for name in names if any(fnmatch(name, each) for each in patterns))


def _damaged(manifest: Path) -> Iterator[str]:
    try:
        seal.read_bytes(manifest)  # the digests of another step would accuse every file beside them
    except (OSError, Corrupted) as error:
        if str(error).startswith(f"{manifest}: "):
            yield manifest.name
            return
    try:
        digests = dict(strict.mapping(strict.load(manifest.read_bytes()), "digests")["files"])
    except (OSError, BadInput, KeyError, TypeError, ValueError):
        yield manifest.name
        return
    for name, digest in digests.items():
        file = manifest.parent / name
        if not file.is_file() or file_digest(file) != digest:
            yield name


def _sealed(path: Path) -> Iterator[Finding]:
    """Every file that the run reads again, against its seal, and metrics.jsonl."""
    try:
        seal.require(path)
        known, faults = seal.read(path)["files"], list(seal.faults(path))
    except Corrupted as error:
        yield Finding("seal", str(error), Corrupted.exit_code)
        return
    yield from (Finding("seal", f"{path / name}: {fault}", Corrupted.exit_code) for name, fault in faults)
    if not faults:
        yield Finding("seal", f"{len(known)} files, as they were written")
    if (path / "metrics.jsonl").exists():
        yield from _checked("metrics", lambda: _metrics(path / "metrics.jsonl"))


def _metrics(path: Path) -> Finding:
    rows = metrics.read_metrics(path)
    skipped = sum(row.get("applied") is False and bool(row.get("live_rows")) for row in rows)
    more = f", {skipped} of them not finite and skipped" if skipped else ""
    return Finding("metrics", f"{len(rows)} updates{more}", note=bool(skipped))


def _leftovers(path: Path) -> Iterator[Finding]:
    left = list(_below(path, *LEFTOVERS))
    if left:
        told = f"{len(left)} left by a kill, such as {left[0].relative_to(path)}"
        yield Finding("leftovers", f"{told}; the same command removes them", note=True)
    aside = sorted(_below(path, "*.damaged"))
    if aside:
        yield Finding("leftovers", f"{aside[0].relative_to(path)} was damaged and set aside", note=True)


def _permissions(path: Path) -> Iterator[Finding]:
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        told = "others may read this folder, which holds transcripts; chmod 700 it where that is not meant"
        yield Finding("permissions", told, note=True)


def _size(size: float) -> str:
    if size < 1 << 20:
        return f"{size / (1 << 10):.1f} KiB"
    return f"{size / (1 << 20):.1f} MiB" if size < 1 << 30 else f"{size / (1 << 30):.1f} GiB"
