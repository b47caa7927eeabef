"""The server by what its clients see: OpenAI's own client, feedback by receipt, who may what, from where."""

import json
import socket
import threading
import time
from dataclasses import fields

import byte_tokenizer
import httpx
import openai
import pytest
import tiny_qwen2
from stand_in import Planned, serving

from cicjax.agent.continual import Agent
from cicjax.agent.events import Event
from cicjax.agent.keys import make_key, read_keys
from cicjax.agent.settings import AgentSettings
from cicjax.agent.trust import RIGHTS
from cicjax.errors import BadInput
from cicjax.model.config import LoRAConfig
from cicjax.serve import auth, limits
from cicjax.serve.curve import Curve
from cicjax.serve.hand import Hand
from cicjax.training.steps import Optimization

SETTINGS = AgentSettings(
    format="chatml",
    lora=LoRAConfig(rank=4, alpha=8.0),
    optimization=Optimization(learning_rate=1e-2, warmup_steps=0),
    lessons_per_step=2,
    updates_per_step=1,
    max_new_tokens=64,
)
ASKED = [{"role": "user", "content": "What is 1 + 1?"}]
TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}},
}


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    toy = tmp_path_factory.mktemp("toy")
    tiny_qwen2.write(toy, seed=3)
    byte_tokenizer.write_tokenizer(toy)  # which has the control tokens of calls
    with Agent.open(tmp_path_factory.mktemp("home") / "home", str(toy), SETTINGS) as agent:
        yield agent


@pytest.fixture(scope="module")
def server(agent):
    with serving(agent, agent.home.folder) as (address, service):
        yield address, service


@pytest.fixture
def client(server):
    return openai.OpenAI(base_url=f"{server[0]}/v1", api_key="none", max_retries=0)


@pytest.fixture
def http(server):
    with httpx.Client(base_url=server[0], timeout=120) as http:
        yield http


def test_openais_client_gets_an_answer_whole_and_as_it_is_drawn(client, agent):
    whole = client.chat.completions.create(
        model="cicjax", messages=ASKED, n=2, seed=3, logprobs=True, top_logprobs=2, user="me"
    )
    assert [choice.message.content for choice in whole.choices] == ["It is 2."] * 2
    assert whole.choices[0].finish_reason == "stop" and whole.model == "cicjax@0"
    assert whole.system_fingerprint == f"v0-{agent.versions()[0].digest[:12]}"
    first = whole.choices[0].logprobs.content
    assert "".join(each.token for each in first[:-1]) == "It is 2."
    assert first[0].logprob == -0.5 and [top.logprob for top in first[0].top_logprobs] == [-0.5, -1.5]
    assert whole.usage.completion_tokens == 2 * len(first)

    stream = client.chat.completions.create(
        model="cicjax@0", messages=ASKED, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "It is 2." and chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop" and chunks[-1].usage.total_tokens > 0
    # Whoever saw the end can give feedback: it is in the log.
    event = agent.store.by_id(chunks[0].id.removeprefix("chatcmpl-"))
    assert agent.store.content(agent.turns.attempt_of(event))["text"] == "It is 2."


def test_tools_come_back_as_calls_and_the_turn_is_known_again(agent):
    call = ["I add. ", "<tool_call>", '\n{"name": "add", "arguments": {"a": 1}}\n', "</tool_call>"]

    def plan(messages, version):
        return call if messages[-1]["role"] == "user" else "2"

    with serving(agent, agent.home.folder, Planned(agent, plan)) as (address, _):
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        ask = {"model": "cicjax", "tools": [TOOL]}
        first = client.chat.completions.create(messages=ASKED, **ask).choices[0]
        assert first.finish_reason == "tool_calls" and first.message.content == "I add. "
        (made,) = first.message.tool_calls
        assert (made.function.name, json.loads(made.function.arguments)) == ("add", {"a": 1})
        deltas = [
            c.choices[0].delta for c in client.chat.completions.create(messages=ASKED, stream=True, **ask)
        ]
        assert "".join(delta.content or "" for delta in deltas) == "I add. "
        assert [d.tool_calls[0].function.name for d in deltas if d.tool_calls] == ["add"]
        result = {"role": "tool", "tool_call_id": made.id, "content": "2"}
        history = [*ASKED, first.message.model_dump(exclude_none=True), result]
        second = client.chat.completions.create(messages=history, **ask)
        assert second.choices[0].message.content == "2"
        seen = agent.turns.parts(agent.store.by_id(second.id.removeprefix("chatcmpl-")))
        assert [event.kind for event in seen] == ["message", "attempt", "message"]
        # In letters it calls nothing.
        plain = Planned(
            agent, lambda messages, version: '<tool_call>{"name": "add", "arguments": {}}</tool_call>'
        )
    with serving(agent, agent.home.folder, plain) as (address, _):
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        letters = client.chat.completions.create(messages=ASKED, **ask).choices[0]
        assert letters.message.tool_calls is None and letters.message.content.startswith("<tool_call>")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"colour": "red"}, "colour"),
        ({"temperature": 3}, "temperature"),
        ({"n": 9}, "n"),
        ({"stop": list("abcde")}, "stop"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
    ],
)
def test_a_field_that_would_change_the_answer_is_refused_by_name(http, more, param):
    answer = http.post("/v1/chat/completions", json={"model": "cicjax", "messages": ASKED} | more)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"].startswith(param) and error["type"] == "invalid_request_error"


