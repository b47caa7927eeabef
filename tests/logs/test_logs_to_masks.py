r"""From a log to its mask: one short log of each format through `cicjax convert` and `cicjax mask`, down to
literal grids.

A line of a grid is a run of tokens, `·` between them and line breaks written `\n`, that share all facts:
gamma, is_target, the interventional and the observational weight, the interventional weight where all of the
world is a target, and the author.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from cicjax import cli
from cicjax.assets import default_model_folder
from cicjax.logs.native import read_native

VIEWS = (("interventional", "teacher"), ("observational", "teacher"), ("interventional", "world"))


def masks(native: Path, capsys: pytest.CaptureFixture[str]) -> list[tuple[Any, ...]]:
    """Every token of the file with its facts, as the command line says them."""
    views = []
    for objective, targets in VIEWS:
        capsys.readouterr()
        settings = ("--format", "chatml", "--objective", objective, "--targets", targets)
        assert (
            cli.main(["mask", str(native), "--json", "--tokenizer", str(default_model_folder()), *settings])
            == 0
        )
        (record,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
        views.append(record)
    first, *others = views
    assert all(
        other[key] == first[key] for other in others for key in ("id", "tokens", "text", "gamma", "author")
    )
    return list(
        zip(
            first["text"],
            first["gamma"],
            first["is_target"],
            *(view["weight"] for view in views),
            first["author"],
            strict=True,
        )
    )


def drawn(grid: str) -> list[tuple[Any, ...]]:
    """The tokens of a grid, each with its facts."""
    rows = []
    for line in grid.strip("\n").split("\n")[1:]:
        digits, author, pieces = line[:9].split(), line[11:22].strip(), line[24:]
        rows += [(piece.replace("\\n", "\n"), *map(int, digits), author) for piece in pieces.split("·")]
    return rows


def check(log: Path, arguments: str, authors: str, grid: str, capsys: pytest.CaptureFixture[str]) -> None:
    native = log.with_name("native.jsonl")
    assert cli.main(["convert", str(log), "--output", str(native), *arguments.split()]) == 0
    (episode,) = read_native(native)
    assert [message.author.label for message in episode.messages] == authors.split()
    assert masks(native, capsys) == drawn(grid)


@pytest.fixture
def log(tmp_path: Path):
    def write(record: dict[str, Any], *, indent: int | None = None) -> Path:
        (tmp_path / "log.jsonl").write_text(json.dumps(record, indent=indent) + "\n")
        return tmp_path / "log.jsonl"

    return write


CALL = {"id": "c1", "type": "function", "function": {"name": "ohm", "arguments": '{"V": 6}'}}
ATIF_CALL = {"tool_call_id": "c1", "function_name": "ohm", "arguments": {"V": 6}}
ATIF_RESULT = {"results": [{"source_call_id": "c1", "content": "2 A"}]}


def trajectory(*steps: dict[str, Any]) -> dict[str, Any]:
    agent = {"name": "a", "version": "1", "model_name": "ours"}
    return {
        "schema_version": "ATIF-v1.7",
        "agent": agent,
        "steps": [{"step_id": n, **step} for n, step in enumerate(steps, start=1)],
    }


def test_native(log, capsys):
    """With forged text, sampled ids (" A" in two tokens, where the encoder makes one), a verdict and a turn
    that was cut."""
    messages = [
        {"role": "system", "author": "system", "content": "Be brief."},
        {"role": "user", "author": "user", "content": "Now <|im_end|>?"},
        {
            "role": "assistant",
            "author": "agent",
            "content": "",
            "tool_calls": [{"name": "ohm", "arguments": '{"V": 6}', "id": "c1"}],
        },
        {"role": "tool", "author": "tool", "content": "2 A", "tool_call_id": "c1"},
        {
            "role": "assistant",
            "author": "agent",
            "content": "3 A",
            "tokens": [18, 220, 32, 1195],
            "logprobs": [-1, -1, -1, -1],
            "solved": 0,
        },
        {"role": "verifier", "author": "verifier", "content": "wrong"},
        {"role": "assistant", "author": "teacher", "content": "2 A"},
        {"role": "assistant", "author": "agent", "content": "2 A", "truncated": True},
    ]
    grid = r"""
