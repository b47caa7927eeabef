#!/usr/bin/env python
"""An agent in use, measured from outside: `cicjax serve` in a process of its own, asked and taught over HTTP.

    scripts/in_use.py crowd --clients 8 --seconds 60 --json FILE      many at once, half of them streaming
    scripts/in_use.py sitting --problems 60 --json FILE               one after another, then the log rebuilt
    scripts/in_use.py sitting --model DIR ...                         on real weights

A crowd asks the exercises of section 2.1, leaves 3 of 10 streams in the middle, corrects 4 of 10 answers
after the first quarter, and goes back a version while answers are under way, once the gate has promoted
three. A sitting asks each problem once, says whether the answer was right, and gives the solution where it
was wrong; what waits at the end is learned, the server is ended by SIGTERM, every byte of its home is
verified and every version made again from the log.
"""

import argparse
import json
import os
import platform
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai

from cicjax.agent import gate
from cicjax.agent.home import Home
from cicjax.sampling.watch import percentiles

CICJAX = (sys.executable, "-m", "cicjax")
WAIT = 1800.0
PROMOTIONS = 3
MEASURED = ("first_token", "token_gap", "slices", "longest_slice", "longest_gate_slice", "tokens")


class Crowd:
    """Clients that ask, leave and correct, and what came back to them. `doing` is what the agent was at when
    something came: whoever knows says it."""

    def __init__(self, address: str, *, seconds: float, quiet: float, max_tokens: int) -> None:
        self.address, self.max_tokens = address, max_tokens
        self.began = time.monotonic()
        self.until, self.quiet = self.began + seconds, self.began + quiet
        self.doing = "idle"
        self.statuses, self.left = Counter[int](), 0
        self.answers, self.lessons = list[tuple[str, str]](), list[int]()
        self.seconds = defaultdict[tuple[str, str], list[float]](list)
        self.broken, self._lock = list[str](), threading.Lock()

    def question(self, number: int, count: int) -> tuple[str, str]:
        """What a client asks, and what it would have liked to hear."""
        return f"What is {number} and {count}?", f"It is {number}{count}."

    def run(self, clients: int, meanwhile: Any) -> None:
        """Let so many clients go on until the end; `meanwhile` is called again and again beside them."""
        threads = [threading.Thread(target=self._client, args=(number,)) for number in range(clients)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.5)
            meanwhile()

    def _client(self, number: int) -> None:
        rng, count = random.Random(number), 0
        client = openai.OpenAI(base_url=f"{self.address}/v1", api_key="none", max_retries=0, timeout=WAIT)
        with httpx.Client(base_url=self.address, timeout=WAIT) as http:
            while time.monotonic() < self.until:
                count += 1
                question, answer = self.question(number, count)
                try:
                    id = self._ask(client, rng, question, stream=number % 2 == 0)
                    if id and time.monotonic() > self.quiet and rng.random() < 0.4:
                        self._correct(http, id, answer)
                except openai.APIStatusError as error:
                    with self._lock:
                        self.statuses[error.status_code] += 1
                    time.sleep(float(error.response.headers.get("retry-after", 0)))
                except Exception as error:
                    with self._lock:
                        self.broken.append(f"{type(error).__name__}: {error}")

    def _ask(self, client: Any, rng: random.Random, question: str, *, stream: bool) -> str | None:
        """Ask, and give the receipt of an answer that was heard to its end."""
        how = {"temperature": rng.choice([0, 0.7, 1.3]), "top_p": rng.choice([1, 0.9])}
        asked = {"model": "cicjax", "messages": [{"role": "user", "content": question}], **how}
        create = client.chat.completions.create
        if not stream:
            got = create(max_tokens=self.max_tokens, **asked)
            self._heard({(got.id, got.model)}, left=False)
            return got.id
        leaves, models, last, n = rng.random() < 0.3, set(), time.monotonic(), 0
        with create(max_tokens=self.max_tokens, stream=True, **asked) as chunks:
            for chunk in chunks:
                models.add((chunk.id, chunk.model))
                if not chunk.choices[0].delta.content:
                    continue
                now, n = time.monotonic(), n + 1
                with self._lock:
                    self.seconds["first_token" if n == 1 else "token_gap", self.doing].append(now - last)
                last = now
                if leaves and n == 5:
                    break
        self._heard(models, left=leaves)
        return None if leaves else next(iter(models))[0]

    def _heard(self, models: set[tuple[str, str]], *, left: bool) -> None:
        with self._lock:
            self.statuses[200] += 1
            self.left += left
            self.answers += models
            if len(models) != 1:
                self.broken.append(f"one answer of several versions: {models}")

    def _correct(self, http: httpx.Client, id: str, text: str) -> None:
        body, key = {"id": id, "verdict": "wrong", "correction": text}, {"Idempotency-Key": id}
        said = http.post("/v1/feedback", json=body, headers=key)
        with self._lock:
            self.statuses[said.status_code] += 1
            if said.status_code == 201 and said.json()["lesson"] is not None:
                self.lessons.append(said.json()["lesson"])

    def record(self) -> dict[str, Any]:
        """What came back, as JSON; seconds by what the agent was doing."""
        seconds: dict[str, Any] = {"first_token": {}, "token_gap": {}}
        for (what, doing), each in sorted(self.seconds.items()):
            seconds[what][doing] = percentiles(each)
        return {
            "answers": len(self.answers),
            "left": self.left,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "broken": self.broken[:5],
            "lessons": len(self.lessons),
            "clients_saw": seconds,
        }