def test_harmless_fields_are_passed_over_and_unknown_models_are_not(http):
    body = {
        "model": "cicjax",
        "messages": ASKED,
        "presence_penalty": 0,
        "logit_bias": {},
        "metadata": {"a": "b"},
    }
    assert http.post("/v1/chat/completions", json=body).status_code == 200
    for model in ("gpt-4", "cicjax@99", "cicjax@x", "cicjax@"):
        answer = http.post("/v1/chat/completions", json=body | {"model": model})
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"


def test_feedback_is_given_once_whatever_is_sent_again(http, agent):
    id = http.post("/v1/chat/completions", json={"messages": ASKED}).json()["id"]
    key = {"Idempotency-Key": "one"}
    said = {"id": id, "verdict": "wrong", "correction": "It is two."}
    first = http.post("/v1/feedback", json=said, headers=key)
    assert first.status_code == 201 and first.json()["lesson"] == 1 and first.json()["reason"] == ""
    again = http.post("/v1/feedback", json=said, headers=key)
    assert again.status_code == 200 and again.json() == first.json()
    for other in ({"correction": "It is 3."}, {"verdict": "right"}, {"correction": None}, {"verdict": None}):
        answer = http.post("/v1/feedback", json={k: v for k, v in (said | other).items() if v}, headers=key)
        assert answer.status_code == 409, (other, answer.text)
    assert http.post("/v1/feedback", json={"id": id}).status_code == 400
    assert http.post("/v1/feedback", json=said | {"id": "chatcmpl-none"}).status_code == 404
    repeated = http.post("/v1/feedback", json={"id": id, "correction": "It is two."})
    assert repeated.json()["lesson"] is None and "taught already" in repeated.json()["reason"]
    assert http.get(f"/v1/attempts/{id}").json()["verdict"] == "wrong"


def test_observations_are_demonstrations_or_context(http):
    shown = {"messages": [{"role": "user", "content": "What is 2 + 2?"}], "answer": "It is 4."}
    assert http.post("/v1/observations", json=shown).json()["lesson"] is not None
    id = http.post("/v1/chat/completions", json={"messages": ASKED}).json()["id"]
    said = http.post("/v1/observations", json={"id": id, "text": "the calculator says 2"})
    assert said.status_code == 201 and said.json()["lesson"] is None
    assert http.post("/v1/observations", json={"text": "of what"}).status_code == 400


