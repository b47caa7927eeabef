"""Hosts that work on one run together: they meet, wait for each other, and stop as one.

All of them run the same command and take the same turns. What is written once, the first host writes: `once`.
A process that was not told of others is alone, and everything here is then a plain call. Imports jax only
when there are others.
"""

import contextlib
import glob
import importlib.util
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from cicjax import errors, signals
from cicjax.errors import BadInput, CicjaxError, OutOfResources

Item = TypeVar("Item")
Made = TypeVar("Made")
DEADLINE = 120  # seconds
TPU_PORT = 8476  # jax's own, 8482, is not open between the hosts of a TPU slice
# What is in messages of the collectives, the coordination service and its barriers.
LOST = ("Gloo", "gloo", "arrier", "heartbeat", "oordination", "Socket closed", "onnection closed")
_count, _number = 1, 0
_asked: Any = None  # what hosts said of signals in the turn before


def several() -> bool:
    """Whether other hosts work on this run."""
    return _count > 1


def first() -> bool:
    """Whether this host is the one that writes; true of one that is alone."""
    return _number == 0


def count() -> int:
    """How many hosts there are."""
    return _count


def number() -> int:
    """Which of them this is, from 0 on."""
    return _number


def join(
    *,
    processes: int | None = None,
    process: int | None = None,
    address: str | None = None,
    deadline: float | None = None,
) -> None:
    """Meet the other hosts of this run, if there are any; before jax is asked for a device.

    How many they are, which of them this is and where the first one listens (HOST:PORT) is said here, by a
    TPU slice, by Slurm or by JAX_COORDINATOR_ADDRESS; `processes` 1 is a host alone. Where not all have come
    by the deadline (CICJAX_JOIN_SECONDS, else 120 s), the process ends with a line and BadInput's code.
    Raises BadInput for numbers that do not fit together.
    """
    deadline = float(os.environ.get("CICJAX_JOIN_SECONDS", DEADLINE)) if deadline is None else deadline
    _check(processes, process, address)
    if several() or processes == 1 or not (processes or address or _others_are_likely()):
        return
    import jax

    if not os.environ.get("JAX_COORDINATOR_PORT") and on_tpu():
        os.environ["JAX_COORDINATOR_PORT"] = str(TPU_PORT)
    # Its handler would take SIGTERM away from `signals`; `check` below agrees on when to stop.
    jax.config.update("jax_enable_preemption_service", False)
    with _given_up_after(deadline):
        try:
            jax.distributed.initialize(
                coordinator_address=address,
                num_processes=processes,
                process_id=process,
                local_device_ids=_visible(),
                cluster_detection_method="deactivate" if process is not None and address else None,
                initialization_timeout=int(deadline) + 60,
                shutdown_timeout_seconds=60,
            )
        except ValueError:
            if processes or address:
                raise
            return  # nobody speaks of others
        _settle(jax.process_count(), jax.process_index())


def _check(processes: int | None, process: int | None, address: str | None) -> None:
    if processes is not None and processes < 1:
        raise BadInput(f"--num_processes is 1 or more, not {processes}")
    if process is not None and not (processes and 0 <= process < processes):
        raise BadInput(f"--process_id is from 0 to --num_processes - 1, not {process} of {processes}")
    if address is not None and not address.rpartition(":")[2].isdigit():
        raise BadInput(f"--coordinator_address is HOST:PORT, not {errors.shorten(address)}")


def _settle(count: int, number: int) -> None:
    global _count, _number
    _count, _number = count, number
    if several():
        signals.leave_to_others()
        sys.stdout.flush()
        if first():
            _keep_standard_output()
        else:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _keep_standard_output() -> None:
    """Let what libraries print of hosts, as Gloo does, go to standard error: results may be JSON lines."""
    before, own = sys.stdout, os.dup(1)
    os.dup2(2, 1)
    sys.stdout = open(  # noqa: SIM115
        own, "w", encoding=before.encoding, errors=before.errors, buffering=1 if before.isatty() else -1
    )


def on_tpu() -> bool:
    """Whether this machine has TPU chips and jax is to use them."""
    there = glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")
    wanted = "tpu" in os.environ.get("JAX_PLATFORMS", "tpu")
    return bool(there and wanted and importlib.util.find_spec("libtpu"))


def _others_are_likely() -> bool:
    environment = os.environ
    slurm = "SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS", "1")) > 1
    return slurm or "JAX_COORDINATOR_ADDRESS" in environment or on_tpu()


def _visible() -> list[int] | None:
    """All GPUs of the node, where Slurm starts one process a node: jax would take the first alone. None
    leaves it to jax: of one process a GPU each has its own."""
    tasks, nodes = (os.environ.get(name) for name in ("SLURM_NTASKS", "SLURM_STEP_NUM_NODES"))
    if tasks is None or tasks != nodes:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return list(range(len(visible.split(",") if visible else glob.glob("/dev/nvidia[0-9]*")))) or None


