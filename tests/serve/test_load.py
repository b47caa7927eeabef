"""Eight of OpenAI's own clients while the agent learns, is promoted and taken back: nobody is refused for it,
every answer is of one version, nothing is compiled, no feedback is lost."""

import os
import random
import threading
import time

import httpx
import openai
import tiny_qwen2
from stand_in import serving

from cicjax.agent.continual import Agent
from cicjax.agent.live import Live
from cicjax.agent.settings import AgentSettings
from cicjax.model.config import LoRAConfig
from cicjax.training.steps import Optimization

SETTINGS = AgentSettings(
    format="plain",
    lora=LoRAConfig(rank=4, alpha=8.0),
    optimization=Optimization(learning_rate=1e-3, warmup_steps=0),
    lessons_per_step=4,
    updates_per_step=2,
    replay_lessons=0,
    contexts="none",
    max_new_tokens=24,
)
CLIENTS = 8


class Crowd:
    """Clients that ask, leave, correct; what came back."""

    def __init__(self, address, seconds):
        self.address, self.until = address, time.monotonic() + seconds
        self.statuses, self.answers, self.lessons = list[int](), list[tuple[str, str]](), list[int]()
        self.broken, self.lock = list[str](), threading.Lock()

    def client(self, number):
        rng, count = random.Random(number), 0
        client = openai.OpenAI(base_url=f"{self.address}/v1", api_key="none", max_retries=0, timeout=120)
        with httpx.Client(base_url=self.address, timeout=120) as http:
            while time.monotonic() < self.until:
                count += 1
                try:
                    id = self.ask(client, rng, f"What is {number} and {count}?", number % 2 == 0)
                    if id and rng.random() < 0.4:
                        self.correct(http, id, f"It is {number}{count}.")
                except openai.APIStatusError as error:
                    with self.lock:
                        self.statuses.append(error.status_code)
                except Exception as error:
                    with self.lock:
                        self.broken.append(f"{type(error).__name__}: {error}")

    def ask(self, client, rng, question, stream):
        messages = [{"role": "user", "content": question}]
        how = {"temperature": rng.choice([0, 0.7, 1.3]), "top_p": rng.choice([1, 0.9]), "max_tokens": 24}
        if not stream:
            got = client.chat.completions.create(model="cicjax", messages=messages, **how)
            with self.lock:
                self.statuses.append(200)
                self.answers.append((got.id, got.model))
            return got.id
        leaves = rng.random() < 0.3
        with client.chat.completions.create(model="cicjax", messages=messages, stream=True, **how) as chunks:
            models = set()
            for n, chunk in enumerate(chunks):
                models.add((chunk.id, chunk.model, chunk.system_fingerprint))
                if leaves and n == 5:
                    break
        assert len(models) == 1, models
        with self.lock:
            self.statuses.append(200)
            self.answers.append((chunk.id, chunk.model))
        return None if leaves else chunk.id

    def correct(self, http, id, text):
        said = http.post("/v1/feedback", json={"id": id, "correction": text}, headers={"Idempotency-Key": id})
        with self.lock:
            self.statuses.append(said.status_code)
            if said.status_code == 201 and said.json()["lesson"] is not None:
                self.lessons.append(said.json()["lesson"])


def test_nobody_notices_that_it_learns(tmp_path):
    seconds = float(os.environ.get("CICJAX_LOAD_SECONDS", "20"))
    began = time.monotonic()
    tiny_qwen2.write(tmp_path / "toy", seed=3)
    home, toy = tmp_path / "home", str(tmp_path / "toy")
    with (
        Agent.open(home, toy, SETTINGS) as agent,
        Live(agent, rows=8, length=160) as live,
        serving(agent, home, live) as (url, service),
        httpx.Client(base_url=url, timeout=120) as http,
    ):
        warm_up(http, agent)
        before, compiled = agent.history.serving, live.engine.stats()["compilations"]
        crowd = Crowd(url, seconds)
        threads = [threading.Thread(target=crowd.client, args=(n,)) for n in range(CLIENTS)]
        for thread in threads:
            thread.start()
        taken_back = False
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.2)
            if not taken_back and agent.history.serving >= before + 3:
                taken_back = http.post(f"/v1/versions/{before + 1}/serve", json={}).status_code == 200
            if not taken_back and time.monotonic() > crowd.until - 1:
                crowd.until += 5  # a busy machine gets its promotions all the same
                assert crowd.until < began + 300
        check(crowd, agent, http.get("/v1/status").json(), compiled, before)
        until = time.monotonic() + 30
        while service.open or live.engine.stats()["rows_busy"]:
            assert time.monotonic() < until, "a row that nobody wants is not free"
            time.sleep(0.05)


def warm_up(http, agent):
    """One step, so that what learning compiles is compiled."""
    for n in range(4):
        asked = {"messages": [{"role": "user", "content": f"{n}?"}]}
        id = http.post("/v1/chat/completions", json=asked).json()["id"]
        assert http.post("/v1/feedback", json={"id": id, "correction": f"It is {n}."}).status_code == 201
    until = time.monotonic() + 300
    while agent.history.serving == 0:
        assert time.monotonic() < until
        time.sleep(0.1)


def check(crowd, agent, status, compiled, before):
    assert not crowd.broken, crowd.broken[:3]
    assert set(crowd.statuses) <= {200, 201, 429}, set(crowd.statuses)
    assert status["failure"] is None and status["engine"]["compilations"] == compiled
    assert max(agent.history.versions) >= before + 3
    for id, model in crowd.answers:
        begin = agent.store.by_id(id.removeprefix("chatcmpl-"))
        assert model == f"cicjax@{begin.version}"
    assert len(set(crowd.lessons)) == len(crowd.lessons) and set(crowd.lessons) <= set(agent.history.lessons)
    print(len(crowd.answers), "answers,", crowd.statuses.count(429), "busy,", len(crowd.lessons), "lessons,")
    print(max(agent.history.versions) - before, "versions", status["engine"])
