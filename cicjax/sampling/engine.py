"""An engine: rows that come and go, one token of all of them at a time, and learning in between.

A round is: admit who waits, at most one chunk of a prompt, one token of every row, hand on what is certain,
and at most one slice of learning where its share allows. The device's programs are four, whatever is asked,
and their shapes never change: a row's answer does not depend on who else is answered, and a greedy one is the
same to the last bit.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cicjax.devices import mesh
from cicjax.errors import Corrupted, OutOfResources
from cicjax.model import bank as banks
from cicjax.model import layout, limits, ops, qwen2
from cicjax.model.config import Tree
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.sampling import serving
from cicjax.sampling.decode import caches_of
from cicjax.sampling.draw import row_keys
from cicjax.sampling.request import Full, Handle, Request
from cicjax.sampling.rows import Row
from cicjax.sampling.sampler import bucket
from cicjax.sampling.slots import Slots
from cicjax.sampling.watch import Watch

QUEUE = 64
SHARE = 0.25  # of the device's time that learning may take while somebody waits
STAGE = "act"


class Engine:
    """Answers requests by one base and a bank of adapters. `submit`, `load` and `drop` may be called from any
    thread; `step`, or `run` in a thread of its own, does the work.

    `rows` answers at once, each of at most `length` tokens with its prompt, and `spare` rows beside them for
    what is asked in the background; `slots` versions beside the bare base. What is drawn follows from `seed`
    and the request alone, as in `Agent.act`. `learn` takes one slice of learning and says whether there was
    one. Raises OutOfResources where the rows cannot fit.
    """

    def __init__(
        self,
        model: qwen2.Model,
        base: Tree,
        tokenizer: Tokenizer,
        *,
        rows: int = 16,
        spare: int = 0,
        slots: int = 4,
        length: int = 1024,
        seed: int = 0,
        share: float = SHARE,
        learn: Callable[[], bool] | None = None,
    ) -> None:
        device = mesh.row((mesh.own(base).mesh.devices.flat[0],))
        self._base = layout.prepare(device.whole(base), model.kind.sampling)
        self._model, self._tokenizer, self._seed = model, tokenizer, seed
        self.length = min(bucket(length, serving.CHUNK), model.config.max_position_embeddings)
        self._wanted, self._count, self._share, self._learn = rows, rows + spare, share, learn
        self._check_memory(self._count)
        dtype = ops.table_of(self._base["embed_tokens"]["embedding"]).dtype
        self._slots = Slots(slots if model.lora else 0)
        self._static = {"model": model, "slots": slots}
        self._bank = banks.empty(model.config, model.lora, slots=slots, dtype=dtype) if model.lora else None
        room = bucket(self.length, serving.CHUNK)
        self._caches = device.whole(caches_of(model, self._base, self._count, room))
        self._rows, self._queue, self._later = list[Row](), deque[Row](), deque[Row]()
        self._writes = deque[tuple[Tree, int]]()
        self._changed = threading.Condition()
        self._closed = self._woken = self._warm = False
        self._owed = 0.0  # seconds that the device owes to answers before the next slice
        self.watch = Watch()

    def _check_memory(self, rows: int) -> None:
        need = limits.sampling_need(
            self._model, self._base, prompts=1, length=self.length, rows=rows, steps=0
        )
        limits.check_memory(
            self._model, need, row=f"{rows} rows", tokens=self.length, change="take fewer or shorter rows"
        )

    # From any thread

    def check(self, request: Request) -> None:
        """What `submit` refuses: BadInput for what cannot be answered, Full where too many wait."""
        request.check(length=self.length, vocab_size=self._model.config.vocab_size)
        if len(self._queue) >= QUEUE and not request.background:
            raise Full(f"{QUEUE} requests wait already; try again")

    def submit(self, request: Request, *, notify: Callable[[], None] | None = None) -> Handle:
        """Let a request wait for a row. Raises Full where too many wait, BadInput for what cannot be
        answered."""
        self.check(request)
        key = row_keys(self._seed, STAGE, [request.seed], [request.sample])[0]
        handle = Handle(request, notify)
        with self._changed:
            if self._closed:
                raise OutOfResources("the engine is closed")
            self.check(request)  # others may have come in between
            slot = self._slots.enter(request.version)
            queue = self._later if request.background else self._queue
            queue.append(Row(handle, self._tokenizer, slot, key))
            self.wake()
        return handle

    def load(self, version: int, adapter: Tree) -> None:
        """Let a version be asked from now on: in the slot that was left alone longest. Raises Full where
        every slot answers somebody, BadInput or Corrupted for an adapter that cannot serve."""
        assert self._model.lora is not None
        adapter = banks.fitting(self._model.config, self._model.lora, adapter)
        with self._changed:
            slot = self._slots.place(version)
            if slot is not None:
                self._writes.append((adapter, slot))
            self.wake()

    def drop(self, version: int) -> None:
        """Let nobody ask a version any more; answers under way end as they began."""
        with self._changed:
            self._slots.drop(version)

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions that may be asked."""
        with self._changed:
            return self._slots.versions

    def wake(self) -> None:
        """There is something to do, for `run`: also something to learn, after a `learn` that had nothing."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def close(self) -> None:
        """Let `run` end after the round it is in; answers under way end as cancelled."""
        with self._changed:
            self._closed = True
            self.wake()

    def stats(self) -> dict[str, Any]:
        """What an operator asks, as JSON."""
        with self._changed:
            busy, beside = len(self._rows), sum(row.background for row in self._rows)
            queue, later, versions = len(self._queue), len(self._later), self._slots.versions
        return {
            "rows": self._wanted,
            "rows_busy": busy,
            "queue": queue,
            "background": later + beside,
            "versions": list(versions),
            **self.watch.record(),
        }

    # From the thread that runs it

    def warm_up(self) -> None:
        """Run every program once, before the first round, so that none is compiled while somebody waits."""
        if self._warm:
            return
        nobody = serving.no_inputs(self._count)
        row_keys(self._seed, STAGE, [0], [0])
        self._draw(nobody)
        self._draw(nobody._replace(with_top=np.bool_(True)))
        self._fill(np.zeros(serving.CHUNK, np.int32), row=0, start=0, slot=-1)
        self._copy(0, 0)
        if self._bank is not None:
            lora = self._model.lora
            assert lora is not None
            zeros = banks.nothing(self._model.config, lora)
            self._bank = banks.write(self._bank, zeros, np.int32(0))
        self._warm = True

    def run(self) -> None:
        """Go on until it is closed."""
        try:
            self.warm_up()
            while not self._closed:
                self._woken = False
                if not self.step():
                    with self._changed:
                        self._changed.wait_for(lambda: self._woken)
        except BaseException as error:
            for row in self._emptied():
                row.handle.fail(error)
            raise
        for row in self._emptied():
            row.handle.put(None, "cancelled")

    def step(self) -> bool:
        """One round; whether there was anything to do."""
        began, self._warm = time.monotonic(), True
        self._admit()
        worked = self._prefill()
        worked = self._next_tokens() or worked
        if worked:
            self._owed -= time.monotonic() - began
        return self._slice() or worked

    def _admit(self) -> None:
        """Bank slots are written, rows whose answer nobody wants leave, those who wait come in."""
        while True:
            with self._changed:
                if not self._writes:
                    break
                adapter, slot = self._writes.popleft()
            self._bank = banks.write(self._bank, adapter, np.int32(slot))
        for row in [row for row in self._rows if row.handle.unwanted]:
            self._leave(row)
        with self._changed:
            for queue in (self._queue, self._later):
                for row in [row for row in queue if row.handle.unwanted]:
                    queue.remove(row)
                    self._slots.leave(row.slot)
            free = sorted(set(range(self._count)) - {row.place for row in self._rows})
            left = self._wanted - sum(not row.background for row in self._rows)
            while self._queue and left > 0 and (free or self._give_back(free)):
                self._enter(self._queue.popleft(), free)
                left -= 1
            while self._later and free:
                self._enter(self._later.popleft(), free)

    def _enter(self, row: Row, free: list[int]) -> None:
        row.place = free.pop(0)
        self._rows.append(row)

    def _give_back(self, free: list[int]) -> bool:
        """Take a row from what is done in the background, which begins anew another time."""
        row = next((row for row in reversed(self._rows) if row.background), None)
        if row is None:
            return False
        self._rows.remove(row)
        free.append(row.place)
        row.restart()
        self._later.appendleft(row)
        return True

    def _leave(self, row: Row) -> None:
        with self._changed:
            self._rows.remove(row)
            self._slots.leave(row.slot)

    def _prefill(self, *, background: bool = False) -> bool:
        """One chunk of the oldest prompt that is not in its cache; one that another row holds is copied."""
        for number, row in enumerate(self._rows):
            if row.ready or row.background != background:
                continue
            twin = next((each for each in self._rows[:number] if each.same_prompt(row)), None)
            if twin is None:
                self._fill(row.chunk(), row=row.place, start=row.filled, slot=row.slot)
                row.filled = min(row.filled + serving.CHUNK, row.to_fill)
                return True
            if twin.ready:  # otherwise it will be, and is copied then
                self._copy(twin.place, row.place)
                row.filled = row.to_fill
                return True
        return False

    def _next_tokens(self) -> bool:
        """One token of every row whose prompt is in its cache."""
        ready = [row for row in self._rows if row.ready]
        if not ready:
            return False
        inputs = serving.no_inputs(self._count)
        for row in self._rows:
            row.put_into(inputs)
        with_top = any(row.request.top_logprobs for row in ready)
        drawn = self._draw(inputs._replace(with_top=np.bool_(with_top)))
        now = time.monotonic()
        self.watch.round(gate=any(row.background for row in ready))
        for row in ready:
            if not row.background:
                self.watch.token(now - (row.told or row.asked), first=not row.told)
            try:
                ended = row.take(drawn, now)
            except Corrupted as error:
                row.handle.fail(error)
                ended = True
            if ended:
                self._leave(row)
        self.watch.told()
        return True

    def _slice(self) -> bool:
        """One slice of learning, or one chunk of what is asked in the background, where their share
        allows."""
        if (self._queue or not all(row.background for row in self._rows)) and self._owed > 0:
            return False
        began = time.monotonic()
        asked = self._prefill(background=True)
        if not asked and not (self._learn is not None and self._learn()):
            return False
        seconds = time.monotonic() - began
        self.watch.slice(seconds, gate=asked)
        self._owed = seconds * (1 / self._share - 1)
        return True

    def _emptied(self) -> list[Row]:
        """Close it, and give the answers that were under way."""
        with self._changed:
            self._closed = True
            rows = [*self._rows, *self._queue, *self._later]
            for each in (self._rows, self._queue, self._later):
                each.clear()
            return rows

    # The device

    def _draw(self, inputs: serving.Inputs) -> serving.Drawn:
        self._caches, drawn = serving.next_tokens(
            base=self._base, bank=self._bank, caches=self._caches, rows=inputs, **self._static
        )
        return jax.device_get(drawn)

    def _fill(self, tokens: np.ndarray, *, row: int, start: int, slot: int) -> None:
        numbers = {"row": np.int32(row), "start": np.int32(start), "slot": np.int32(slot)}
        self._caches = serving.prefill_row(
            base=self._base, bank=self._bank, caches=self._caches, tokens=tokens, **numbers, **self._static
        )
        jax.block_until_ready(self._caches)  # whoever measures a round measures its work

    def _copy(self, source: int, row: int) -> None:
        self._caches = serving.copy_row(self._model, self._caches, np.int32(source), np.int32(row))