@contextlib.contextmanager
def _given_up_after(deadline: float) -> Iterator[None]:
    """End the process with a line when the deadline passes inside: jax would end it with a stack trace,
    which nothing in Python can catch."""

    def give_up() -> None:
        line = (
            f"cicjax: error: after {deadline:g} s not every host had come; run the same command on every "
            "host, as scripts/tpu_vm.sh run does, or give --num_processes 1 for this one alone\n"
        )
        os.write(2, line.encode())
        os._exit(BadInput.exit_code)

    timer = threading.Timer(deadline, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def losses() -> Iterator[None]:
    """Raise OutOfResources, with a line, for what jax says when another host is gone. Where jax hears of it
    while it waits itself, it ends this process with words of its own."""
    try:
        yield
    except CicjaxError:
        raise
    except Exception as error:
        if not several() or not any(word in str(error) for word in LOST):
            raise
        raise OutOfResources(
            "another host of this run is gone; when all have ended, run the same command on every host again"
        ) from error


@contextlib.contextmanager
def parting() -> Iterator[Callable[[int], int]]:
    """Gives a function that passes an exit code on, and where it tells of a failure ends the process at once:
    jax would wait for the others first, and they for this one."""

    def leave(code: int) -> int:
        if several() and 0 < code < 128:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return code

    try:
        yield leave
    except Exception:
        if several():
            traceback.print_exc()
            leave(1)
        raise


def barrier(name: str) -> None:
    """Wait until every host has come here."""
    if several():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def tell(text: str = "") -> str:
    """The first host's text, on every host."""
    if not several():
        return text
    import numpy as np
    from jax.experimental import multihost_utils

    content = text.encode() if first() else b""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    if not size:
        return ""
    padded = np.zeros(1 << (size - 1).bit_length(), np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(padded))[:size].tobytes().decode()


def largest(value: int) -> int:
    """The largest of what the hosts say."""
    if not several():
        return value
    import numpy as np
    from jax.experimental import multihost_utils

    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def share(items: Sequence[Item], work: Callable[[int, Sequence[Item]], Sequence[Made]]) -> list[Made]:
    """What `work(first, part)` makes of every part of the items, in their order and on every host: each host
    does one part, of which `first` is the number of the first item. What is made is JSON or NumPy's numbers;
    between hosts tuples become lists."""
    if not several():
        return list(work(0, items)) if items else []
    size = -(-len(items) // count())
    first = min(number() * size, len(items))
    part = items[first : first + size]
    made = json.dumps(list(work(first, part)) if part else [], default=lambda value: value.item()).encode()
    return [each for content in _gathered(made) for each in json.loads(content)]


def _gathered(content: bytes) -> list[bytes]:
    """Every host's bytes, in order."""
    import numpy as np
    from jax.experimental import multihost_utils

    sizes = np.asarray(multihost_utils.process_allgather(np.int32(len(content)))).reshape(-1)
    padded = np.zeros(1 << int(sizes.max() - 1).bit_length(), np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [row[:size].tobytes() for row, size in zip(rows, sizes.tolist(), strict=True)]


def soon(seen: Callable[[], bool], *, seconds: float = 30.0) -> bool:
    """Whether something that another host wrote can be seen: on a file system over a network, some seconds
    later."""
    until = time.monotonic() + seconds
    while not seen():
        if not several() or time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def once(action: Callable[[], Any]) -> None:
    """Let the first host do this when all have come here; go on when it is done. What it raises, all
    raise."""
    if not several():
        action()
        return
    barrier("once")
    failure: BaseException | None = None
    if first():
        try:
            action()
        except Exception as error:
            failure = error
    told = tell(json.dumps([type(failure).__name__, str(failure)]) if failure else "")
    if failure:
        raise failure
    if told:
        name, message = json.loads(told)
        kind = getattr(errors, name, CicjaxError)
        raise kind(message)


def check() -> None:
    """Raise signals.Stopped where a signal has asked any host to end: on all hosts in the same turn, the one
    after they have heard of it. Call it where `signals.check` may be called, on every host as often."""
    global _asked
    if not several():
        signals.check()
        return
    before, _asked = _asked, _ask(signals.received())
    if before is not None and (wish := int(before)):
        raise signals.Stopped(wish)


def _ask(value: int) -> Any:
    """The largest of what the hosts say, as an array that need not be there yet: nobody waits."""
    import jax
    import numpy as np

    from cicjax.devices import mesh

    devices = mesh.everywhere()
    said = jax.make_array_from_callback(
        (devices.count,), devices.row_sharding(), lambda index: np.full(1, value, np.int32)
    )
    return devices.each(
        _largest, static={"axis": devices.axis}, whole={}, rows={"said": said}, gives="whole"
    ).run()


def _largest(said: Any, *, axis: str) -> Any:
    import jax

    return jax.lax.pmax(said[0], axis)