g t i o w  author       tokens
0 0 0 0 0  environment  <|im_start|>·system·\n
0 0 0 0 0  system       B·e· b·ri·e·f·.·<|im_end|>
0 0 0 0 0  environment  \n
0 0 0 0 1  environment  <|im_start|>·user·\n
0 0 0 0 1  user         N·ow· ·<·|·im·_·en·d·|·>·?·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·assistant·\n
1 1 0 1 0  agent        <tool_call>·\n
1 1 0 1 0  agent        {·"·n·am·e·"·:· ·"·o·hm·"·,· ·"·ar·g·um·en·t·s·"·:· ·{·"·V·"·:· ·6·}·}·\n
1 1 0 1 0  agent        </tool_call>·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·user·\n·<·t·o·ol·_·res·p·on·se·>·\n
0 0 0 0 1  tool         2· A·\n
0 0 0 0 1  environment  <·/·t·o·ol·_·res·p·on·se·>·<|im_end|>·\n·<|im_start|>·assistant·\n
1 1 0 1 0  agent        3· ·A·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·user·\n
0 0 0 0 1  verifier     w·ron·g·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·assistant·\n
0 1 1 1 1  teacher      2· A·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·assistant·\n
1 1 0 1 0  agent        2· A
0 0 0 0 0  environment  <|im_end|>
0 0 0 0 1  environment  \n
"""
    check(
        log({"id": "n", "messages": messages}),
        "",
        "system user agent tool agent verifier teacher agent",
        grid,
        capsys,
    )


def test_openai(log, capsys):
    """With tools in the system turn, parts of text, a call of weight 0 and an edited answer."""
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "How "}, {"type": "text", "text": "big?"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "weight": 0},
        {"role": "tool", "tool_call_id": "c1", "content": "2 A"},
        {"role": "assistant", "content": "3 A", "weight": 1, "edited": "2 A"},
    ]
    grid = r"""
