"""What OpenAI's clients send, read strictly: fields that change nothing here are passed over, fields that
would and are not known are refused by name."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cicjax.serve.errors import Problem

MESSAGES = 256
CHOICES = 8
LONGEST_ID = 200
# Accepted whatever they say: they are about accounts, caches and how a reply is kept, not about what it says.
HARMLESS = {
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
    *("prompt_cache_retention", "parallel_tool_calls", "reasoning_effort", "verbosity", "prediction"),
}
# Accepted where they ask for what is done anyhow.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "logit_bias": ({}, None),
    "response_format": ({"type": "text"}, None),
    "modalities": (["text"], None),
    "audio": (None,),
    "functions": ([], None),
    "function_call": ("none", None),
    "web_search_options": (None,),
}
Text = Annotated[str, Field(max_length=1 << 20)]


class Strict(BaseModel):
    """A body of which every field is known."""

    model_config = ConfigDict(extra="forbid")


class Part(BaseModel):
    """A piece of a message's content; texts alone."""

    type: Literal["text"]
    text: Text


class Called(BaseModel):
    """The function that a call names, and its arguments as JSON text."""

    name: Annotated[str, Field(max_length=LONGEST_ID)]
    arguments: Text = "{}"


class Call(BaseModel):
    """One call of an assistant's turn."""

    id: Annotated[str, Field(max_length=LONGEST_ID)]
    type: Literal["function"] = "function"
    function: Called


class ChatMessage(BaseModel):
    """A turn as a client keeps it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[Part] | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: Annotated[str, Field(max_length=LONGEST_ID)] | None = None

    def record(self) -> dict[str, Any]:
        """As the agent takes it."""
        text = self.content if isinstance(self.content, str) else _joined(self.content)
        record: dict[str, Any] = {
            "role": "system" if self.role == "developer" else self.role,
            "content": text,
        }
        if self.tool_calls:
            record["tool_calls"] = [
                {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
                for call in self.tool_calls
            ]
        if self.tool_call_id is not None:
            record["tool_call_id"] = self.tool_call_id
        return record


class Tool(BaseModel):
    """A function that the agent may call."""

    type: Literal["function"]
    function: dict[str, Any]


class StreamOptions(BaseModel):
    """What a stream says beside the answer."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class ChatRequest(BaseModel):
    """The body of /v1/chat/completions."""

    model_config = ConfigDict(extra="allow")

    model: Annotated[str, Field(max_length=LONGEST_ID)] = "cicjax"
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MESSAGES)]
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=4)] | None = None
    n: Annotated[int, Field(ge=1, le=CHOICES)] | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def check(self) -> None:
        """Raise Problem 400 for a field that would change the answer and is not known."""
        for name, value in (self.model_extra or {}).items():
            if name in HARMLESS or any(value == neutral for neutral in NEUTRAL.get(name, ())):
                continue
            raise Problem(400, f"{name}: not supported here; leave it out", param=name, code="unsupported")
        if self.top_logprobs and not self.logprobs:
            raise Problem(400, "top_logprobs go with logprobs: true", param="top_logprobs")
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            message = "max_tokens and max_completion_tokens differ; give one of them"
            raise Problem(400, message, param="max_tokens")
        if self.stream_options is not None and not self.stream:
            raise Problem(400, "stream_options go with stream: true", param="stream_options")

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings; an empty one stops nothing."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(each for each in given if each)

    @property
    def schemas(self) -> tuple[dict[str, Any], ...]:
        """The tools that the agent is shown."""
        if not self.tools or self.tool_choice == "none":
            return ()
        return tuple({"type": tool.type, "function": tool.function} for tool in self.tools)


class Feedback(Strict):
    """The body of /v1/feedback: a verdict, a correction, or both. `scope` "reply" is a remark, which teaches
    nothing."""

    id: Annotated[str, Field(min_length=1, max_length=LONGEST_ID)]
    verdict: Literal["right", "wrong"] | None = None
    correction: Text | None = None
    scope: Literal["answer", "reply"] = "answer"


class Observed(Strict):
    """The body of /v1/observations: what a tool or the environment says of an answer, or messages with the
    answer that they should have."""

    id: Annotated[str, Field(min_length=1, max_length=LONGEST_ID)] | None = None
    text: Text | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MESSAGES)] | None = None
    answer: Text | None = None


class Choice(Strict):
    """The body of /v1/versions/{n}/serve; with `confirm` the version becomes the gate's anchor."""

    reason: Annotated[str, Field(max_length=500)] = ""
    confirm: bool = False


class Pausing(Strict):
    """The body of /v1/learn/pause."""

    paused: bool = True


class Forgetting(Strict):
    """The body of /v1/sources/{source}/forget; with `erase` what it said is gone too."""

    erase: bool = False


def _joined(parts: list[Part] | None) -> str:
    return "".join(part.text for part in parts or [])