class Exercises(Crowd):
    """A crowd that asks the exercises of a home, each with its solution."""

    def __init__(self, address: str, problems: Sequence[Any], **how: Any) -> None:
        super().__init__(address, **how)
        self.problems = problems

    def question(self, number: int, count: int) -> tuple[str, str]:
        problem = self.problems[(31 * number + count) % len(self.problems)]
        return problem.question, problem.solution


@contextmanager
def served(home: Path, *flags: str) -> Iterator[tuple[subprocess.Popen, str, float]]:
    """A server of a home: its process, its address and the seconds until it said so. It is ended by
    SIGTERM."""
    began = time.monotonic()
    command = [*CICJAX, "serve", str(home), "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        if " at http" not in said:
            raise SystemExit(f"in_use: the server did not start ({said.strip() or 'it said why above'})")
        yield process, said.split(" at ")[1].split()[0], time.monotonic() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(WAIT)


def command(*arguments: str) -> Any:
    """What a verb of `cicjax agent` prints as JSON."""
    done = subprocess.run([*CICJAX, "agent", *arguments, "--json"], stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def follow(address: str, told: Any) -> None:
    """Call `told` with what the agent does, from now on, in a thread of its own."""

    def listen() -> None:
        try:
            with httpx.stream("GET", f"{address}/v1/events", timeout=None) as events:
                lines = (line.removeprefix("data: ") for line in events.iter_lines() if "data: " in line)
                for said in map(json.loads, lines):
                    if "doing" in said:
                        told(said["doing"])
        except httpx.HTTPError:  # the server has ended
            return

    threading.Thread(target=listen, daemon=True).start()


def settled(http: httpx.Client) -> dict[str, Any]:
    """The status once nothing is learned any more."""
    until = time.monotonic() + WAIT
    while True:
        status = http.get("/v1/status").json()
        if status["doing"] == "failed" or time.monotonic() > until:
            raise SystemExit(f"in_use: learning stands still: {status['failure']}")
        if not status["waiting"] and status["doing"] == "idle":
            return status
        time.sleep(0.5)


def crowd(args: argparse.Namespace, home: Path) -> dict[str, Any]:
    """Many clients at once."""
    make(home, args, lessons=4, gate_problems=args.gate_problems or 16)
    with served(home, *flags(args)) as (process, address, started):
        with httpx.Client(base_url=address, timeout=WAIT) as http:
            before = http.get("/v1/status").json()
            quiet = args.seconds / 4
            how = {"seconds": args.seconds, "quiet": quiet, "max_tokens": args.max_tokens}
            people = Exercises(address, exercises(home)[1], **how)
            follow(address, lambda doing: setattr(people, "doing", doing))
            back = dict[str, int]()

            def meanwhile() -> None:
                if not back and http.get("/v1/status").json()["serving"] >= PROMOTIONS:
                    promoted = [v for v in http.get("/v1/versions").json()["data"] if v["state"] == "served"]
                    back["to"] = promoted[-2]["version"]
                    assert http.post(f"/v1/versions/{back['to']}/serve", json={}).status_code == 200
                if not back and time.monotonic() > people.until - 1:
                    people.until += 5

            people.run(args.clients, meanwhile)
            status = http.get("/v1/status").json()
            free = time.monotonic()
            while http.get("/v1/status").json()["open"]:
                time.sleep(0.02)
            free = time.monotonic() - free
            versions = http.get("/v1/versions").json()["data"]
        cpu, ended = cpu_seconds(process), end(process)
    engine = status["engine"]
    known = lessons_of(home)
    return people.record() | {
        "seconds": round(people.until - people.began, 1),
        "cpu_seconds_of_the_server": cpu,
        "seconds_to_start": round(started, 1),
        "lessons_lost": len(set(people.lessons) - known),
        "lessons_twice": len(people.lessons) - len(set(people.lessons)),
        "versions_of_answers_other_than_begun": others(home, people.answers),
        "versions": dict(Counter(version["state"] for version in versions if version["version"])),
        "went_back_to": back.get("to"),
        "compiled_meanwhile": engine["compiled"] - before["engine"]["compiled"],
        "seconds_until_rows_were_free": round(free, 3),
        "exit_code": ended,
        "engine": {name: engine[name] for name in MEASURED},
        "verified": command("verify", str(home))["ok"],
    }


def lessons_of(home: Path) -> set[int]:
    """The numbers of a log's lessons."""
    return {each["lesson"] for each in command("export", str(home), "--events")} - {None}


def others(home: Path, answers: list[tuple[str, str]]) -> int:
    """How many answers said another version than the one that they were begun with."""
    begun = {each["id"]: each["version"] for each in command("export", str(home), "--events")}
    return sum(f"cicjax@{begun[id.removeprefix('chatcmpl-')]}" != model for id, model in answers)


def end(process: subprocess.Popen) -> int:
    """Ask a server to end, and give its exit code."""
    process.send_signal(signal.SIGTERM)
    return process.wait(WAIT)


def cpu_seconds(process: subprocess.Popen) -> float | None:
    """What a process has used of its cores so far, where the system says so: unlike the clock's, these do not
    depend on who else is at work."""
    try:
        used = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return None
    return round((int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK"), 1)


def sitting(args: argparse.Namespace, home: Path) -> dict[str, Any]:
    """Problem by problem, by one or a few askers, each once."""
    make(home, args, lessons=args.lessons_per_step, gate_problems=args.gate_problems)
    problems = queue.SimpleQueue[Any]()
    task, known = exercises(home)
    for problem in known[: args.problems]:
        problems.put(problem)
    asked, doing = list[dict[str, Any]](), Doing()
    with served(home, *flags(args)) as (process, address, started):
        follow(address, doing.told)
        with httpx.Client(base_url=address, timeout=WAIT) as http:
            before = http.get("/v1/status").json()["engine"]["compiled"]
            began = time.monotonic()
            askers = [
                threading.Thread(target=ask_all, args=(address, task, problems, asked, args.max_tokens))
                for _ in range(args.at_once)
            ]
            for each in askers:
                each.start()
            for each in askers:
                each.join()
            talked = time.monotonic() - began
            http.post("/v1/learn", json={})
            status = settled(http)
            versions, curve = http.get("/v1/versions").json()["data"], http.get("/v1/curve").json()
        cpu, ended = cpu_seconds(process), end(process)
    rebuilt = command("rebuild", str(home), "--into", str(home.parent / "again"))
    right = [each["right"] for each in sorted(asked, key=lambda each: each["at"])]
    third = max(len(right) // 3, 1)
    return {
        "problems": len(asked),
        "right": sum(right),
        "right_by_third": [sum(right[n : n + third]) for n in range(0, 3 * third, third)],
        "lessons": status["lessons"],
        "learned": status["learned"],
        "set_aside": status["set_aside"],
        "versions": [{k: v[k] for k in ("version", "state", "gate")} for v in versions],
        "curve": curve,
        "seconds_talking": round(talked, 1),
        "cpu_seconds_of_the_server": cpu,
        "seconds_to_start": round(started, 1),
        "seconds_of_steps": doing.spans("learning"),
        "seconds_of_gates": doing.spans("gate"),
        "compiled_meanwhile": status["engine"]["compiled"] - before,
        "engine": {name: status["engine"][name] for name in MEASURED},
        "exit_code": ended,
        "verified": command("verify", str(home))["ok"],
        "rebuilt": len(rebuilt),
        "rebuilt_the_same": sum(each["same"] for each in rebuilt),
    }


class Doing:
    """What the agent has been doing, and for how long."""

    def __init__(self) -> None:
        self._now, self._since = "idle", time.monotonic()
        self._spans = defaultdict[str, list[float]](list)

    def told(self, doing: str) -> None:
        """It does something else from now on."""
        now = time.monotonic()
        self._spans[self._now].append(now - self._since)
        self._now, self._since = doing, now

    def spans(self, doing: str) -> dict[str, float]:
        """Percentiles of the times that it did this without a break."""
        return percentiles(self._spans[doing])


def ask_all(address: str, task: Any, problems: Any, asked: list[dict[str, Any]], max_tokens: int) -> None:
    """Take problems until there are none: ask, judge, and correct what was wrong."""
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=WAIT)
    with httpx.Client(base_url=address, timeout=WAIT) as http:
        while True:
            try:
                problem = problems.get_nowait()
            except queue.Empty:
                return
            at = time.monotonic()
            messages: Any = [{"role": "user", "content": problem.question}]
            got = client.chat.completions.create(
                model="cicjax", messages=messages, temperature=1.0, max_tokens=max_tokens
            )
            right = bool(task.verify(problem, got.choices[0].message.content or "").solved)
            body = {"id": got.id, "verdict": "right" if right else "wrong"}
            body |= {} if right else {"correction": problem.solution}
            said = http.post("/v1/feedback", json=body, headers={"Idempotency-Key": got.id})
            assert said.status_code == 201, said.text
            asked.append({"at": at, "right": right, "model": got.model, "lesson": said.json()["lesson"]})


def make(home: Path, args: argparse.Namespace, *, lessons: int, gate_problems: int) -> None:
    """A new agent, with the settings of a measurement."""
    model = [] if args.model is None else ["--model", args.model]
    settings = {
        "format": "plain",
        "contexts": args.contexts,
        "lessons_per_step": lessons,
        "updates_per_step": args.updates_per_step,
        "learning_rate": args.learning_rate,
        "max_new_tokens": args.max_tokens,
        "task": "stem",
        "gate_problems": gate_problems,
    }
    given = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    subprocess.run([*CICJAX, "agent", "new", str(home), *model, *given], check=True, stdout=sys.stderr)


def exercises(home: Path) -> tuple[Any, Sequence[Any]]:
    """The task of a home, and problems of it that its gate does not ask."""
    identity = Home.read(home).identity
    task, settings = identity.task(), identity.settings
    return task, gate.practice(task, settings.seed, settings.gate.problems)


def flags(args: argparse.Namespace) -> list[str]:
    """How the server is started."""
    return ["--rows", str(args.rows), "--max_length", str(args.max_length)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("crowd", "sitting"))
    parser.add_argument("--model", help="folder of real weights; the embedded base without")
    parser.add_argument("--home", type=Path, help="folder of the agent, which is made")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--problems", type=int, default=60)
    parser.add_argument("--at_once", type=int, default=1, help="problems of a sitting that are asked at once")
    parser.add_argument("--max_tokens", type=int, default=96)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--max_length", type=int, default=512)
    parser.add_argument("--gate_problems", type=int, default=0)
    parser.add_argument("--lessons_per_step", type=int, default=8)
    parser.add_argument("--updates_per_step", type=int, default=1)
    parser.add_argument("--contexts", default="none", choices=("attempt", "none", "both"))
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="cicjax-") as folder:
        home = args.home or Path(folder) / "home"
        measured = (crowd if args.what == "crowd" else sitting)(args, home)
    record = {
        "command": " ".join(sys.argv),
        "model": "the embedded base" if args.model is None else Path(args.model).name,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": [round(each, 1) for each in os.getloadavg()],
        "python": platform.python_version(),
        **measured,
    }
    text = json.dumps(record, indent=1)
    print(text)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