g t i o w  author       tokens
0 0 0 0 0  environment  <|im_start|>·system·\n
0 0 0 0 0  system       B·e· b·ri·e·f·.\n·\n·#· ·To·ol·s·\n·\n·You· m·a·y· c·all· one· o·r· mor·e
0 0 0 0 0  system        f·un·ction·s
0 0 0 0 0  system        to· ass·ist· with· the· ·user· q·u·er·y·.\n·\n·You· are· pro·v·id·ed· with
0 0 0 0 0  system        f·un·ction
0 0 0 0 0  system        s·ig·n·atur·es· with·in· ·<·t·o·ol·s·>·<·/·t·o·ol·s·>· X·M·L· t·ag·s·:\n
0 0 0 0 0  system       <·t·o·ol·s·>·\n
0 0 0 0 0  system       {·"·t·y·p·e·"·:· ·"·f·un·ction·"·,
0 0 0 0 0  system        ·"·f·un·ction·"·:· ·{·"·n·am·e·"·:· ·"·o·hm·"·}·}·\n
0 0 0 0 0  system       <·/·t·o·ol·s·>·\n·\n·F·or· ·e·a·ch· f·un·ction· c·all·,· r·et·ur·n· a· ·j·s·on
0 0 0 0 0  system        o·b·j·ect· with
0 0 0 0 0  system        f·un·ction· n·am·e· and· a·r·g·um·en·t·s· with·in· ·<tool_call>
0 0 0 0 0  system       </tool_call>· X·M·L· t·ag·s·:\n
0 0 0 0 0  system       <tool_call>·\n·{·"·n·am·e·"·:· ·<·f·un·ction·-·n·am·e·>·,· ·"·ar·g·um·en·t·s·"·:
0 0 0 0 0  system        ·<·ar·g·s·-·j·s·on·-·ob·j·ect·>·}·\n·</tool_call>·<|im_end|>
0 0 0 0 0  environment  \n
0 0 0 0 1  environment  <|im_start|>·user·\n
0 0 0 0 1  user         How· b·ig·?·<|im_end|>
0 0 0 0 1  environment  \n
0 0 0 0 0  environment  <|im_start|>·assistant·\n
1 0 0 0 0  agent        <tool_call>·\n
1 0 0 0 0  agent        {·"·n·am·e·"·:· ·"·o·hm·"·,· ·"·ar·g·um·en·t·s·"·:· ·{·"·V·"·:· ·6·}·}·\n
1 0 0 0 0  agent        </tool_call>·<|im_end|>
0 0 0 0 0  environment  \n
0 0 0 0 1  environment  <|im_start|>·user·\n·<·t·o·ol·_·res·p·on·se·>·\n
0 0 0 0 1  tool         2· A·\n
0 0 0 0 1  environment  <·/·t·o·ol·_·res·p·on·se·>·<|im_end|>·\n·<|im_start|>·assistant·\n
1 1 0 1 0  agent        3· A·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·assistant·\n
0 1 1 1 1  teacher      2· A·<|im_end|>
0 0 0 0 1  environment  \n
"""
    record = {"messages": messages, "tools": [{"type": "function", "function": {"name": "ohm"}}]}
    check(
        log(record),
        "--assistant_author agent --corrections edited",
        "system user agent tool agent teacher",
        grid,
        capsys,
    )


def test_trl_messages(log, capsys):
    """With a model beside each answer, a call after some words, arguments as an object and no system turn."""
    messages = [
        {"role": "user", "content": "How big?"},
        {
            "role": "assistant",
            "model": "ours",
            "content": "Look:",
            "tool_calls": [{"type": "function", "function": {"name": "ohm", "arguments": {"V": 6}}}],
        },
        {"role": "tool", "name": "ohm", "content": "2 A"},
        {"role": "assistant", "model": "ours", "content": "3 A"},
        {"role": "assistant", "model": "theirs", "content": "2 A"},
    ]
    grid = r"""
