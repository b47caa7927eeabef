"""Model folders as files: safetensors and JSON of others read with suspicion, new folders written whole or
not at all.

Reads data and nothing else: no pickle, no code of the folder. What the tensors mean is left to `huggingface`
and `peft`.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from cicjax.errors import BadInput, OutOfResources, shorten
from cicjax.files import strict
from cicjax.files.whole import PARTIAL, check_space, hold, permit, sweep_beside, sync, unfinished

MAX_CONFIG_BYTES, MAX_HEADER_BYTES = 1 << 20, 1 << 25
_SMALL_FILES = 65_536  # configuration, card, and what file systems round up
CARD = "README.md"


class Fields(NamedTuple):
    """A parsed JSON file of settings, with the path that every complaint names. A field that is null counts
    as absent."""

    path: Path
    values: dict[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        """The value as it is, unchecked; `default` where it is absent."""
        value = self.values.get(name)
        return default if value is None else value

    def count(self, name: str, *, default: int | None = None) -> int:
        """A whole number from 1 to 2**31 - 1. Raises BadInput for anything else, and where it is absent
        without a default."""
        value = self.get(name, default)
        if type(value) is not int or not 0 < value < 2**31:
            raise self.refusal(f"{name} must be a whole number above 0, not {shorten(value)}")
        return value

    def positive(self, name: str, *, default: float | None = None, most: float = sys.float_info.max) -> float:
        """A finite number above 0 and at most `most`, as a float. Raises BadInput for anything else, and
        where it is absent without a default."""
        value = self.get(name, default)
        if type(value) not in (int, float) or not 0 < value <= most:
            limit = "" if most == sys.float_info.max else f" and at most {most:g}"
            raise self.refusal(f"{name} must be a number above 0{limit}, not {shorten(value)}")
        return float(value)

    def refusal(self, reason: str) -> BadInput:
        """The BadInput, to be raised, that says `reason` of this file."""
        return BadInput(f"{self.path}: {reason}")


class StoredTensor(NamedTuple):
    """A tensor inside an open safetensors file; its values are read when asked for."""

    file: Path
    handle: Any
    name: str

    def shape(self) -> tuple[int, ...]:
        """Its shape by the file's header, in the file's layout; a kernel is (out, in) there."""
        return tuple(self.handle.get_slice(self.name).get_shape())

    def dtype(self) -> str:
        """Its dtype by the file's header, as safetensors spells it: BF16, F32 and so on."""
        return self.handle.get_slice(self.name).get_dtype()

    def read(self) -> np.ndarray:
        """Its values, of that shape and dtype. Raises BadInput where the file is cut short or cannot be
        read."""
        with reading(self.file):
            return self.handle.get_tensor(self.name)


def open_tensors(files: Iterable[Path], opened: ExitStack) -> dict[str, StoredTensor]:
    """The tensors of safetensors files by name, readable until `opened` closes. Raises BadInput for a damaged
    file, before it is read."""
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        _check_header(file)
        with reading(file):
            # Reading by pread keeps the file's pages out of this process's memory.
            handle = opened.enter_context(safe_open(file, framework="np", backend="pread"))
        for name in handle.keys():  # noqa: SIM118 (not a dictionary)
            if name in tensors:
                raise BadInput(
                    f"{file}: {shorten(name)} is also in {tensors[name].file.name}; "
                    "a tensor belongs in one file"
                )
            tensors[name] = StoredTensor(file, handle, name)
    return tensors


def _check_header(file: Path) -> None:
    """A safetensors file begins with the length of its header in 8 bytes, little-endian."""
    with reading(file), open(file, "rb") as stream:
        size, length = os.fstat(stream.fileno()).st_size, int.from_bytes(stream.read(8), "little")
    if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
        raise BadInput(
            f"{file}: cut short or no safetensors file (a header of {length:,} bytes in a file "
            f"of {size:,}); fetch it again"
        )


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """What goes wrong with `file` inside is BadInput, in one line."""
    try:
        yield
    except SafetensorError as error:
        raise BadInput(f"{file}: cut short or damaged ({str(error)[:200]}); fetch it again") from None
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror or error}") from None


def read_json(path: Path, *, limit: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
    """The object in a JSON file of others. Raises BadInput for what is no strict JSON, or larger than `limit`
    bytes."""
    with reading(path), open(path, "rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise BadInput(f"{path}: larger than {limit:,} bytes, which no such file is")
    try:
        return strict.mapping(strict.load(content), "the file")
    except BadInput as error:
        raise BadInput(f"{path}: {error}; fetch it again") from None


def refuse_existing(folder: str | Path) -> None:
    """Raise BadInput if there is anything of that name, a link that leads nowhere included."""
    if os.path.lexists(folder):
        raise BadInput(f"{folder}: exists already, and nothing is replaced; name a new folder")


@contextmanager
def new_folder(folder: str | Path, *, need: int) -> Iterator[Path]:
    """A folder to fill. It gets its name when the block ends: whole and on disk, or not at all. What a kill
    left of an earlier try goes first.

    Raises BadInput if there is anything of that name, OutOfResources where the disk has not `need` bytes to
    give, or safetensors cannot write.
    """
    refuse_existing(folder)
    target = Path(os.path.abspath(folder))
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep_beside(target)
    check_space(target, need)
    beside = unfinished(target, PARTIAL)
    beside.mkdir()
    descriptor = os.open(beside, os.O_RDONLY | os.O_CLOEXEC)
    try:
        hold(descriptor)
        yield beside
        # A rename may outlive a power cut that the bytes do not, so they go to the disk first.
        for path in [*beside.iterdir(), beside]:
            sync(path)
        refuse_existing(folder)
        os.rename(beside, target)
        sync(target.parent)
    except SafetensorError as error:
        raise OutOfResources(
            f"{folder}: the weights could not be written ({error}); free some space"
        ) from None
    finally:
        os.close(descriptor)
        shutil.rmtree(beside, ignore_errors=True)


def bytes_of(tensors: Mapping[str, np.ndarray], files: Iterable[Path] = ()) -> int:
    """About as many bytes as a folder with these tensors, and copies of these files, takes."""
    sizes = [each.nbytes for each in tensors.values()] + [file.stat().st_size for file in files]
    return sum(sizes) + _SMALL_FILES


def all_finite(array: np.ndarray) -> bool:
    """Whether no entry is nan or infinite, by the bits of the exponent: NumPy takes ten times as long over
    bfloat16."""
    array = np.ascontiguousarray(array)
    exponent = np.array(np.inf, array.dtype).view(f"u{array.itemsize}")
    return not ((array.view(exponent.dtype) & exponent) == exponent).any()


def write_tensors(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """A safetensors file in torch's convention, with the permissions of any other new file."""
    file.touch()
    mode = file.stat().st_mode
    # No further metadata: safetensors writes two and more in any order, and equal tensors would not give
    # equal files.
    save_file(dict(tensors), file, metadata={"format": "pt"})
    permit(file, mode)  # safetensors leaves it readable by its owner alone


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Indented JSON with a final newline, into a folder that is not there yet for others."""
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