def test_lessons_become_a_version_that_can_be_looked_at_and_taken_back(http, agent):
    id = http.post("/v1/chat/completions", json={"messages": [ASKED[0] | {"content": "1 + 3?"}]}).json()["id"]
    lesson = http.post("/v1/feedback", json={"id": id, "correction": "It is four."}).json()["lesson"]
    before = http.get("/v1/status").json()["serving"]
    assert http.post("/v1/learn").status_code == 202
    serving = http.get("/v1/status").json()["serving"]
    assert serving > before
    record = http.get(f"/v1/versions/{serving}").json()
    assert record["serving"] and lesson in {each["lesson"] for each in record["lessons"]}
    detail = http.get(f"/v1/attempts/{id}").json()
    assert detail["after"] == serving and detail["before"] == record["parent"]
    assert f"learned in version {serving}" in detail["feedback"][-1]["state"]
    learned = [t for t in detail["rows"][-1]["tokens"] if t["weight"]]
    assert "".join(t["text"] for t in learned).startswith("It is four.")
    assert all(t["author"] == "teacher" and t["gamma"] == 0 and t["before"] != t["after"] for t in learned)
    assert sum(t["after"] for t in learned) > sum(t["before"] for t in learned)
    back = http.post(f"/v1/versions/{before}/serve", json={"reason": "looks worse"})
    assert back.status_code == 200 and http.get("/v1/status").json()["serving"] == before
    assert http.post("/v1/versions/99/serve").status_code == 404
    assert "cicjax@0" in [each["id"] for each in http.get("/v1/models").json()["data"]]


def test_the_curve_counts_new_questions_and_says_how_many_were_judged(http):
    def count():
        return http.get("/v1/curve").json()["all"]

    before = count()
    question = [{"role": "user", "content": "Is this new?"}]
    first, second = (
        http.post("/v1/chat/completions", json={"messages": question}).json()["id"] for _ in range(2)
    )
    assert count()["answers"] == before["answers"] + 1
    http.post("/v1/feedback", json={"id": second, "verdict": "right"})
    assert count()["judged"] == before["judged"]
    for verdict, right in (("right", 1), ("wrong", 0), ("right", 1)):
        http.post("/v1/feedback", json={"id": first, "verdict": verdict})
        now = count()
        assert (now["judged"], now["right"]) == (before["judged"] + 1, before["right"] + right)
    assert now["low"] < now["accuracy"] <= now["high"]
    assert now["judged_share"] == now["judged"] / now["answers"]


def test_an_answer_that_was_cut_short_is_no_test():
    def event(seq, kind, **more):
        blank = {each.name: "" for each in fields(Event)} | {"facts": {}, "solved": -1, "parent": None}
        return Event(**blank | {"seq": seq, "kind": kind, "version": 2} | more)

    curve = Curve()
    events = [
        event(1, "begin", facts={"turn": "a"}),
        event(2, "attempt", parent=1, finish="cancelled"),
        event(3, "begin", facts={"turn": "a"}),
        event(4, "attempt", parent=3, finish="stop"),
        event(5, "verdict", parent=3, solved=1),
        event(6, "verdict", parent=1, solved=0),
    ]
    curve.apply(events[:4])
    curve.apply(events)
    (version,) = curve.record()["versions"]
    assert (version["version"], version["answers"], version["judged"], version["right"]) == (2, 1, 1, 1)


def test_the_queue_gives_what_nobody_has_judged_and_waits_for_more(http):
    listed = http.get("/v1/attempts", params={"limit": 100}).json()
    id = http.post("/v1/chat/completions", json={"messages": ASKED}).json()["id"]
    new = http.get("/v1/attempts", params={"after": listed["after"], "judged": False, "wait": 5}).json()
    assert [each["id"] for each in new["data"]] == [id] and new["data"][0]["text"] == "It is 2."
    http.post("/v1/feedback", json={"id": id, "verdict": "right"})
    assert not http.get("/v1/attempts", params={"after": listed["after"], "judged": False}).json()["data"]
    assert http.get("/v1/attempts", params={"after": listed["after"], "judged": True}).json()["data"]


