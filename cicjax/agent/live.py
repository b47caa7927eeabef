"""An agent in use: it answers and learns at once, on one device.

One thread runs the engine, another learns, by slices that the engine lends it (`slices`). A version that is
promoted is written into a free slot of the engine's bank; answers that were begun end with the version they
began with. A gate's problems are answered by the engine too, in rows that nobody wants and a few of its own.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from cicjax.agent.acting import Begun, read_attempt
from cicjax.agent.continual import Agent
from cicjax.agent.events import Attempt, Receipt
from cicjax.agent.observing import Said
from cicjax.agent.slices import Closed, Slices
from cicjax.agent.trust import OPERATOR
from cicjax.agent.versions import FORGOTTEN, Version
from cicjax.errors import BadInput
from cicjax.sampling.engine import SHARE, Engine
from cicjax.sampling.request import Full, Handle, Request
from cicjax.sampling.sampler import Completion, Decode, Decoding
from cicjax.signals import Stopped

RETRY = 0.05  # seconds until a full bank is asked again
GATE = "gate"
SPARE = 2  # rows that a gate has for itself, so that it ends while every other is taken


@dataclass(frozen=True)
class Answer:
    """An answer that was begun, and as it comes."""

    begun: Begun
    handle: Handle

    @property
    def id(self) -> str:
        """The receipt."""
        return self.begun.id

    @property
    def version(self) -> int:
        """The version that answers, from the first token to the last."""
        return self.begun.version


class Live:
    """`with Live(agent) as live:` answers and learns in threads of its own until the block ends. Every method
    may be called from any thread.

    `rows` answers at once, each of `length` tokens with its prompt; `share` of the device's time is for
    learning while somebody waits, all of it otherwise. Raises BadInput where the gate's problems do not fit.
    """

    def __init__(
        self, agent: Agent, *, rows: int = 8, slots: int = 4, length: int = 1024, share: float = SHARE
    ) -> None:
        self.agent = agent
        policy, seed = agent.policy, agent.settings.seed
        need = agent.steps.gate_length()
        if need > length:
            raise BadInput(
                f"the gate's problems take {need} tokens with their answers, and a row holds {length}; "
                "make it longer (--max_length)"
            )
        self.failure: BaseException | None = None
        self._slices = Slices(lambda: self.engine.wake())
        self.engine = Engine(
            policy.model,
            policy.base,
            policy.tokenizer,
            rows=rows,
            spare=SPARE if agent.settings.gate.problems else 0,
            slots=slots,
            length=length,
            seed=seed,
            share=share,
            learn=self._slices,
        )
        self.engine.warm_up()
        agent.steps.states.warm_up()
        self._ready(agent.history.serving)
        agent.steps.sampler = lambda number: _Beside(self, number)
        self._jobs = deque[tuple[Callable[[], Any], Future]]()
        self._asked = self._closed = self._over = False
        self._due = True  # a step may have fallen due before, or a plan have been left
        self._changed = threading.Condition()
        self._doing = "idle"
        self._threads = (
            threading.Thread(target=self._answer, name="engine"),
            threading.Thread(target=self._work, name="learner"),
        )
        for thread in self._threads:
            thread.start()

    # Answers

    def ask(
        self,
        messages: Any,
        *,
        max_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        sample: int = 0,
        stops: Sequence[str] = (),
        top_logprobs: int = 0,
        version: int | None = None,
        source: str = OPERATOR,
        idempotency: str | None = None,
        tools: Sequence[dict[str, Any]] = (),
        notify: Callable[[], None] | None = None,
    ) -> Answer:
        """Begin an answer by the serving version, or by another. What it draws is what `Agent.act` would.

        Raises Full where there is no room and BadInput for what cannot be answered; nothing is begun then.
        """
        how = self.agent.decoding(temperature=temperature, max_new_tokens=max_tokens)
        how = replace(how, top_p=top_p, stop_strings=(*how.stop_strings, *stops))
        number = self.agent.history.serving if version is None else version
        self._ready(self.agent.history.version(number).number)

        facts = {"sample": sample, "version": number, "top_logprobs": top_logprobs, "source": source}

        def request(prompt: Sequence[int], seed: int) -> Request:
            room = how.max_new_tokens if max_tokens else self.engine.length - len(prompt)
            return _request(prompt, how, room=room, seed=seed, **facts)

        begun = self.agent.begin(
            messages,
            decoding=how,
            source=source,
            version=number,
            seed=seed,
            idempotency=idempotency,
            tools=tools,
            check=lambda prompt: self.engine.check(request(prompt, seed or 0)),
        )
        return Answer(begun, self.engine.submit(request(begun.prompt, begun.seed), notify=notify))

    def finish(self, answer: Answer) -> Attempt:
        """Log what was delivered. Call it before anybody hears of the end, and where nobody will."""
        done = answer.handle.completion
        if not done.ids:  # nobody saw a word of it: as if it had never ended
            content = {"text": "", "tokens": [], "logprobs": []}
            return read_attempt(answer.begun.event, content, done.finish_reason)
        return self.agent.finish(answer.begun, done.ids, done.logprobs, done.finish_reason)

    def _ready(self, version: int) -> None:
        """Have a version in the bank that can serve. Raises Full where every slot answers somebody, BadInput
        for one that is not on disk: making it again is the learning thread's."""
        self.agent.servable(version)
        here = version in self.engine.versions or self.agent.steps.states.here(version)
        if version != self.agent.history.serving and not here:
            raise BadInput(f"version {version} did not stay on disk; let it serve, and it is made again")
        self._load(version)

    def _load(self, version: int) -> None:
        if version not in self.engine.versions:
            self.engine.load(version, self.agent.steps.adapter(version))

    # What is learned

    def observe(
        self, about: str | None, said: Said, *, source: str = OPERATOR, idempotency: str | None = None
    ) -> Receipt:
        """What a source says about an answer, as `Agent.observe`; the step that falls due by it begins."""
        receipt = self.agent.observe(about, said, source=source, idempotency=idempotency)
        if receipt.lesson is not None:
            self._look()
        return receipt

    def learn(self) -> None:
        """Let all lessons that wait now be learned, in a smaller step too."""
        with self._changed:
            self._asked = True
        self._look()

    def pause(self) -> None:
        """Learn nothing until `resume`; a step that was begun waits where it is, unless a person decides
        something, for which it has to end."""
        self._slices.hold(True)

    def resume(self) -> None:
        """Learn again, also after a failure."""
        self.failure = None
        self._slices.hold(False)
        self._look()

    @property
    def doing(self) -> str:
        """ "idle", "learning", "gate", "paused" or "failed"."""
        return "failed" if self.failure else "paused" if self._slices.held else self._doing

    def status(self) -> dict[str, Any]:
        """The agent's and the engine's, as JSON."""
        with self.agent.store.held():
            status = self.agent.status()
        return status | {"doing": self.doing, "engine": self.engine.stats()}

    # What a person decides, between two steps

    def serve(self, number: int, *, reason: str = "", confirm: bool = False) -> Future[Version]:
        """Let this version serve; done when the step under way has ended."""
        return self._between(lambda: self.agent.serve(number, reason=reason, confirm=confirm))

    def rollback(self) -> Future[Version]:
        """Let the version before the serving one serve; done when the step under way has ended."""
        return self._between(self.agent.rollback)

    def forget(self, source: str, *, erase: bool = False) -> Future[list[Version]]:
        """Forget a source, and learn the others' lessons since again."""
        pause = self._slices.pause
        return self._between(lambda: self.agent.forget(source, erase=erase, pause=pause))

    def _between(self, job: Callable[[], Any]) -> Future:
        future: Future = Future()
        with self._changed:
            if self._over:
                future.cancel()
                return future
            self._jobs.append((job, future))
        self._slices.hurry(1)
        self._look()
        return future

    # Its threads

    def _answer(self) -> None:
        try:
            self.engine.run()
        except BaseException as error:
            self.failure = error
        finally:
            self._slices.close()

    def _look(self) -> None:
        with self._changed:
            self._due = True
            self._changed.notify_all()

    def _work(self) -> None:
        try:
            self._work_when_due()
        finally:
            with self._changed:
                self._over = True
                for _, future in self._jobs:
                    future.cancel()

    def _work_when_due(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._due or self._closed)
                if self._closed:
                    return
                self._due = False
            try:
                with self._slices.turn():
                    self._step_by_step()
            except (Closed, Stopped):
                return
            except BaseException as error:
                self.failure = error
            finally:
                self._doing = "idle"

    def _step_by_step(self) -> None:
        """Jobs and steps, one after another, until there are none."""
        while True:
            self._run_jobs()
            if self.failure is not None or self._slices.held:
                return
            with self._changed:
                asked, self._asked = self._asked, False
            made = False
            for _ in self.agent.learning(due=not asked, pause=self._pause):
                made = True
                self._promoted()
                self._run_jobs()
            if not made and not asked:
                return

    def _pause(self) -> None:
        self._doing = "learning"
        self._slices.pause()

    def _run_jobs(self) -> None:
        while self._jobs:
            job, future = self._jobs.popleft()
            try:
                result = job()
            except BaseException as error:
                future.set_exception(error)
                if not isinstance(error, Exception):
                    raise
            else:
                self._promoted()
                future.set_result(result)
            finally:
                self._slices.hurry(-1)

    def _promoted(self) -> None:
        """Have the version that serves now in the bank, and none that was forgotten."""
        for number in self.engine.versions:
            if self.agent.history.version(number).state == FORGOTTEN:
                self.engine.drop(number)
        self.have(self.agent.history.serving)

    def have(self, version: int) -> None:
        """For the learning thread, which waits, without its turn, while the bank is full: have a version in
        the bank, also one that nobody but the gate may ask yet."""
        while True:
            try:
                return self._load(version)
            except Full:
                with self._slices.elsewhere(), self._changed:
                    self._changed.wait(RETRY)

    def in_background(self, requests: Sequence[Request]) -> list[Any]:
        """The answers to a gate's problems; for the learning thread."""
        self._doing = GATE
        handles = [self.engine.submit(request) for request in requests]
        try:
            with self._slices.elsewhere():
                for handle in handles:
                    for _ in handle:
                        pass
        finally:
            for handle in handles:
                handle.cancel()
        return [handle.completion for handle in handles]

    def close(self) -> None:
        """End both threads: answers under way end as cancelled, a slice under way is dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._slices.close()
        self.engine.close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _request(prompt: Sequence[int], how: Decoding, *, room: int, **facts: Any) -> Request:
    """What an engine is asked: an answer drawn like this, of at most `room` tokens."""
    return Request(
        prompt_ids=tuple(prompt),
        max_tokens=min(how.max_new_tokens, max(room, 1)),
        temperature=how.temperature,
        top_p=how.top_p,
        stops=how.stop_strings,
        stop_ids=how.stop_ids,
        **facts,
    )


@dataclass(frozen=True)
class _Beside:
    """A version as the gate asks it, answered by the engine beside everybody else."""

    live: Live
    version: int

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Any,
        decoding: Decoding,
        *,
        decode: Decode | None = None,
    ) -> list[Completion]:
        """Greedy answers, which no key has a part in."""
        assert decoding.temperature == 0
        self.live.have(self.version)
        facts = {"version": self.version, "source": GATE, "background": True}
        room = decoding.max_new_tokens
        requests = [_request(prompt, decoding, room=room, **facts) for prompt in prompts]
        answers = self.live.in_background(requests)
        return [Completion(each.ids, each.logprobs, each.finish_reason) for each in answers]
