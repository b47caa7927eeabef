"""Logs of others: each format, after its documentation, becomes literal native episodes; authors are never
guessed."""

import dataclasses
import json
import re
import typing
from pathlib import Path

import pytest

from cicjax.commands.convert import Convert
from cicjax.errors import BadInput
from cicjax.logs import formats, native
from cicjax.logs.attribution import Attribution, Reading
from cicjax.provenance import Author, Message, ToolCall

AGENT = Attribution(assistant_author=Author.AGENT)
TEACHER = Attribution(assistant_author=Author.TEACHER)
NOBODY = Attribution()
LIGHTS = {"type": "function", "function": {"name": "control_light", "parameters": {"type": "object"}}}


def system(content: str, **facts) -> Message:
    return Message(role="system", content=content, author=Author.SYSTEM, **facts)


def user(content: str, **facts) -> Message:
    return Message(role="user", content=content, author=Author.USER, **facts)


def agent(content: str, **facts) -> Message:
    return Message(role="assistant", content=content, author=Author.AGENT, **facts)


def teacher(content: str, **facts) -> Message:
    return Message(role="assistant", content=content, author=Author.TEACHER, **facts)


def tool(content: str, **facts) -> Message:
    return Message(role="tool", content=content, author=Author.TOOL, **facts)


def write(path: Path, *records) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def log(tmp_path):
    return lambda *records: write(tmp_path / "log.jsonl", *records)


def test_openai_messages_with_tools_and_weights(log):
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "control_light", "arguments": '{"room":"hall"}'},
    }
    file = log(
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "Hall "}, {"type": "text", "text": "lights on."}],
                },
                {"role": "assistant", "content": None, "tool_calls": [call], "weight": 0},
                {"role": "tool", "tool_call_id": "call_1", "content": "on"},
                {"role": "assistant", "content": "Done.", "weight": 1, "name": "lamp"},
            ],
            "tools": [LIGHTS],
            "parallel_tool_calls": False,
        },
        {
            "messages": [{"role": "assistant", "content": None, "refusal": "No."}],
            "id": 7,
            "metadata": {"day": 1},
        },
    )
    assert formats.read("openai", file, AGENT) == [
        native.Episode(
            id="1",
            source="openai",
            messages=(
                system("Be brief."),
                user("Hall lights on."),
                agent(
                    "",
                    context_only=True,
                    tool_calls=(ToolCall(name="control_light", arguments='{"room":"hall"}', id="call_1"),),
                ),
                tool("on", tool_call_id="call_1"),
                agent("Done."),
            ),
            tools=(LIGHTS,),
            meta={"parallel_tool_calls": False, "turns": {"5": {"name": "lamp"}}},
            line=1,
        ),
        native.Episode(
            id="7", source="openai", messages=(agent("No."),), meta={"metadata": {"day": 1}}, line=2
        ),
    ]


def test_trl_messages_of_its_tool_calling_example(log):
    call = {
        "type": "function",
        "function": {"name": "control_light", "arguments": {"room": "living room", "state": "on"}},
    }
    file = log(
        {
            "messages": [
                {"role": "user", "content": "Turn on the living room lights.", "tool_calls": None},
                {"role": "assistant", "tool_calls": [call]},
                {
                    "role": "tool",
                    "name": "control_light",
                    "content": "The lights in the living room are now on.",
                },
                {"role": "assistant", "content": "Done!", "thinking": "Easy."},
            ],
            "tools": json.dumps([LIGHTS]),
        }
    )
    (episode,) = formats.read("trl", file, TEACHER)
    assert episode.messages == (
        user("Turn on the living room lights."),
        teacher(
            "",
            tool_calls=(ToolCall(name="control_light", arguments='{"room": "living room", "state": "on"}'),),
        ),
        tool("The lights in the living room are now on."),
        teacher("Done!"),
    )
    assert episode.tools == (LIGHTS,)
    assert episode.meta == {"turns": {"3": {"name": "control_light"}, "4": {"reasoning": "Easy."}}}