def test_nobody_shuts_the_only_operator_out(http, agent):
    refused = http.post("/v1/sources/local/forget", json={})
    assert refused.status_code == 409 and refused.json()["error"]["code"] == "own_source"
    assert http.get("/v1/status").json()["you"] == {"name": "local", "may": sorted(RIGHTS)}
    auth.check_operator({"local"}, {"digest": "alice"}, agent.home.folder)
    with pytest.raises(BadInput, match="cicjax agent key"):
        auth.check_operator({"local"}, {}, agent.home.folder)


def test_keys_open_what_their_source_may_and_nothing_else(agent):
    home = agent.home.folder
    keys = {}
    for name, rights in (("asker", ["chat"]), ("judge", ["chat", "judge"]), ("boss", ["admin", "chat"])):
        agent.declare(name, rights)
        keys[name] = {"Authorization": f"Bearer {make_key(home, name)}"}
    assert (home / "keys.json").stat().st_mode & 0o777 == 0o600
    assert keys["asker"]["Authorization"].split()[1] not in (home / "keys.json").read_text()
    with serving(agent, home, keys=read_keys(home)) as (address, _), httpx.Client(base_url=address) as http:
        for header in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic x"}):
            answer = http.get("/v1/status", headers=header)
            assert answer.status_code == 401 and answer.json()["error"]["type"] == "authentication_error"
        assert (
            http.get("/healthz").status_code
            == http.get("/readyz").status_code
            == http.get("/").status_code
            == 200
        )
        asked = http.post("/v1/chat/completions", json={"messages": ASKED}, headers=keys["asker"])
        said = {"id": asked.json()["id"], "verdict": "wrong", "correction": "It is 22."}
        assert http.post("/v1/feedback", json=said, headers=keys["asker"]).status_code == 403
        judged = http.post("/v1/feedback", json=said, headers=keys["judge"])
        assert judged.status_code == 201 and judged.json()["reason"] == "judge may not teach"
        for name, status in (("asker", 403), ("judge", 403), ("boss", 202)):
            assert http.post("/v1/learn", headers=keys[name]).status_code == status
        assert http.get("/v1/attempts", headers=keys["boss"]).status_code == 403
        assert http.get("/v1/status", headers=keys["asker"]).json()["you"]["name"] == "asker"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:8000"},
        {"Host": "10.1.2.3"},
        {"Host": ""},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_other_names_and_other_pages_are_not_answered(http, headers):
    answer = http.post("/v1/chat/completions", json={"messages": ASKED}, headers=headers)
    assert answer.status_code == 403 and answer.json()["error"]["type"] == "permission_error"
    assert http.get("/", headers=headers).status_code == 403


def test_its_own_page_is_answered_and_no_origin_is_allowed(http, server):
    answer = http.get("/v1/status", headers={"Origin": server[0], "Sec-Fetch-Site": "same-origin"})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert http.options("/v1/status", headers={"Origin": "https://evil.example"}).status_code == 403


def test_a_body_has_an_end(http, server):
    big = json.dumps({"messages": [{"role": "user", "content": "x" * limits.BODY}]})
    assert http.post("/v1/chat/completions", content=big).status_code == 413
    chunked = http.post("/v1/chat/completions", content=iter([b"x" * 65536] * 20))
    assert chunked.status_code == 413
    assert http.post("/v1/feedback", json={"id": "x", "correction": "y" * limits.FEEDBACK}).status_code == 413
    for broken in (b"", b"{", b"[]", b"\xff", b'{"messages": ' + b"[" * 5000):
        assert http.post("/v1/chat/completions", content=broken).status_code in (400, 422)
    many = {"messages": [{"role": "user", "content": "x"}] * 257}
    assert http.post("/v1/chat/completions", json=many).status_code == 400