g t i o w  author       tokens
0 0 0 0 0  environment  <|im_start|>·system·\n
0 0 0 0 0  system       You· are· ·Q·w·en·,· c·re·ated· by· A·l·ib·ab·a· C·l·ou·d·.· Y·ou· are· a
0 0 0 0 0  system        helpful
0 0 0 0 0  system        assistant·.·<|im_end|>
0 0 0 0 0  environment  \n
0 0 0 0 1  environment  <|im_start|>·user·\n
0 0 0 0 1  user         How· b·ig·?·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·assistant·\n
1 1 0 1 0  agent        L·o·o·k·:\n·<tool_call>·\n
1 1 0 1 0  agent        {·"·n·am·e·"·:· ·"·o·hm·"·,· ·"·ar·g·um·en·t·s·"·:· ·{·"·V·"·:· ·6·}·}·\n
1 1 0 1 0  agent        </tool_call>·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·user·\n·<·t·o·ol·_·res·p·on·se·>·\n
0 0 0 0 1  tool         2· A·\n
0 0 0 0 1  environment  <·/·t·o·ol·_·res·p·on·se·>·<|im_end|>·\n·<|im_start|>·assistant·\n
1 1 0 1 0  agent        3· A·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·assistant·\n
0 1 1 1 1  teacher      2· A·<|im_end|>
0 0 0 0 1  environment  \n
"""
    check(
        log({"messages": messages}),
        "--from trl --agent_models ours",
        "user agent tool agent teacher",
        grid,
        capsys,
    )


def test_trl_prompt_and_completion(log, capsys):
    """The prompt is context, the call of the agent's in it too."""
    prompt = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How big?"},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "2 A"},
    ]
    completion = [
        {"role": "assistant", "content": "3 A", "edited": "2 A"},
        {"role": "user", "content": "Why?"},
    ]
    grid = r"""
g t i o w  author       tokens
0 0 0 0 0  environment  <|im_start|>·system·\n
0 0 0 0 0  system       B·e· b·ri·e·f·.·<|im_end|>
0 0 0 0 0  environment  \n·<|im_start|>·user·\n
0 0 0 0 0  user         How· b·ig·?·<|im_end|>
0 0 0 0 0  environment  \n·<|im_start|>·assistant·\n
1 0 0 0 0  agent        <tool_call>·\n
1 0 0 0 0  agent        {·"·n·am·e·"·:· ·"·o·hm·"·,· ·"·ar·g·um·en·t·s·"·:· ·{·"·V·"·:· ·6·}·}·\n
1 0 0 0 0  agent        </tool_call>·<|im_end|>
0 0 0 0 0  environment  \n·<|im_start|>·user·\n·<·t·o·ol·_·res·p·on·se·>·\n
0 0 0 0 0  tool         2· A·\n
0 0 0 0 0  environment  <·/·t·o·ol·_·res·p·on·se·>·<|im_end|>·\n
0 0 0 0 1  environment  <|im_start|>·assistant·\n
1 1 0 1 0  agent        3· A·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·assistant·\n
0 1 1 1 1  teacher      2· A·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·user·\n
0 0 0 0 1  user         W·h·y·?·<|im_end|>
0 0 0 0 1  environment  \n
"""
    record = {"prompt": prompt, "completion": completion}
    check(
        log(record),
        "--assistant_author agent --corrections edited",
        "system user agent tool agent teacher user",
        grid,
        capsys,
    )


def test_axolotl_messages(log, capsys):
    """What has train false weighs nothing under any objective, whoever wrote it."""
    messages = [
        {"role": "user", "content": "How big?", "train": False},
        {"role": "assistant", "model": "ours", "tool_calls": [CALL], "train": True},
        {"role": "tool", "tool_call_id": "c1", "content": "2 A", "train": True},
        {"role": "assistant", "model": "ours", "content": "3 A", "train": False},
        {"role": "assistant", "model": "theirs", "content": "2 A", "train": True},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "model": "theirs", "content": "No.", "train": False},
    ]
    grid = r"""
g t i o w  author       tokens
0 0 0 0 0  environment  <|im_start|>·system·\n
0 0 0 0 0  system       B·e· b·ri·e·f·.·<|im_end|>
0 0 0 0 0  environment  \n·<|im_start|>·user·\n
0 0 0 0 0  user         How· b·ig·?·<|im_end|>
0 0 0 0 0  environment  \n
0 0 0 0 1  environment  <|im_start|>·assistant·\n
1 1 0 1 0  agent        <tool_call>·\n
1 1 0 1 0  agent        {·"·n·am·e·"·:· ·"·o·hm·"·,· ·"·ar·g·um·en·t·s·"·:· ·{·"·V·"·:· ·6·}·}·\n
1 1 0 1 0  agent        </tool_call>·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·user·\n·<·t·o·ol·_·res·p·on·se·>·\n
0 0 0 0 1  tool         2· A·\n
0 0 0 0 1  environment  <·/·t·o·ol·_·res·p·on·se·>·<|im_end|>·\n
0 0 0 0 0  environment  <|im_start|>·assistant·\n
1 0 0 0 0  agent        3· A·<|im_end|>
0 0 0 0 0  environment  \n
0 0 0 0 1  environment  <|im_start|>·assistant·\n
0 1 1 1 1  teacher      2· A·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·user·\n
0 0 0 0 1  user         W·h·y·?·<|im_end|>
0 0 0 0 1  environment  \n
0 0 0 0 0  environment  <|im_start|>·assistant·\n
0 0 0 0 0  teacher      N·o·.·<|im_end|>
0 0 0 0 0  environment  \n
"""
    authors = "system user agent tool agent teacher user teacher"
    check(log({"system": "Be brief.", "messages": messages}), "--agent_models ours", authors, grid, capsys)