def test_trl_prompts_are_context_and_completions_are_not(log):
    shot = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "2+2?"},
    ]
    file = log(
        {"prompt": "The sky is", "completion": " blue."},
        {"prompt": shot, "completion": [{"role": "assistant", "content": "4"}]},
    )
    standard, conversational = formats.read("trl", file, TEACHER)
    assert standard.messages == (user("The sky is", context_only=True), teacher(" blue."))
    assert conversational.messages == (
        user("1+1?", context_only=True),
        teacher("2", context_only=True),
        user("2+2?", context_only=True),
        teacher("4"),
    )


def test_axolotl_and_sharegpt_spellings_are_one(log):
    file = log(
        {
            "conversations": [
                {"from": "system", "value": "You are an AI assistant.", "train": False},
                {"from": "human", "value": "Hello", "train": False},
                {"from": "assistant", "value": "Hello", "train": True},
                {"from": "human", "value": "Look it up.", "train": True},
                {"from": "gpt", "value": "Looking.", "weight": 0},
                {"from": "function", "value": "found"},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Ho", "train": False},
            ],
            "system": "Be kind.",
        },
    )
    shared, chat = formats.read("axolotl", file, TEACHER)
    assert shared.messages == (
        system("You are an AI assistant.", context_only=True),
        user("Hello", context_only=True),
        teacher("Hello"),
        user("Look it up."),
        teacher("Looking.", context_only=True),
        tool("found"),
    )
    assert chat.messages == (system("Be kind."), user("Hi"), teacher("Ho", context_only=True))
    assert (shared.source, chat.line) == ("axolotl", 2)


# After the example of ATIF's RFC, with a copied step, a second model, a step of no model, and ids that fit
# their log-probabilities.
TRAJECTORY = {
    "schema_version": "ATIF-v1.7",
    "session_id": "025B810F",
    "agent": {
        "name": "harbor-agent",
        "version": "1.0.0",
        "model_name": "ours",
        "tool_definitions": [LIGHTS],
        "extra": {},
    },
    "notes": "by hand",
    "final_metrics": {"total_steps": 6, "extra": {}},
    "steps": [
        {"step_id": 1, "source": "system", "message": "Look up prices.", "is_copied_context": True},
        {
            "step_id": 2,
            "timestamp": "2025-10-11T10:30:00Z",
            "source": "user",
            "message": "Price and volume of GOOGL?",
            "extra": {},
        },
        {
            "step_id": 3,
            "source": "agent",
            "model_name": "ours",
            "reasoning_effort": "medium",
            "message": "I will search.",
            "reasoning_content": "Two data points.",
            "tool_calls": [
                {"tool_call_id": "price_1", "function_name": "search", "arguments": {"metric": "price"}},
                {"tool_call_id": "volume_2", "function_name": "search", "arguments": {}},
            ],
            "observation": {
                "results": [
                    {"source_call_id": "price_1", "content": "$185.35"},
                    {
                        "source_call_id": "volume_2",
                        "content": [{"type": "text", "text": "1.5M"}],
                        "extra": {"score": 1},
                    },
                ]
            },
            "metrics": {"prompt_tokens": 520, "completion_tokens": 80, "cost_usd": 0.00045},
        },
        {
            "step_id": 4,
            "source": "agent",
            "message": "$185.35",
            "reasoning_content": "Done.",
            "metrics": {
                "prompt_token_ids": [1],
                "completion_token_ids": [1722, 310, 29889],
                "logprobs": [-0.1, -0.05, -0.02],
            },
        },
        {
            "step_id": 5,
            "source": "agent",
            "model_name": "theirs",
            "message": "And 1.5M shares.",
            "metrics": {"completion_token_ids": [5, 6], "logprobs": [-1.0, -1.0]},
            "observation": {"results": [{"content": "thanks"}]},
        },
        {"step_id": 6, "source": "agent", "llm_call_count": 0, "message": "", "is_copied_context": False},
    ],
}


