"""`cicjax agent` by hand in a terminal, and by a program: every verb, as text and as JSON."""

import json

import pytest
import tiny_qwen2

from cicjax import cli
from cicjax.commands.agent.verbs import VERBS


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    tiny_qwen2.write(folder, seed=3, num_hidden_layers=1)
    return folder


@pytest.fixture
def agent(toy, tmp_path, capsys):
    """Runs a verb in a home of its own and gives what it printed: with `json=True` as a program reads it."""
    home = tmp_path / "home"

    def run(verb, *arguments, json=False, code=0):
        words = ["agent", verb, str(home), *map(str, arguments), *(["--json"] if json else [])]
        assert cli.main(words) == code, capsys.readouterr()
        out, err = capsys.readouterr()
        return err if code else read(out) if json else out

    run("new", "--model", toy, "--format", "plain", "--lessons_per_step", 2, "--updates_per_step", 1)
    run.home = home
    return run


def read(out):
    lines = [json.loads(line) for line in out.splitlines()]
    return lines[0] if len(lines) == 1 else lines


def taught(agent, number, source="local"):
    answer = agent("say", f"What is {number} + 1?", "--max_new_tokens", 4, json=True)
    receipt = agent("teach", answer["id"], f"It is {number + 1}.", "--source", source, json=True)
    return answer, receipt


def test_a_life_by_a_program(agent, tmp_path):
    answer, receipt = taught(agent, 1)
    assert answer.keys() == {"id", "version", "text", "finish_reason", "tokens", "logprobs"}
    assert (receipt["lesson"], receipt["reason"]) == (1, "")
    assert agent("judge", answer["id"], "wrong", json=True)["reason"] == "a verdict is no target"
    taught(agent, 2, source="mallory")
    first = agent("learn", "--due", json=True)
    assert first["version"] == 1 and [row["source"] for row in first["lessons"]] == ["local", "mallory"]
    taught(agent, 3)
    assert agent("learn", json=True)["version"] == 2
    versions = agent("versions", json=True)
    assert [(row["version"], row["serving"]) for row in versions] == [(0, False), (1, False), (2, True)]
    assert len({row["digest"] for row in versions}) == 3
    assert agent("serve", 2, "--confirm", "--reason", "good", json=True)["serving"]
    assert agent("rollback", json=True)["version"] == 1
    assert agent("admit", 3, json=True) == {"waiting_again": [3]}
    assert agent("source", "bob", "--rights", "chat", json=True)["rights"] == ["chat"]
    status = agent("status", json=True)
    assert (status["serving"], status["waiting"], status["judged"], status["right"]) == (1, 1, 1, 0)
    pruned = agent("prune", "--newest", 1, "--every", 0, "--dry_run", json=True)
    assert pruned["removed"] == [] and pruned["on_disk"] == [0, 1, 2] and pruned["disk_bytes"] > 10_000
    assert agent("forget", "mallory", json=True)["serving"] == 3
    assert agent("verify", json=True) == {"ok": True, "findings": []}
    rebuilt = agent("rebuild", "--into", tmp_path / "again", json=True)
    assert [row["same"] for row in rebuilt] == [True] * 4


def test_the_doctor_looks_at_a_home_as_verify_does(agent, capsys):
    assert cli.main(["doctor", str(agent.home)]) == 0
    assert "every byte is as it was written" in capsys.readouterr().out
    (agent.home / "config.json").write_bytes((agent.home / "config.json").read_bytes() + b" ")
    assert cli.main(["doctor", str(agent.home)]) == 5
    assert "config.json: not the bytes that were written" in capsys.readouterr().err


def test_what_was_taught_goes_out_and_comes_in_again(agent, toy, tmp_path, capsys):
    for number in (1, 2):
        taught(agent, number)
    lines = agent("export", json=False).splitlines()
    assert agent("export", json=True) == [json.loads(line) for line in lines] and len(lines) == 2
    file = tmp_path / "lessons.jsonl"
    assert agent("export", "--output", file, json=True) == {"output": str(file), "lines": 2}
    assert file.read_text().splitlines() == lines
    kinds = [event["kind"] for event in agent("export", "--events", json=True)]
    assert kinds[0] == "home" and kinds.count("correction") == 2
    other = str(tmp_path / "other")
    assert cli.main(["agent", "new", other, "--model", str(toy), "--format", "plain"]) == 0
    capsys.readouterr()
    assert cli.main(["agent", "import", other, str(file), "--source", "alice", "--json"]) == 0
    assert read(capsys.readouterr().out) == {"source": "alice", "lessons": [1, 2], "none": 0, "reason": ""}


def test_in_a_terminal_it_says_what_happened(agent):
    answer, _ = taught(agent, 1)
    assert "\n(version 0, id " in agent("say", "What is 1 + 1?", "--max_new_tokens", 4)
    assert agent("teach", answer["id"], "It is 2.") == "no lesson: taught already as lesson 1\n"
    assert "served    1 lesson of local" in agent("learn") and agent("learn") == "no lesson waits\n"
    assert agent("versions").splitlines()[1].startswith("*   1")
    assert "serving    1" in agent("status")
    assert agent("rollback").startswith("*   0")
    assert "every byte is as it was written" in agent("verify")


def test_what_is_wrong_is_one_line(agent, tmp_path):
    for arguments, said in (
        (("teach", "nope", "x"), "no event 'nope'"),
        (("serve", 7), "there is no version 7"),
        (("admit", 4), "lesson 4 was not set aside"),
        (("admit",), "no lesson is named"),
        (("forget", "nobody"), "there is no source nobody"),
        (("source", "bob", "--rights", "rule"), "unknown right 'rule'"),
        (("import", tmp_path / "none.jsonl", "--source", "a"), "No such file"),
        (("new",), "an agent lives here already"),
    ):
        err = agent(*arguments, code=2)
        assert said in err and len(err.splitlines()) == 1, err
    (agent.home / "config.json").write_bytes(b"{}" + (agent.home / "config.json").read_bytes()[2:])
    assert len(agent("verify", code=5).splitlines()) == 1


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_and_knows_json(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["agent", verb, "--help"])
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert f"Example: cicjax agent {verb}" in shown and "--json" in shown and "HOME" in shown


@pytest.mark.parametrize("verb", list(VERBS)[1:])
def test_where_no_agent_lives_every_verb_says_so(verb, tmp_path, capsys):
    more = {"say": ["x"], "teach": ["x", "y"], "judge": ["x", "right"], "serve": ["1"], "admit": ["1"]}
    more |= {
        "source": ["a", "--rights", "chat"],
        "key": ["a", "--rights", "chat"],
        "forget": ["a"],
        "rebuild": ["--into", str(tmp_path / "b")],
    }
    more |= {"import": [str(tmp_path / "c"), "--source", "a"]}
    asked = {"role": "user", "author": "user", "content": "?"}
    turns = [asked, {"role": "assistant", "author": "teacher", "content": "!"}]
    (tmp_path / "c").write_text(json.dumps({"id": "1", "messages": turns}))
    assert cli.main(["agent", verb, str(tmp_path / "home"), *more.get(verb, [])]) == 2
    err = capsys.readouterr().err
    assert "no agent lives here" in err and len(err.splitlines()) == 1
