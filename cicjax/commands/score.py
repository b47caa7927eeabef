"""`cicjax score`: the log-probability of every token of a transcript file, by author."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from cicjax.commands.together import Together

if TYPE_CHECKING:
    from cicjax.provenance import Encoded
    from cicjax.provenance.transcript import Episode
    from cicjax.training.batches import Shape
    from cicjax.training.policy import LoadedPolicy

    Rows = Sequence[tuple[Episode, Encoded]]


@dataclass(frozen=True, kw_only=True)
class Score(Together):
    """Log-probabilities of a transcript file's tokens under a model, in nats, and their sums by author.

    Example: cicjax score log.jsonl --model Qwen2.5-0.5B --adapter runs/mine/adapter --json
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """Native transcript file."""
    model_name_or_path: Annotated[str | None, tyro.conf.arg(aliases=["--model"], metavar="DIR_OR_HUB_ID")] = (
        None
    )
    """A folder of a Qwen2, Qwen3 or Llama model, or a hub id; without one, the embedded base."""
    adapter: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """RUN/METHOD of an earlier run, or a peft folder."""
    format: Literal["auto", "plain", "chatml", "qwen3"] = "auto"
    """Protocol in which messages become tokens; auto is the adapter's or the one that the file says, else the
    tokenizer's chat protocol."""
    dtype: Literal["bfloat16", "float32"] = "float32"
    """Precision of the base."""
    json: bool = False
    """One object a transcript: id, tokens, logprobs (null first), gamma, author, sum_by_author."""

    def run(self) -> None:
        import jax

        from cicjax.devices import hosts
        from cicjax.logs import native
        from cicjax.provenance import protocol
        from cicjax.runs.metrics import in_chunks
        from cicjax.training import scoring
        from cicjax.training.batches import fit_shape
        from cicjax.training.policy import load_policy

        self.join()
        policy = load_policy(self.model_name_or_path, dtype=self.dtype, adapter=self.adapter, training=True)
        episodes = native.read_native(self.file)
        name = protocol.decide(
            self.format, episodes, policy.tokenizer, adapter=policy.protocol, path=self.file
        )
        render = protocol.renderer(name, ("teacher",), episodes, policy.tokenizer)
        rows = list(protocol.encode_all(episodes, policy.tokenizer, render=render, path=self.file))
        shape = fit_shape((len(encoded.tokens) for _, encoded in rows), rows=1)
        encoded = [each for _, each in rows]
        names = [f"row {episode.id}" for episode, _ in rows]
        scoring.check_fit(encoded, model=policy.model, base=policy.base, shape=shape, names=names)
        records: list[dict[str, Any]] = []
        with jax.default_matmul_precision("highest"):
            for _, chunk in in_chunks(rows, "score"):
                for record in hosts.share(chunk, lambda _, part: list(_records(policy, part, shape))):
                    if self.json:
                        print(json.dumps(record), flush=True)
                    else:
                        records.append(record)
        if not self.json:
            print(f"protocol: {name} ({len(records)} rows)")
            _print_table(records)


def _records(policy: "LoadedPolicy", rows: "Rows", shape: "Shape") -> Iterator[dict[str, Any]]:
    """Of each transcript: its id, its tokens with their log-probabilities in nats, gates and authors, and the
    sums by author."""
    from cicjax.training import scoring

    scores = scoring.token_logprobs(
        [encoded for _, encoded in rows],
        model=policy.model,
        base=policy.base,
        adapter=policy.adapter,
        shape=shape,
    )
    for (episode, encoded), logprobs in zip(rows, scores, strict=True):
        yield _record(episode.id, encoded, logprobs.astype(float).tolist())


def _record(id: str, encoded: "Encoded", values: list[float]) -> dict[str, Any]:
    from cicjax.provenance import Author

    authors = [Author(code).label for code in encoded.author.tolist()]
    sums: dict[str, float] = {}
    for author, value in zip(authors[1:], values[1:], strict=True):
        sums[author] = sums.get(author, 0.0) + value
    return {
        "id": id,
        "tokens": encoded.tokens.tolist(),
        "logprobs": [None, *values[1:]],
        "gamma": encoded.gamma.tolist(),
        "author": authors,
        "sum_by_author": sums,
    }


def _print_table(records: list[dict[str, Any]]) -> None:
    totals: dict[str, list[float]] = {}
    for record in records:
        for author, value in zip(record["author"][1:], record["logprobs"][1:], strict=True):
            counted = totals.setdefault(author, [0.0, 0])
            counted[0] += value
            counted[1] += 1
    print(f"{len(records)} transcripts")
    for author, (total, count) in totals.items():
        print(f"{author:<12} {count:>9,} tokens  {total:>14.4f} nats  {total / count:>9.4f} a token")
