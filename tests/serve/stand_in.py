"""What answers in place of an engine: texts that a test has planned, token by token, at a pace that it sets,
while the agent itself learns as ever; and a server around it in a thread of its own."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import contextmanager
from types import SimpleNamespace

import uvicorn

from cicjax.sampling.request import Full, Handle, Request
from cicjax.sampling.request import Piece as P
from cicjax.serve import run
from cicjax.serve.app import build
from cicjax.serve.service import Service


class Planned:
    """`agent.live.Live`, with `plan(messages, version)` in place of a model: a text, or a list of texts and
    names of control tokens."""

    def __init__(
        self, agent, plan: Callable = lambda messages, version: "It is 2.", *, gap: float = 0.0, rows: int = 8
    ):
        self.agent, self.plan, self.gap, self.rows = agent, plan, gap, rows
        self.doing, self.failure, self.cancelled = "idle", None, 0
        self.engine = SimpleNamespace(stats=lambda: {"rows": rows, "rows_busy": self.busy})
        self.busy, self._lock, self._learning = 0, threading.Lock(), threading.Lock()

    def ask(self, messages, *, max_tokens=None, version=None, source="local", notify=None, tools=(), **how):
        with self._lock:
            if self.busy >= self.rows:
                raise Full("no room")
            self.busy += 1
        try:
            decoding = self.agent.decoding(
                temperature=how["temperature"],
                max_new_tokens=max_tokens or self.agent.settings.max_new_tokens,
            )
            begun = self.agent.begin(
                messages, decoding=decoding, source=source, version=version, seed=how["seed"], tools=tools
            )
        except BaseException:
            self.busy -= 1
            raise
        request = Request(
            prompt_ids=tuple(begun.prompt), max_tokens=decoding.max_new_tokens, temperature=how["temperature"]
        )
        handle = Handle(request, notify)
        answer = SimpleNamespace(id=begun.id, version=begun.version, begun=begun, handle=handle)
        ids = self._ids(self.plan(messages, begun.version))[: decoding.max_new_tokens]
        threading.Thread(target=self._draw, args=(handle, ids, how["top_logprobs"]), daemon=True).start()
        return answer

    def _ids(self, plan):
        tokenizer = self.agent.policy.tokenizer
        parts = [plan] if isinstance(plan, str) else plan
        ids = []
        for part in parts:
            ids += [tokenizer.controls[part]] if part in tokenizer.controls else tokenizer.encode(part)
        return [*ids, tokenizer.end_of_text]

    def _draw(self, handle, ids, top):
        tokenizer = self.agent.policy.tokenizer
        for n, (i, text) in enumerate(zip(ids, tokenizer.pieces(ids), strict=True)):
            time.sleep(self.gap)
            if handle.unwanted:
                break
            last = i == tokenizer.end_of_text
            tops = (tuple((i, -0.5 - k) for k in range(top)),)
            reason = "stop" if last else "length" if n == len(ids) - 1 else None
            handle.put(P("" if last else text, (i,), (-0.5,), tops), reason)
        self.cancelled += handle.finish_reason == "cancelled"
        self.busy -= 1

    def finish(self, answer):
        done = answer.handle.completion
        return self.agent.finish(answer.begun, done.ids, done.logprobs, done.finish_reason)

    def observe(self, about, said, **how):
        receipt = self.agent.observe(about, said, **how)
        if receipt.lesson is not None and self.doing == "idle":
            threading.Thread(target=self.learn, kwargs={"due": True}).start()
        return receipt

    def learn(self, *, due=False):
        with self._learning:
            before, self.doing = self.doing, "learning"
            self.agent.learn(due=due)
            self.doing = before

    def serve(self, number, **how):
        with self._learning:
            return _done(self.agent.serve(number, **how))

    def forget(self, source, **how):
        with self._learning:
            return _done(self.agent.forget(source, **how))

    def pause(self):
        self.doing = "paused"

    def resume(self):
        self.doing = "idle"


def _done(result):
    future = Future()
    future.set_result(result)
    return future


@contextmanager
def serving(agent, home, live=None, *, keys=None, hand=None, **how):
    """The address of a server of an agent, and its service."""
    more = {} if hand is None else {"hand": hand}
    service = Service(agent=agent, live=live or Planned(agent), home=home, keys=keys or {}, **more)
    bound = run.listen("127.0.0.1", 0)
    config = uvicorn.Config(build(service, **how), log_level="error", lifespan="off", ws="none")
    server = run._Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield run.address_of(bound), service
    finally:
        service.draining = service.ending = server.should_exit = True
        thread.join(10)
        service.close()
        if isinstance(service.live, Planned):
            service.live.pause()
            with service.live._learning:  # a step under way has ended
                pass