def _trajectory(*steps: dict, **root) -> dict:
    numbered = [{"step_id": n, "message": "m", **step} for n, step in enumerate(steps, start=1)]
    return {"schema_version": "ATIF-v1.7", "agent": {"name": "a", "version": "1"}, "steps": numbered, **root}


def test_an_atif_trajectory(tmp_path):
    (tmp_path / "trajectory.json").write_text(json.dumps(TRAJECTORY, indent=2))
    (episode,) = formats.read(
        "atif", tmp_path / "trajectory.json", Attribution(agent_models=frozenset({"ours"}))
    )
    searches = (
        ToolCall(name="search", arguments='{"metric": "price"}', id="price_1"),
        ToolCall(name="search", id="volume_2"),
    )
    assert episode == native.Episode(
        id="025B810F",
        source="atif",
        messages=(
            system("Look up prices.", context_only=True),
            user("Price and volume of GOOGL?"),
            agent("I will search.", tool_calls=searches),
            tool("$185.35", tool_call_id="price_1"),
            tool("1.5M", tool_call_id="volume_2"),
            agent("$185.35", tokens=(1722, 310, 29889), logprobs=(-0.1, -0.05, -0.02)),
            teacher("And 1.5M shares."),
            Message(role="user", content="thanks", author=Author.ENVIRONMENT),
            Message(role="assistant", content="", author=Author.ENVIRONMENT, context_only=True),
        ),
        tools=(LIGHTS,),
        meta={
            "agent": {"name": "harbor-agent", "version": "1.0.0", "model_name": "ours"},
            "session_id": "025B810F",
            "turns": {
                "3": {"model": "ours", "reasoning": "Two data points."},
                "6": {"model": "ours"},
                "7": {"model": "theirs"},
            },
        },
        line=1,
    )


def test_the_trajectories_of_these_tests_are_what_the_format_s_own_package_accepts():
    package = pytest.importorskip("harbor.models.trajectories")
    subagent = {**_trajectory({"source": "user"}), "trajectory_id": "s"}
    for trajectory in (TRAJECTORY, _trajectory({"source": "agent"}, subagent_trajectories=[subagent])):
        package.Trajectory.model_validate(trajectory, strict=True)


def test_keys_that_atif_does_not_know_are_kept(log):
    step = {"source": "agent", "mood": "good", "tool_calls": []}
    record = _trajectory(step, day=1, agent={"name": "a", "version": "1", "colour": "red"})
    (episode,) = formats.read("atif", log(record), AGENT)
    assert episode.meta == {
        "agent": {"name": "a", "version": "1"},
        "foreign": {"day": 1, "agent": {"colour": "red"}},
        "turns": {"1": {"foreign": {"mood": "good"}}},
    }


def test_log_probabilities_that_do_not_fit_the_ids_are_left_out(log):
    metrics = {"completion_token_ids": [1, 2], "logprobs": [-0.5]}
    (episode,) = formats.read("atif", log(_trajectory({"source": "agent", "metrics": metrics})), AGENT)
    assert (episode.messages[0].tokens, episode.messages[0].logprobs) == ((1, 2), None)


def test_what_came_of_a_copied_step_is_context_as_the_step_is(log):
    copied = {"source": "agent", "is_copied_context": True, "observation": {"results": [{"content": "x"}]}}
    (episode,) = formats.read("atif", log(_trajectory(copied, {"source": "agent"})), AGENT)
    assert [message.context_only for message in episode.messages] == [True, True, False]


def test_trajectories_a_line_each_and_subagents_after_their_parent(log):
    inner = {**_trajectory({"source": "user", "message": "in"}), "trajectory_id": "inner"}
    middle = {**_trajectory({"source": "user"}), "trajectory_id": "middle", "subagent_trajectories": [inner]}
    file = log(
        _trajectory({"source": "user"}, subagent_trajectories=[middle]),
        _trajectory({"source": "user"}, session_id="run"),
    )
    assert [(episode.id, episode.line) for episode in formats.read("atif", file, NOBODY)] == [
        ("1", 1),
        ("middle", 1),
        ("inner", 1),
        ("run", 2),
    ]