def test_sharegpt_conversations(log, capsys):
    """A call that the log has as text stays text."""
    conversations = [
        {"from": "system", "value": "Be brief.", "weight": 0},
        {"from": "human", "value": "How big?"},
        {"from": "gpt", "value": "<tool_call>ohm</tool_call>"},
        {"from": "function", "value": "2 A"},
        {"from": "gpt", "value": "3 A", "edited": "2 A"},
    ]
    grid = r"""
g t i o w  author       tokens
0 0 0 0 0  environment  <|im_start|>·system·\n
0 0 0 0 0  system       B·e· b·ri·e·f·.·<|im_end|>
0 0 0 0 0  environment  \n
0 0 0 0 1  environment  <|im_start|>·user·\n
0 0 0 0 1  user         How· b·ig·?·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·assistant·\n
1 1 0 1 0  agent        <·t·o·ol·_·c·all·>·o·hm·<·/·t·o·ol·_·c·all·>·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·user·\n·<·t·o·ol·_·res·p·on·se·>·\n
0 0 0 0 1  tool         2· A·\n
0 0 0 0 1  environment  <·/·t·o·ol·_·res·p·on·se·>·<|im_end|>·\n·<|im_start|>·assistant·\n
1 1 0 1 0  agent        3· A·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·assistant·\n
0 1 1 1 1  teacher      2· A·<|im_end|>
0 0 0 0 1  environment  \n
"""
    record = {"conversations": conversations}
    check(
        log(record),
        "--assistant_author agent --corrections edited",
        "system user agent tool agent teacher",
        grid,
        capsys,
    )


def test_atif_with_ids_and_copied_context(log, capsys):
    """The agent's ids are used as they are; the teacher's, of a vocabulary of its own, are not."""
    steps = [
        {"source": "system", "message": "Be brief.", "is_copied_context": True},
        {"source": "user", "message": "How big?", "is_copied_context": True},
        {"source": "agent", "message": "5 A", "is_copied_context": True},
        {"source": "user", "message": "Now?"},
        {
            "source": "agent",
            "message": "ohm",
            "tool_calls": [ATIF_CALL],
            "observation": ATIF_RESULT,
            "metrics": {"completion_token_ids": [78, 71, 76, 1195], "logprobs": [-1, -1, -1, -1]},
        },
        {"source": "agent", "message": "3 A", "metrics": {"completion_token_ids": [18, 220, 32, 1195]}},
        {
            "source": "agent",
            "model_name": "theirs",
            "message": "2 A",
            "metrics": {"completion_token_ids": [90_000]},
        },
    ]
    grid = r"""
g t i o w  author       tokens
0 0 0 0 0  environment  <|im_start|>·system·\n
0 0 0 0 0  system       B·e· b·ri·e·f·.·<|im_end|>
0 0 0 0 0  environment  \n·<|im_start|>·user·\n
0 0 0 0 0  user         How· b·ig·?·<|im_end|>
0 0 0 0 0  environment  \n·<|im_start|>·assistant·\n
1 0 0 0 0  agent        5· A·<|im_end|>
0 0 0 0 0  environment  \n
0 0 0 0 1  environment  <|im_start|>·user·\n
0 0 0 0 1  user         N·ow·?·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·assistant·\n
1 1 0 1 0  agent        o·h·m·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·user·\n·<·t·o·ol·_·res·p·on·se·>·\n
0 0 0 0 1  tool         2· A·\n
0 0 0 0 1  environment  <·/·t·o·ol·_·res·p·on·se·>·<|im_end|>·\n·<|im_start|>·assistant·\n
1 1 0 1 0  agent        3· ·A·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·assistant·\n
0 1 1 1 1  teacher      2· A·<|im_end|>
0 0 0 0 1  environment  \n
"""
    check(
        log(trajectory(*steps), indent=2),
        "--agent_models ours",
        "system user agent user agent tool agent teacher",
        grid,
        capsys,
    )