def test_a_slow_client_keeps_nobody_waiting_and_is_sent_away(http, server, monkeypatch):
    monkeypatch.setattr(limits, "SEND_S", 1.0)
    host, port = server[0].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(b"POST /v1/feedback HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert http.get("/v1/status").elapsed.total_seconds() < 1
        slow.settimeout(10)
        assert b" 408 " in slow.recv(1000)


def test_no_room_is_said_and_a_client_that_leaves_frees_its_row(agent):
    live = Planned(agent, lambda messages, version: "word " * 12, gap=0.05, rows=1)
    with (
        serving(agent, agent.home.folder, live) as (address, service),
        httpx.Client(base_url=address) as http,
    ):
        body = {"messages": ASKED, "stream": True}
        with http.stream("POST", "/v1/chat/completions", json=body) as stream:
            lines = stream.iter_lines()
            first = json.loads(next(line for line in lines if "content" in line).removeprefix("data: "))
            full = http.post("/v1/chat/completions", json={"messages": ASKED})
            assert full.status_code == 429 and full.headers["retry-after"] == "1"
            assert full.json()["error"]["type"] == "rate_limit_error"
        until = time.monotonic() + 5
        while live.busy or service.open:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert live.cancelled == 1
        begin = agent.store.by_id(first["id"].removeprefix("chatcmpl-"))
        attempt = agent.turns.attempt_of(begin)
        assert attempt.finish == "cancelled" and len(agent.store.content(attempt)["tokens"]) < 12


def test_what_happens_is_told_as_it_happens(http, server):
    heard = []

    def listen():
        with (
            httpx.Client(base_url=server[0], timeout=10) as other,
            other.stream("GET", "/v1/events") as stream,
        ):
            for line in stream.iter_lines():
                heard.append(line)
                if line.startswith("event: verdict"):
                    return

    thread = threading.Thread(target=listen)
    thread.start()
    while not heard:
        time.sleep(0.02)
    id = http.post("/v1/chat/completions", json={"messages": ASKED}).json()["id"]
    http.post("/v1/feedback", json={"id": id, "verdict": "right"})
    thread.join(10)
    kinds = [line.removeprefix("event: ") for line in heard if line.startswith("event: ")]
    assert kinds[0] == "doing" and kinds[-1] == "verdict" and {"begin", "attempt"} <= set(kinds)
    assert not any("It is 2" in line for line in heard)


def test_a_verifier_of_ones_own_judges_and_may_fail(agent, capfd):
    def verify(messages, answer):
        if "fail" in messages[-1]["content"]:
            raise OSError("no\nnetwork")
        return None if "unknown" in messages[-1]["content"] else answer == "It is 2."

    def verdict(http, question):
        asked = {"messages": [{"role": "user", "content": question}]}
        id = http.post("/v1/chat/completions", json=asked).json()["id"]
        until = time.monotonic() + 1
        while (said := http.get(f"/v1/attempts/{id}").json()["verdict"]) is None and time.monotonic() < until:
            time.sleep(0.05)
        return said

    judged = Hand(verify=verify)
    with serving(agent, agent.home.folder, hand=judged) as (url, _), httpx.Client(base_url=url) as http:
        said = [verdict(http, each) for each in ("2?", "unknown?", "fail?", "2 again?")]
        assert said == ["right", None, None, "right"]
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "the verifier failed" in said and "OSError: no network" in said


def test_figures_are_there_for_whoever_counts(http):
    text = http.get("/metrics").text
    for name in (
        "requests_total",
        "first_token_seconds_count",
        "commit_seconds_sum",
        "serving",
        "engine_rows",
    ):
        assert f"\ncicjax_{name}" in text, name
    assert 'route="/v1/chat/completions",status="200"' in text
