"""OpenAI's own clients while the agent learns, is judged by a gate, promoted and taken back: nobody is
refused for it, every answer is of one version, nothing is compiled, no feedback is lost."""

import importlib.util
import time
from pathlib import Path

import httpx
import pytest
import tiny_qwen2
from stand_in import serving

from cicjax.agent.continual import Agent
from cicjax.agent.live import Live
from cicjax.agent.settings import AgentSettings, GateSettings
from cicjax.agent.versions import SERVED
from cicjax.model.config import LoRAConfig
from cicjax.training.steps import Optimization

PATH = Path(__file__).resolve().parents[2] / "scripts" / "in_use.py"
SPEC = importlib.util.spec_from_file_location("in_use", PATH)
in_use = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(in_use)

SETTINGS = AgentSettings(
    format="plain",
    task="stem",
    lora=LoRAConfig(rank=4, alpha=8.0),
    optimization=Optimization(learning_rate=1e-3, warmup_steps=0),
    gate=GateSettings(problems=12, alpha=0.0, margin=1.0),  # every version passes, once it has answered
    lessons_per_step=4,
    updates_per_step=2,
    replay_lessons=0,
    contexts="none",
    max_new_tokens=24,
)
PROMOTIONS = 3


@pytest.mark.parametrize(
    ("clients", "seconds"), [(8, 60), pytest.param(32, 120, marks=pytest.mark.slow)], ids=["8", "32"]
)
def test_nobody_notices_that_it_learns(tmp_path, clients, seconds):
    tiny_qwen2.write(tmp_path / "toy", seed=3)
    home, toy = tmp_path / "home", str(tmp_path / "toy")
    with (
        Agent.open(home, toy, SETTINGS) as agent,
        Live(agent, rows=8, length=512) as live,
        serving(agent, home, live) as (url, service),
        httpx.Client(base_url=url, timeout=120) as http,
    ):
        compiled = live.engine.stats()["compiled"]
        crowd = in_use.Crowd(url, seconds=seconds, quiet=seconds / 6, max_tokens=24)
        taken_back = []

        def meanwhile():
            crowd.doing = live.doing
            if not taken_back and agent.history.serving >= PROMOTIONS:
                assert service.open  # answers are under way
                taken_back.append(http.post("/v1/versions/1/serve", json={}).status_code)
            if not taken_back and time.monotonic() > crowd.until - 1:
                crowd.until += 5  # a busy machine gets its promotions all the same
                assert crowd.until < crowd.began + 600

        crowd.run(clients, meanwhile)
        status = http.get("/v1/status").json()
        until = time.monotonic() + 30
        while service.open or any(not row.background for row in live.engine._rows):
            assert time.monotonic() < until, "a row that nobody wants is not free"
            time.sleep(0.05)
        print(crowd.record(), status["engine"], sep="\n")
        assert taken_back == [200] and status["failure"] is None
        assert status["engine"]["compiled"] == compiled
        check(crowd, agent)


def check(crowd, agent):
    assert not crowd.broken, crowd.broken[:3]
    assert set(crowd.statuses) <= {200, 201, 429}, crowd.statuses
    assert crowd.left
    judged = [version for version in agent.versions() if version.numbers]
    assert len([version for version in judged if version.state == SERVED]) >= PROMOTIONS
    for id, model in crowd.answers:
        assert model == f"cicjax@{agent.store.by_id(id.removeprefix('chatcmpl-')).version}"
    assert crowd.lessons and len(set(crowd.lessons)) == len(crowd.lessons)
    assert set(crowd.lessons) <= set(agent.history.lessons)