def test_atif_without_ids(log, capsys):
    """A result of no call is the environment's, in the user's role."""
    steps = [
        {"source": "user", "message": "How big?"},
        {"source": "agent", "message": "", "tool_calls": [ATIF_CALL], "observation": ATIF_RESULT},
        {"source": "agent", "message": "5 A", "observation": {"results": [{"content": "Why?"}]}},
        {"source": "agent", "message": "3 A", "edited": "2 A"},
    ]
    grid = r"""
g t i o w  author       tokens
0 0 0 0 0  environment  <|im_start|>·system·\n
0 0 0 0 0  system       You· are· ·Q·w·en·,· c·re·ated· by· A·l·ib·ab·a· C·l·ou·d·.· Y·ou· are· a
0 0 0 0 0  system        helpful
0 0 0 0 0  system        assistant·.·<|im_end|>
0 0 0 0 0  environment  \n
0 0 0 0 1  environment  <|im_start|>·user·\n
0 0 0 0 1  user         How· b·ig·?·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·assistant·\n
1 1 0 1 0  agent        <tool_call>·\n
1 1 0 1 0  agent        {·"·n·am·e·"·:· ·"·o·hm·"·,· ·"·ar·g·um·en·t·s·"·:· ·{·"·V·"·:· ·6·}·}·\n
1 1 0 1 0  agent        </tool_call>·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·user·\n·<·t·o·ol·_·res·p·on·se·>·\n
0 0 0 0 1  tool         2· A·\n
0 0 0 0 1  environment  <·/·t·o·ol·_·res·p·on·se·>·<|im_end|>·\n·<|im_start|>·assistant·\n
1 1 0 1 0  agent        5· A·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·user·\n·W·h·y·?·<|im_end|>·\n·<|im_start|>·assistant·\n
1 1 0 1 0  agent        3· A·<|im_end|>
0 0 0 0 1  environment  \n·<|im_start|>·assistant·\n
0 1 1 1 1  teacher      2· A·<|im_end|>
0 0 0 0 1  environment  \n
"""
    authors = "user agent tool agent environment agent teacher"
    check(
        log(trajectory(*steps), indent=2),
        "--assistant_author agent --corrections edited",
        authors,
        grid,
        capsys,
    )


def test_what_is_learned_from_the_tool_log_of_the_readme_are_its_edits(tmp_path, capsys):
    """tests/data/tool_use.jsonl: ten conversations with one tool, nine answers edited by a person, the other
    turns the agent's."""
    log, native = Path(__file__).parents[1] / "data" / "tool_use.jsonl", tmp_path / "episodes.jsonl"
    assert (
        cli.main(
            [
                "convert",
                str(log),
                "--assistant_author",
                "agent",
                "--corrections",
                "edited",
                "--output",
                str(native),
            ]
        )
        == 0
    )
    assert "10 episodes from openai, 67 turns by agent 24, teacher 9," in capsys.readouterr().out
    assert cli.main(["mask", str(native), "--tokenizer", str(default_model_folder()), "--audit"]) == 0
    capsys.readouterr()
    assert cli.main(["mask", str(native), "--tokenizer", str(default_model_folder()), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    learned = "".join(
        text for row in rows for text, weight in zip(row["text"], row["weight"], strict=True) if weight
    )
    messages = [message for line in log.read_text().splitlines() for message in json.loads(line)["messages"]]
    edits = [message["edited"] for message in messages if "edited" in message]
    assert len(edits) == 9
    assert learned == "".join(edit + "<|im_end|>" for edit in edits)