def _assistant(**facts) -> dict:
    return {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!", **facts}]}


@pytest.mark.parametrize(
    ("attribution", "record", "author"),
    [
        (AGENT, _assistant(), Author.AGENT),
        (TEACHER, _assistant(model="theirs"), Author.TEACHER),
        (Attribution(agent_models=frozenset({"ours"})), _assistant(model="ours"), Author.AGENT),
        (Attribution(agent_models=frozenset({"ours"})), _assistant(model="theirs"), Author.TEACHER),
        (Attribution(agent_models=frozenset({"ours"})), {**_assistant(), "model": "ours"}, Author.AGENT),
        (
            Attribution(agent_models=frozenset({"ours"})),
            {**_assistant(model="theirs"), "model": "ours"},
            Author.TEACHER,
        ),
        (Attribution(Author.TEACHER, frozenset({"ours"})), _assistant(), Author.TEACHER),
        (Attribution(Author.TEACHER, frozenset({"ours"})), _assistant(model="ours"), Author.AGENT),
        (Attribution(Author.AGENT, frozenset({"ours"})), _assistant(model="theirs"), Author.TEACHER),
        (NOBODY, _assistant(), "nothing says who wrote this assistant's turn"),
        (NOBODY, _assistant(model="theirs"), "this assistant's turn is by 'theirs'; say whether"),
        (
            Attribution(agent_models=frozenset({"ours"})),
            _assistant(),
            "nothing says who wrote this assistant's turn",
        ),
    ],
)
def test_who_wrote_an_assistants_turn_is_said_by_the_caller_or_refused(log, attribution, record, author):
    if isinstance(author, Author):
        (episode,) = formats.read("openai", log(record), attribution)
        assert episode.messages[1].author == author
    else:
        with pytest.raises(BadInput, match=rf"log\.jsonl:1: message 2: {author}"):
            formats.read("openai", log(record), attribution)


def test_a_log_without_assistant_turns_needs_nobody_s_word(log):
    (episode,) = formats.read("openai", log({"messages": [{"role": "user", "content": "?"}]}), NOBODY)
    assert episode.messages == (user("?"),)


def test_only_agents_and_teachers_speak_as_the_assistant():
    with pytest.raises(BadInput, match="by the agent or by a teacher"):
        Attribution(assistant_author=Author.USER)


def test_an_edited_turn_is_the_agents_and_its_edit_a_teachers(log):
    original, edit = agent("!"), teacher("!!")
    chat = log(_assistant(edited="!!", model="ours"))
    assert formats.read("openai", chat, NOBODY, corrections="edited")[0].messages[1:] == (original, edit)
    assert formats.read("openai", chat, TEACHER, corrections="edited")[0].messages[1:] == (original, edit)
    ours = Attribution(agent_models=frozenset({"ours"}))
    assert formats.read("trl", chat, ours, corrections="edited")[0].messages[1:] == (original, edit)
    with pytest.raises(BadInput, match="this one is by 'ours', which --agent_models does not list"):
        formats.read("openai", chat, Attribution(agent_models=frozenset({"other"})), corrections="edited")
    (kept,) = formats.read("openai", chat, AGENT)
    assert kept.messages[1:] == (original,)
    assert kept.meta == {"turns": {"2": {"model": "ours", "foreign": {"edited": "!!"}}}}
    shared = log(
        {
            "conversations": [
                {"from": "gpt", "value": "!", "edited": "!!"},
                {"from": "gpt", "value": "?", "edited": None},
            ]
        }
    )
    (episode,) = formats.read("axolotl", shared, AGENT, corrections="edited")
    assert episode.messages == (original, edit, agent("?"))
    steps = log(
        _trajectory(
            {"source": "agent", "message": "!", "edited": "!!", "metrics": {"completion_token_ids": [7, 8]}}
        )
    )
    (episode,) = formats.read("atif", steps, NOBODY, corrections="edited")
    assert episode.messages == (agent("!", tokens=(7, 8)), edit)


def test_notes_keep_the_number_of_their_turn_behind_a_correction(log):
    messages = [
        {"role": "assistant", "content": "a", "edited": "b"},
        {"role": "assistant", "content": "c", "name": "n"},
    ]
    (episode,) = formats.read("openai", log({"messages": messages}), AGENT, corrections="edited")
    assert episode.messages[2] == agent("c")
    assert episode.meta == {"turns": {"3": {"name": "n"}}}


def _message(**facts) -> dict:
    return {"messages": [{"role": "user", "content": "?", **facts}]}


def _call(**facts) -> dict:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}} | facts
    return {"messages": [{"role": "assistant", "tool_calls": [call]}]}


