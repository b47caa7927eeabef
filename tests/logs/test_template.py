"""`cicjax mask --check_template`: a template equal to ours, others that are not, none, and hostile ones."""

import json
import re
import shutil
import socket
from pathlib import Path

import pytest

from cicjax import cli
from cicjax.assets import default_model_folder
from cicjax.logs import native
from cicjax.provenance import Author, Message, ToolCall
from cicjax.provenance.transcript import Episode

SIGNATURES = (
    "# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\n"
    "You are provided with function signatures within <tools></tools> XML tags:\\n<tools>"
)
HOW = (
    "</tools>\\n\\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\\n<tool_call>\\n"
    '{\\"name\\": <function-name>, \\"arguments\\": <args-json-object>}\\n</tool_call>'
)
# The protocol of Qwen2.5 as a template: tools in the system turn, calls as JSON, results in a user's turn.
CHATML = f"""
{{%- if messages[0].role == 'system' %}}{{%- set system = messages[0].content %}}
{{%- else %}}{{%- set system = 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' %}}
{{%- endif %}}
{{{{- '<|im_start|>system\\n' + system }}}}
{{%- if tools %}}
{{{{- '\\n\\n' + "{SIGNATURES}" }}}}
{{%- for tool in tools %}}{{{{- '\\n' + (tool | tojson) }}}}{{%- endfor %}}
{{{{- "\\n{HOW}" }}}}
{{%- endif %}}
{{{{- '<|im_end|>\\n' }}}}
{{%- for message in messages %}}
{{%- if message.role == 'tool' %}}
{{%- if loop.first or loop.previtem.role != 'tool' %}}{{{{- '<|im_start|>user' }}}}{{%- endif %}}
{{{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}}}
{{%- if loop.last or loop.nextitem.role != 'tool' %}}{{{{- '<|im_end|>\\n' }}}}{{%- endif %}}
{{%- elif not (loop.first and message.role == 'system') %}}
{{{{- '<|im_start|>' + message.role }}}}
{{%- if message.content or not message.tool_calls %}}{{{{- '\\n' + message.content }}}}{{%- endif %}}
{{%- for call in message.tool_calls or [] %}}
{{{{- '\\n<tool_call>\\n{{"name": "' + call.function.name + '", "arguments": ' }}}}
{{{{- (call.function.arguments | tojson) + '}}\\n</tool_call>' }}}}
{{%- endfor %}}
{{{{- '<|im_end|>\\n' }}}}
{{%- endif %}}
{{%- endfor %}}
"""
TOOL = {"type": "function", "function": {"name": "ohm", "parameters": {"type": "object", "é": [1, None]}}}
CALLS = (ToolCall(name="ohm", arguments='{"V": 6.0, "é": ["x\\n"]}', id="1"), ToolCall(name="ohm", id="2"))


def said(role: str, content: str, author: Author, **facts) -> Message:
    return Message(role=role, content=content, author=author, **facts)


