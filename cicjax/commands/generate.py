"""`cicjax generate`: completions of prompts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from cicjax.commands.together import Together
from cicjax.errors import BadInput, printable, shown

if TYPE_CHECKING:
    from cicjax.provenance.tokenizer import Tokenizer
    from cicjax.sampling.sampler import Completion


@dataclass(frozen=True, kw_only=True)
class Generate(Together):
    """Continue prompts with a model: JSON Lines of {id, prompt} or {id, messages} in, the same with the
    completion out.

    Example: cicjax generate --model Qwen2.5-0.5B --adapter runs/mine/adapter --prompts prompts.jsonl --json
    """

    prompts: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """One object a line: id, and prompt (text, used as it stands) or messages (role, content, author)."""
    model_name_or_path: Annotated[str | None, tyro.conf.arg(aliases=["--model"], metavar="DIR_OR_HUB_ID")] = (
        None
    )
    """A Qwen2 folder or a hub id; without one, the embedded base."""
    adapter: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """RUN/METHOD of an earlier run, or a peft folder."""
    format: Literal["auto", "plain", "chatml", "qwen3"] = "auto"
    """Protocol in which messages become a prompt."""
    max_new_tokens: int = 256
    """Longest completion."""
    temperature: float = 0.0
    """0 is greedy."""
    stop: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT ...")] = ()
    """Texts that end a completion before them, beside the end-of-text and end-of-turn tokens."""
    seed: int = 0
    """Samples follow from it."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Precision of the base."""
    json: bool = False
    """The input object plus completion, tokens, logprobs, finish_reason, one a line."""

    def run(self) -> None:
        from cicjax.runs import checks
        from cicjax.runs.metrics import in_chunks
        from cicjax.sampling.draw import row_keys
        from cicjax.sampling.sampler import Sampler
        from cicjax.training.policy import decoding, load_policy

        checks.check_counts(self, "max_new_tokens")
        checks.check_finite(self, "temperature")
        checks.check_seed(self.seed)
        self.join()
        policy = load_policy(self.model_name_or_path, dtype=self.dtype, adapter=self.adapter)
        asked = list(self._prompts(policy.tokenizer))
        if not asked:
            raise BadInput(f"{self.prompts}: holds no prompt; give one JSON object a line")
        sampler = Sampler(policy.model, policy.base, policy.adapter)
        how = decoding(
            policy.tokenizer,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            stop_strings=self.stop,
        )
        sampler.check_fit([ids for _, ids in asked], how, names=[f"prompt {each['id']}" for each, _ in asked])
        keys = row_keys(self.seed, "generate", range(len(asked)), [0] * len(asked))
        for first, chunk in in_chunks(asked, "generate"):
            own = keys[first : first + len(chunk)]
            completions = sampler.sample([ids for _, ids in chunk], own, how, decode=policy.tokenizer.decode)
            for (record, _), completion in zip(chunk, completions, strict=True):
                self._print(record, completion, policy.tokenizer)

    def _prompts(self, tokenizer: "Tokenizer") -> Iterator[tuple[dict[str, Any], list[int]]]:
        from cicjax.files import strict

        for number, record in strict.records(self.prompts, what="a prompt"):
            where = f"{self.prompts}:{number}"
            kinds = [key for key in ("prompt", "messages") if key in record]
            if len(kinds) != 1 or not isinstance(record.get("id"), str):
                raise BadInput(f"{where}: a prompt has an id (a string) and either prompt or messages")
            if kinds == ["messages"]:
                yield record, self._of_messages(record, tokenizer, where=where)
                continue
            if not isinstance(record["prompt"], str) or not record["prompt"]:
                raise BadInput(f"{where}: prompt is a text that is not empty")
            with strict.place(where):
                ids = tokenizer.encode(record["prompt"])
            yield record, ids

    def _of_messages(self, record: dict[str, Any], tokenizer: "Tokenizer", *, where: str) -> list[int]:
        from cicjax.files import strict
        from cicjax.logs import native
        from cicjax.provenance import encode, protocol

        episode = native.parse_episode(json.dumps(record), where=where)
        with strict.place(where):
            render = protocol.renderer(self.format, ("teacher",), [episode], tokenizer, open_turn=True)
            return encode(render(episode), tokenizer).tokens.tolist()

    def _print(self, record: dict[str, Any], completion: "Completion", tokenizer: "Tokenizer") -> None:
        text = tokenizer.decode(completion.tokens, skip_controls=True)
        if not self.json:
            print(f"{shown(record['id'])}: {printable(text)}", flush=True)
            return
        facts = {"tokens": list(completion.tokens), "logprobs": list(map(float, completion.logprobs))}
        print(
            json.dumps(record | {"completion": text} | facts | {"finish_reason": completion.finish_reason}),
            flush=True,
        )
