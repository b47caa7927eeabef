"""What a process of cicjax's own sets before jax is imported: where compiled programs are kept, how memory is
asked for, and what random numbers are drawn by."""

import os
import sys
from contextlib import suppress
from pathlib import Path

from cicjax import signals

GENERATOR = "threefry2x32"
HUGE_PAGES = "glibc.malloc.hugetlb=1"


def prepare() -> None:
    """Pin the generator, keep compiled programs and ask for memory in large pages. What the environment says
    of the last two already stands; nothing here can fail.

    The allocator reads its settings when a process starts, so this one starts once more, under the same
    number and with the same arguments. Call it first of all.
    """
    pin_generator()
    keep_compiled_programs()
    settings = large_pages()
    if settings is not None and sys.executable:
        os.environ["GLIBC_TUNABLES"] = settings
        with signals.held(), suppress(OSError):
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def pin_generator() -> None:
    """Random numbers are a function of the seed alone, whatever the environment asks jax to draw them by."""
    os.environ["JAX_DEFAULT_PRNG_IMPL"] = GENERATOR
    os.environ["JAX_THREEFRY_PARTITIONABLE"] = "1"


def keep_compiled_programs() -> None:
    """A second run of a program compiles nothing: jax writes what it compiled into ~/.cache/cicjax, which is
    nobody else's to write."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(home) / "cicjax" / "compiled"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        private = folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o022
    except OSError:
        return
    if private and os.access(folder, os.W_OK):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def large_pages() -> str | None:
    """What GLIBC_TUNABLES should hold, or None where it says something of its own about pages already or
    there is no glibc.

    A jitted step on a CPU frees its gigabyte of activations and asks for it again a moment later. As pages of
    4 KiB that is 280,000 page faults in a micro-batch of 256 tokens on the 0.5B model, a fifth of its time.
    """
    present = os.environ.get("GLIBC_TUNABLES", "")
    if "hugetlb" in present or not sys.platform.startswith("linux"):
        return None
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return None
    except (ValueError, OSError):
        return None
    return f"{present}:{HUGE_PAGES}" if present else HUGE_PAGES
