"""The end of a server: what it was answering ends well, nothing new begins, and the code says why."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
import tiny_qwen2
from stand_in import Planned, serving

from cicjax.agent.continual import Agent
from cicjax.agent.settings import AgentSettings
from cicjax.agent.store import Store
from cicjax.agent.whole import verify
from cicjax.model.config import LoRAConfig

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = AgentSettings(format="plain", lora=LoRAConfig(rank=4, alpha=8.0), max_new_tokens=400)
ASKED = [{"role": "user", "content": "What is 1 + 1?"}]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    toy = tmp_path_factory.mktemp("toy")
    tiny_qwen2.write(toy, seed=3)
    return toy


def started(home, *more):
    """A server in a process of its own, and its address."""
    command = [sys.executable, "-m", "cicjax", "serve", str(home), "--port", "0", *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    line = process.stdout.readline()
    assert " at http://" in line, process.communicate()
    return process, line.split(" at ")[1].split()[0]


def test_answers_under_way_end_whole_and_nothing_new_begins(toy, tmp_path):
    home = tmp_path / "home"
    Agent.open(home, str(toy), SETTINGS).close()
    process, address = started(home, "--max_length", "480", "--rows", "4")
    chunks = {n: list[str]() for n in range(4)}

    def read(n):
        body = {"messages": ASKED, "stream": True, "seed": n, "max_tokens": 400}
        with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=120) as stream:
            for line in filter(None, stream.iter_lines()):
                chunks[n].append(line)

    threads = [threading.Thread(target=read, args=(n,)) for n in chunks]
    for thread in threads:
        thread.start()
    with httpx.Client(base_url=address, timeout=60) as http:
        while min(map(len, chunks.values())) < 3:  # each has said a word
            time.sleep(0.01)
        assert http.get("/v1/status").json()["open"]  # a short one may have ended
        process.send_signal(signal.SIGTERM)
        while http.get("/readyz").status_code == 200:
            time.sleep(0.01)
        refused = http.post("/v1/chat/completions", json={"messages": ASKED})
        assert refused.status_code == 503 and refused.headers["retry-after"]
    for thread in threads:
        thread.join(60)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert "Traceback" not in process.stderr.read()
    for lines in chunks.values():
        assert lines[-1] == "data: [DONE]"
        last = json.loads(lines[-2].removeprefix("data: "))
        assert last["choices"][0]["finish_reason"] in ("stop", "length")
    assert verify(home) == []
    with Store(home, read_only=True) as store:
        kinds = [event.kind for event in store.events()]
    assert kinds.count("begin") == kinds.count("attempt") == 4


def test_what_does_not_end_in_time_is_cut_and_kept_as_it_was_delivered(toy, tmp_path, monkeypatch):
    with Agent.open(tmp_path / "home", str(toy), SETTINGS) as agent:
        live = Planned(agent, lambda messages, version: "word " * 200, gap=0.05)
        with serving(agent, agent.home.folder, live) as (address, service):
            body = {"messages": ASKED, "stream": True}
            with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=30) as stream:
                lines = (line for line in stream.iter_lines() if line)
                first = [next(lines) for _ in range(4)]
                service.draining = service.ending = True
                rest = list(lines)
            assert rest[-1] == "data: [DONE]" and '"finish_reason": "length"' in rest[-2]
            said = [json.loads(line.removeprefix("data: ")) for line in first + rest[:-1]]
            text = "".join(each["choices"][0]["delta"].get("content", "") for each in said)
            begin = agent.store.by_id(said[0]["id"].removeprefix("chatcmpl-"))
            attempt = agent.turns.attempt_of(begin)
            assert attempt.finish == "cancelled" and agent.store.content(attempt)["text"] == text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "has no keys"),
        (["--port", "99999"], "--port is 0 to 65535"),
        (["--learn_share", "0"], "--learn_share"),
        (["--verifier", "nothing"], "MODULE:FUNCTION"),
        (["--verifier", "json:nothing"], "has no attribute nothing"),
        (["--verifier", "json:loads"], "not a function of (messages, answer)"),
    ],
)
def test_what_cannot_be_served_is_one_line(arguments, said, tmp_path, capsys):
    from cicjax import cli

    assert cli.main(["serve", str(tmp_path / "home"), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "home").exists()
