"""`cicjax generate`: completions of prompts."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro

from cicjax.commands.together import Together
from cicjax.errors import BadInput, printable, shown

if TYPE_CHECKING:
    from cicjax.provenance.tokenizer import Tokenizer
    from cicjax.provenance.transcript import Episode
    from cicjax.sampling.sampler import Completion
    from cicjax.training.policy import LoadedPolicy


class Asked(NamedTuple):
    """A prompt as it stands in its file, and as ids."""

    record: dict[str, Any]
    ids: list[int]


@dataclass(frozen=True, kw_only=True)
class Generate(Together):
    """Continue prompts with a model: JSON Lines of {prompt} or {messages} in, the same with the completion
    out.

    Example: cicjax generate --model Qwen2.5-0.5B --adapter runs/mine/adapter --prompts prompts.jsonl --json
    """

    prompts: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """One object a line: prompt (a text, used as it stands) or messages (role and content, with tools beside
    them if there are any); an id, where there is none the number of the line."""
    model_name_or_path: Annotated[str | None, tyro.conf.arg(aliases=["--model"], metavar="DIR_OR_HUB_ID")] = (
        None
    )
    """A folder of a Qwen2, Qwen3 or Llama model, or a hub id; without one, the embedded base."""
    adapter: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """RUN/METHOD of an earlier run, or a peft folder."""
    format: Literal["auto", "plain", "chatml", "qwen3"] = "auto"
    """Protocol in which messages become a prompt; auto is the one that the adapter was trained in, else the
    tokenizer's chat protocol."""
    max_new_tokens: int = 256
    """Longest completion."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Share of the probability that is drawn from, the likeliest tokens first; 1 is all."""
    num_samples: int = 1
    """Completions of each prompt, a line each, numbered by `sample`."""
    stop: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TEXT ...")] = ()
    """Texts that end a completion before them, beside the end-of-text and end-of-turn tokens."""
    seed: int = 0
    """Samples follow from it."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Precision of the base."""
    json: bool = False
    """The input object plus completion, tool_calls (those that the model made, parsed), tokens, logprobs,
    finish_reason, one a line."""

    def run(self) -> None:
        from cicjax.devices import hosts
        from cicjax.runs.metrics import in_chunks
        from cicjax.sampling.draw import row_keys
        from cicjax.sampling.sampler import Completion, Sampler
        from cicjax.training.policy import decoding, load_policy

        self._check()
        self.join()
        policy = load_policy(self.model_name_or_path, dtype=self.dtype, adapter=self.adapter)
        asked = self._prompts(policy)
        sampler = Sampler(policy.model, policy.base, policy.adapter)
        how = decoding(
            policy.tokenizer,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stop_strings=self.stop,
        )
        names = [f"prompt {record['id']}" for record, _ in asked]
        sampler.check_fit([ids for _, ids in asked], how, names=names)
        rows = [(prompt, sample) for prompt in range(len(asked)) for sample in range(self.num_samples)]

        def drawn(_: int, part: Sequence[tuple[int, int]]) -> list[Completion]:
            owners, samples = (list(numbers) for numbers in zip(*part, strict=True))
            first, last = owners[0], owners[-1]
            return sampler.sample(
                [ids for _, ids in asked[first : last + 1]],
                row_keys(self.seed, "generate", owners, samples),
                how,
                prompt_of_row=[owner - first for owner in owners],
                decode=policy.tokenizer.decode,
            )

        for _, chunk in in_chunks(rows, "generate"):
            for (owner, sample), completion in zip(chunk, hosts.share(chunk, drawn), strict=True):
                self._print(asked[owner].record, sample, Completion(*completion), policy.tokenizer)

    def _check(self) -> None:
        from cicjax.runs import checks

        checks.check_counts(self, "max_new_tokens", "num_samples")
        checks.check_finite(self, "temperature")
        checks.check_seed(self.seed)
        if not 0 < self.top_p <= 1:
            raise BadInput(f"--top_p is a share of the probability, above 0 and at most 1, not {self.top_p}")
        if self.num_samples > 1 and self.temperature == 0:
            raise BadInput("--num_samples draws the same greedy completion again; say --temperature too")

    def _prompts(self, policy: "LoadedPolicy") -> list[Asked]:
        """All prompts, those of messages in one protocol."""
        from cicjax.files import strict
        from cicjax.logs import prompts

        records: list[tuple[int, dict[str, Any], Episode | None]] = []
        for number, record in strict.records(self.prompts, what="a prompt"):
            where = f"{self.prompts}:{number}"
            with strict.place(where):
                strict.dumps(record, "a prompt")  # which --json gives back
            kinds = [key for key in ("prompt", "messages") if key in record]
            if len(kinds) != 1 or not isinstance(record.get("id", ""), str):
                raise BadInput(f"{where}: a prompt has either prompt or messages, and an id that is a string")
            if kinds == ["prompt"] and (not isinstance(record["prompt"], str) or not record["prompt"]):
                raise BadInput(f"{where}: prompt is a text that is not empty")
            episode = prompts.episode_of(record, where=where, line=number) if kinds == ["messages"] else None
            records.append((number, {"id": str(number)} | record, episode))
        return self._encoded(policy, records)

    def _encoded(
        self, policy: "LoadedPolicy", records: "Sequence[tuple[int, dict[str, Any], Episode | None]]"
    ) -> list[Asked]:
        from cicjax.files import strict
        from cicjax.provenance import encode, protocol

        tokenizer, asked = policy.tokenizer, []
        episodes = [episode for _, _, episode in records if episode is not None]
        name = protocol.decide(self.format, episodes, tokenizer, adapter=policy.protocol, path=self.prompts)
        render = protocol.renderer(name, (), episodes, tokenizer, open_turn=True)
        for number, record, episode in records:
            with strict.place(f"{self.prompts}:{number}"):
                if episode is None:
                    asked.append(Asked(record, tokenizer.encode(record["prompt"])))
                else:
                    asked.append(Asked(record, encode(render(episode), tokenizer).tokens.tolist()))
        if episodes:
            print(f"protocol: {name} ({len(episodes)} prompts)", file=sys.stderr)
        return asked

    def _print(
        self, record: dict[str, Any], sample: int, completion: "Completion", tokenizer: "Tokenizer"
    ) -> None:
        from cicjax.provenance.calls import calls_of

        several = self.num_samples > 1
        text = tokenizer.decode(completion.tokens, skip_controls=True)
        if not self.json:
            number = f" {sample}" if several else ""
            print(f"{shown(record['id'])}{number}: {printable(text)}", flush=True)
            return
        calls = [
            {"name": call.name, "arguments": call.arguments}
            for call in calls_of(completion.tokens, tokenizer)
        ]
        facts = {
            **({"sample": sample} if several else {}),
            "completion": text,
            **({"tool_calls": calls} if calls else {}),
            "tokens": list(completion.tokens),
            "logprobs": list(map(float, completion.logprobs)),
            "finish_reason": completion.finish_reason,
        }
        print(json.dumps(record | facts), flush=True)