IMAGE = {"type": "image_url", "image_url": {"url": "x"}}
REFUSED = {
    "author in a message": (
        "openai",
        _message(author="teacher"),
        "message 1: has the key 'author', which this format does not know",
    ),
    "author of a record": ("trl", {**_message(), "author": "teacher"}, "has the key 'author'"),
    "author of a step": (
        "atif",
        _trajectory({"source": "agent", "author": "teacher"}),
        "step 1: has the key 'author'",
    ),
    "image": (
        "openai",
        _message(content=[IMAGE]),
        "message 1: part 1 of content is of type 'image_url', which a transcript of text",
    ),
    "sound": (
        "openai",
        _message(content=[{"type": "input_audio", "input_audio": {}}]),
        "of type 'input_audio'",
    ),
    "sound spoken": ("openai", _assistant(audio={"id": "1"}), "message 2: 'audio' cannot be carried: sound"),
    "images of a record": ("trl", {**_message(), "images": ["x"]}, "'images' cannot be carried"),
    "image seen by an agent": (
        "atif",
        _trajectory({"source": "user", "message": [{"type": "image", "source": {"path": "x"}}]}),
        "step 1: part 1 of message is of type 'image'",
    ),
    "part without text": (
        "openai",
        _message(content=[{"type": "text"}]),
        "part 1 of content is a string, not None",
    ),
    "no content": ("openai", _message(content=None), "message 1: has no content"),
    "empty assistant": ("openai", _assistant(content=None), "message 2: has no content"),
    "content and refusal": (
        "openai",
        _assistant(refusal="no"),
        "message 2: a refusal is what an assistant wrote instead of content",
    ),
    "older calls": (
        "openai",
        _assistant(function_call={}),
        "message 2: a tool call has a function with a name and arguments",
    ),
    "call without function": (
        "openai",
        _call(function=None),
        "a tool call has a function with a name and arguments",
    ),
    "weight a half": ("openai", _assistant(weight=0.5), "weight is 0 or 1, not 0.5"),
    "weight a truth": ("openai", _assistant(weight=True), "weight is 0 or 1, not True"),
    "train a number": ("axolotl", _assistant(train=0), "train is true or false, not 0"),
    "detail": ("axolotl", _assistant(train_detail=[0]), "'train_detail' cannot be carried"),
    "two spellings": ("axolotl", _message(**{"from": "human"}), "has both 'from' and 'role'"),
    "two systems": (
        "axolotl",
        {"system": "x", "messages": [{"role": "system", "content": "y"}]},
        "has a system prompt beside the messages",
    ),
    "two shapes": ("axolotl", {"messages": [], "conversations": []}, "a record has either messages"),
    "no shape": ("openai", {"id": "1"}, "a record has either messages"),
    "prompt alone": ("trl", {"prompt": "x"}, "a prompt with its completion"),
    "prompt and list": ("trl", {"prompt": "x", "completion": [{}]}, "prompt is a list, not 'x'"),
    "no message": ("openai", {"messages": []}, "a record has either messages"),
    "calls of a user": (
        "openai",
        _message(tool_calls=[{"name": "f", "arguments": "{}"}]),
        "tool_calls belong to",
    ),
    "messages no list": ("openai", {"messages": "x"}, "messages is a list"),
    "message no object": ("openai", {"messages": ["x"]}, "message 1: a message is a JSON object"),
    "id a truth": ("openai", {**_message(), "id": True}, "id is a string, not True"),
    "tools no JSON": ("trl", {**_message(), "tools": "[], 1"}, "the text of tools: not JSON"),
    "model a number": ("openai", {**_assistant(), "model": 1}, "model is a string, not 1"),
    "two reasonings": (
        "trl",
        _assistant(thinking="a", reasoning_content="b"),
        "has both 'reasoning_content' and 'thinking', which mean the same, with two texts",
    ),
    "unknown version": (
        "atif",
        _trajectory({"source": "user"}, schema_version="ATIF-v2.0"),
        "schema_version 'ATIF-v2.0' is not known",
    ),
    "a step missing": (
        "atif",
        _trajectory({"source": "user"}, {"source": "user", "step_id": 3}),
        "step 2: step_id is 3 where 2 is due",
    ),
    "no steps": ("atif", _trajectory(), "a trajectory needs the key 'steps'"),
    "observation of a user": (
        "atif",
        _trajectory(
            {"source": "user", "tool_calls": [{"tool_call_id": "1", "function_name": "f", "arguments": {}}]}
        ),
        "tool_calls belongs to steps of the agent",
    ),
    "unknown source": ("atif", _trajectory({"source": "tool"}), "unknown source 'tool'"),
    "agent without version": (
        "atif",
        _trajectory({"source": "user"}, agent={"name": "a"}),
        "agent needs the key 'version'",
    ),
    "context replaced": (
        "atif",
        _trajectory(
            {
                "source": "system",
                "extra": {"context_management": {"type": "compaction", "boundary": "replace"}},
            }
        ),
        "step 1: the agent's context was replaced here",
    ),
    "observation of a system": (
        "atif",
        _trajectory({"source": "system", "observation": {"results": [{"content": "x"}]}}),
        "an observation at a step of source system cannot be carried",
    ),
    "subagent without result": (
        "atif",
        _trajectory(
            {
                "source": "agent",
                "observation": {"results": [{"subagent_trajectory_ref": [{"trajectory_id": "x"}]}]},
            }
        ),
        "a subagent's work without what it gave back",
    ),
    "ids of many inferences": (
        "atif",
        _trajectory({"source": "agent", "llm_call_count": 2, "metrics": {"completion_token_ids": [1]}}),
        "completion_token_ids of 2 inferences in one step",
    ),
    "metrics of no inference": (
        "atif",
        _trajectory({"source": "agent", "llm_call_count": 0, "metrics": {}}),
        "llm_call_count is 0",
    ),
    "ids no integers": (
        "atif",
        _trajectory({"source": "agent", "metrics": {"completion_token_ids": [[1]]}}),
        "[1] is not a token id",
    ),
    "copied a number": (
        "atif",
        _trajectory({"source": "user", "is_copied_context": 1}),
        "is_copied_context is true or false, not 1",
    ),
    "in a subagent": (
        "atif",
        _trajectory(
            {"source": "user"},
            subagent_trajectories=[_trajectory({"source": "user"}), _trajectory({"source": "x"})],
        ),
        "subagent 2: step 1: unknown source 'x'",
    ),
}