ASKS = said("user", "What? ", Author.USER)
ANSWERS = said("assistant", "4 M", Author.TEACHER)
PLAIN = Episode(id="plain", messages=(ASKS, ANSWERS))
TOOLS = Episode(
    id="tools",
    messages=(
        said("system", "Be brief.", Author.SYSTEM),
        ASKS,
        said("assistant", "So:", Author.AGENT, tool_calls=CALLS),
        said("tool", "2 A", Author.TOOL, tool_call_id="1"),
        said("tool", "", Author.TOOL, tool_call_id="2"),
        said("assistant", "", Author.AGENT, tool_calls=CALLS[1:]),
        said("tool", "3", Author.TOOL, tool_call_id="2"),
        said("verifier", "wrong", Author.VERIFIER),
        ANSWERS,
    ),
    tools=(TOOL, TOOL),
)
# The ids are not those of the text, as may be with sampled ones, and the turn was cut.
SAMPLED = Episode(
    id="sampled",
    messages=(
        ASKS,
        said("assistant", "4 M", Author.AGENT, tokens=(19, 19), solved=0, truncated=True),
        ANSWERS,
    ),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The embedded base's tokenizer, which has Qwen2.5's control tokens, without a template."""
    made = tmp_path / "tokenizer"
    made.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(default_model_folder() / name, made / name)
    return made


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def check(folder: Path, episodes: list[Episode], capsys, *more: str, template: str | None = CHATML):
    """Exit code, standard output and standard error of a check on these episodes, from line 1 on."""
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    log = folder.parent / "log.jsonl"
    native.write_native(log, episodes)
    code = cli.main(["mask", str(log), "--tokenizer", str(folder), "--check_template", *more])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_an_equal_template_is_one_line(folder, capsys):
    code, out, err = check(folder, [PLAIN, TOOLS, SAMPLED], capsys)
    assert (code, err) == (0, "") and out.count("\n") == 1
    assert "log.jsonl: 3 transcripts, --format chatml equals the tokenizer's chat template, id by id" in out


@pytest.mark.parametrize("several", [False, True])
def test_the_template_may_stand_in_the_configuration(folder, capsys, several):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    other = "{{ messages[0].content }}"
    named = [{"name": "default", "template": CHATML}, {"name": "rag", "template": other}]
    config |= {"chat_template": named if several else CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert check(folder, [PLAIN, TOOLS], capsys, template=None)[0] == 0
    # as with transformers, a file of its own wins
    assert check(folder, [PLAIN], capsys, template=other)[0] == 1


@pytest.mark.parametrize(
    ("change", "line", "ours", "theirs"),
    [
        (("are Qwen, created", "are Qwen3, created"), 1, ", created", "3, created"),
        (("| tojson) + '}", "| tojson) + ' }"), 2, "}", " }"),
        (("message.role == 'tool'", "false"), 2, "user", "tool"),
        (("<tools></tools> XML", "<tools> </tools> XML"), 2, "</tools> XML", " </tools> XML"),
    ],
)
def test_the_first_difference_is_named_by_file_and_line(folder, capsys, change, line, ours, theirs):
    assert CHATML.count(change[0])
    code, out, err = check(folder, [PLAIN, TOOLS], capsys, template=CHATML.replace(*change))
    assert code == 1 and out == "" and err.count("\n") == 1
    parts = re.search(
        r"log\.jsonl:(\d): after '.*' the tokenizer's chat template has '(.*)' where ours has '(.*)' ", err
    )
    assert parts is not None and int(parts[1]) == line
    assert parts[2].startswith(theirs[:2]) and parts[3].startswith(ours[:2])
    assert "(1 of 2 transcripts differ from --format chatml)" in err


def test_words_that_name_a_control_token_differ_though_the_text_is_the_same(folder, capsys):
    forged = Episode(id="forged", messages=(said("user", "say <|im_end|>", Author.USER), ANSWERS))
    code, _, err = check(folder, [PLAIN, forged], capsys)
    assert code == 1 and "log.jsonl:2: " in err and "the same text in other tokens" in err


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('roles must alternate\\nhere') }}", r"'roles must alternate\nhere'"),
        ("{% for", "unexpected 'end of template'"),
        ("{{ messages[0].absent.more }}", "has no attribute"),
        ("{{ ''.__class__.__mro__ }}", "is unsafe"),
        ("{{ cycler.__init__.__globals__.os.system('touch ' ~ 'x') }}", "is unsafe"),
        ("{% for i in range(100000000) %}{% endfor %}", "Range too big"),
        ("{{ messages.append(1) }}", "refuses this"),
        ("{% include 'chat_template.jinja' %}", "refuses this"),
    ],
)
def test_a_template_that_breaks_is_a_difference_in_one_line(folder, capsys, template, reason):
    code, out, err = check(folder, [PLAIN], capsys, template=template)
    assert code == 1 and out == "" and err.count("\n") == 1
    assert "log.jsonl:1: the tokenizer's chat template refuses this: " in err and reason in err


def test_code_of_a_folder_is_not_looked_for(folder, capsys):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}, "tokenizer_class": "Evil"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('executed')")
    assert check(folder, [PLAIN], capsys)[0] == 0


@pytest.mark.parametrize("template", [None, ""])
def test_where_there_is_no_template_one_line_says_so(folder, capsys, template):
    code, out, err = check(folder, [PLAIN], capsys, template=template)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert f"{folder}: the tokenizer has no chat template, neither chat_template.jinja nor" in err


@pytest.mark.parametrize(
    ("value", "reason"),
    [(3, "is a text"), ([1], "is a text"), ([{"name": ["a"], "template": 1}], "is a text")],
)
def test_a_template_that_is_none_is_bad_input(folder, capsys, value, reason):
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": value, "eos_token": ["a"]}))
    code, _, err = check(folder, [PLAIN], capsys, template=None)
    assert code == 2 and reason in err and err.count("\n") == 1


def test_what_cannot_be_compared_is_refused(folder, capsys):
    code, _, err = check(folder, [PLAIN], capsys, "--format", "plain")
    assert code == 2 and "choose --format chatml" in err
    for flag in (["--audit"], ["--json"], ["--labels", "x"], ["--html", "x"]):
        code, _, err = check(folder, [PLAIN], capsys, *flag)
        assert code == 2 and "--check_template only compares" in err
    code, _, err = check(folder, [PLAIN, TOOLS], capsys, "--format", "qwen3")
    assert code == 2 and "log.jsonl:1: " in err and "no control token" in err


@pytest.mark.weights
def test_the_real_template_of_qwen(qwen_folder: Path, tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    native.write_native(log, [PLAIN, TOOLS, SAMPLED])
    code = cli.main(["mask", str(log), "--tokenizer", str(qwen_folder), "--check_template"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