@pytest.mark.parametrize(("name", "record", "complaint"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_carried_is_one_line_with_its_place(log, name, record, complaint):
    file = log(record)
    with pytest.raises(BadInput) as caught:
        formats.read(name, file, AGENT)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400 + len(str(file))
    assert message.startswith(f"{file}:1: ")
    assert complaint in message


def test_a_trajectory_over_many_lines_is_placed_where_it_breaks(tmp_path):
    file = tmp_path / "trajectory.json"
    whole = json.dumps(TRAJECTORY, indent=1)
    file.write_text("\n" + whole[: whole.index('"user"')])
    lines = file.read_text().count("\n") + 1
    with pytest.raises(BadInput, match=rf"trajectory\.json:{lines}: not JSON"):
        formats.read("atif", file, AGENT)
    file.write_text(whole + "\n{}")
    with pytest.raises(BadInput, match=r"not JSON \(Extra data"):
        formats.read("atif", file, AGENT)
    file.write_text("\n" + whole.replace('"source": "user"', '"source": "nobody"'))
    with pytest.raises(BadInput, match=r"trajectory\.json:2: step 2: unknown source"):
        formats.read("atif", file, AGENT)


def test_deep_subagents_are_a_matter_of_memory_not_of_the_stack(log):
    trajectory = _trajectory({"source": "user"})
    for _ in range(100):
        trajectory = _trajectory({"source": "user"}, subagent_trajectories=[trajectory])
    assert len(formats.read("atif", log(trajectory), AGENT)) == 101


SAMPLE = {"id": 1, "epoch": 1, "target": "4", "messages": []}
BLOCK = {"type": "tool_use", "id": "1", "name": "f", "input": {}}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (_message(), "openai"),
        (_message(weight=0), "openai"),
        (_message(train=False), "axolotl"),
        ({"messages": [{"from": "human", "value": "?"}]}, "axolotl"),
        ({"conversations": []}, "axolotl"),
        ({"prompt": "x", "completion": "y"}, "trl"),
        ({"instruction": "x", "output": "y"}, "alpaca"),
        (TRAJECTORY, "atif"),
        (_message(author="user"), "native"),
        ({"request": _message(), "response": {"choices": []}}, "openai"),
        ({**_message(), "choices": []}, "openai"),
        ({"messages": [{"role": "assistant", "content": [BLOCK]}]}, "anthropic"),
        ({**_message(), "tools": [{"name": "f", "input_schema": {}}]}, "anthropic"),
        ({"input": "x", "output": [{"type": "message"}]}, "responses"),
        ({"object": "response"}, "responses"),
        ({"object": "trace.span", "span_data": {}}, "agents"),
        ({"example_id": 0, "prompt": [], "completion": []}, "verifiers"),
        ({"id": "x", "traces": []}, "verifiers"),
        ({"eval": {}, "samples": []}, "inspect"),
        (SAMPLE, "inspect"),
        ({"type": "session_meta", "payload": {}}, "codex"),
        ({"type": "summary", "leafUuid": "x"}, "claude-code"),
        ({"messages": [{"author": "user"}, {}]}, "1 of 2 messages have an author.*--from NAME"),
        (
            {"mood": 1, "day": 2},
            r"is of no known format \(its keys: 'mood', 'day'\).*--from NAME: native, atif",
        ),
        ({}, r"is of no known format \(its keys: none\)"),
        ({"text": "x"}, "a bare text does not say who wrote"),
        ({"prompt": "x", "chosen": "y", "rejected": "z"}, "a preference between two texts.*--corrections"),
        ({"messages": [{"lc": 1, "kwargs": {}}]}, "LangChain's own objects.*convert_to_openai_messages"),
        ({"run_type": "llm", "inputs": {}, "outputs": {}}, "a LangSmith run"),
        ({"input_ids": [1], "labels": [1]}, "ids with a finished mask"),
        ({"model_input": {}, "loss_fn_inputs": {}}, "ids with a finished mask"),
        (
            {"type": "thread.started", "thread_id": "x"},
            "events as `codex exec --json` prints them.*give the session's file",
        ),
        ({"resourceSpans": []}, "OpenTelemetry spans"),
    ],
)
def test_a_format_is_told_by_its_keys_or_not_at_all(log, record, expected):
    if not re.search(r"\W", expected.replace("-", "")):
        assert formats.detect(record).name == expected
    else:
        collected = formats.collect([log(record)], Reading(attribution=AGENT))
        (problem,) = collected.problems
        assert re.match(rf".*log\.jsonl:1: {expected}", str(problem))


def test_the_names_that_convert_offers_are_those_that_there_are():
    hint = next(field.type for field in dataclasses.fields(Convert) if field.name == "format")
    assert ("auto", *formats.NAMES) == typing.get_args(typing.get_args(hint)[0])


def test_every_format_stands_in_the_table():
    table = Path(__file__).parents[2].joinpath("docs/formats.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z][a-z-]*)` \|", table, re.MULTILINE)) == set(formats.NAMES)
