"""Training on anyone's own transcripts: a file in, an adapter and what it cost out. `cicjax train` is
this."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cicjax.errors import BadInput, printable
from cicjax.files.seal import read_json
from cicjax.logs import audit, lengths, native
from cicjax.logs.lengths import Overflow
from cicjax.model import qwen2
from cicjax.provenance import Encoded, protocol
from cicjax.provenance.protocol import Weighting
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.provenance.transcript import Episode
from cicjax.training import finetune
from cicjax.training.finetune import Reduction, fine_tune, fresh_adapter, weighted
from cicjax.training.learner import BUDGET, Trainer
from cicjax.training.policy import LoadedPolicy
from cicjax.training.scoring import nll_by_author
from cicjax.training.steps import Likelihood, Optimization

NAME = "adapter"
Rows = Sequence[tuple[Episode, Encoded]]


def trainer_of(policy: LoadedPolicy, folder: Path, *, seed: int = 0, **settings: Any) -> Trainer:
    """A training of `policy` in `folder`; `settings` are further fields of `Trainer`."""
    return Trainer(
        folder=folder,
        model=policy.model,
        base=policy.base,
        base_fingerprint=policy.fingerprint,
        tokenizer=policy.tokenizer,
        seed=seed,
        **{"optimization": Optimization(), **settings},
    )


def read_rows(
    path: Path,
    tokenizer: Tokenizer,
    *,
    format: str = "auto",
    adapter: str | None = None,
    targets: Iterable[str] = ("teacher",),
    max_length: int | None = None,
    overflow: Overflow = "refuse",
) -> Rows:
    """The episodes of a native file with their arrays, none longer than `max_length` tokens; what became of
    longer ones is printed. Each says the protocol that was decided for all, by `format`, by the one of the
    `adapter` that is trained on, or by the file. Raises BadInput with file:line for what cannot be read,
    rendered or cut."""
    read = native.read_native(path)
    name = protocol.decide(format, read, tokenizer, adapter=adapter, path=path)
    episodes = [replace(episode, protocol=name) for episode in read]
    render = protocol.renderer(name, targets, episodes, tokenizer)
    rows = list(protocol.encode_all(episodes, tokenizer, render=render, path=path))
    fitted = lengths.fit(
        rows, max_length=max_length, overflow=overflow, render=render, tokenizer=tokenizer, path=path
    )
    if fitted.dropped or fitted.split:
        print(printable(f"{path}: {_fate(fitted, rows=len(rows), max_length=max_length)}"), flush=True)
    return fitted.rows


def _fate(fitted: lengths.Fitted, *, rows: int, max_length: int | None) -> str:
    """What became of rows that were too long."""
    count = fitted.dropped or fitted.split
    longer = f"{count} of {rows} rows are longer than {max_length} tokens and were "
    if fitted.dropped:
        return f"{longer}dropped"
    out = f"; {fitted.left_out} turns that are longer by themselves were left out" if fitted.left_out else ""
    return f"{longer}split into {fitted.windows} windows{out}"


def check_targets(rows: Rows, weighting: Weighting, *, path: Path) -> None:
    """Raise BadInput where no position of any row weighs anything."""
    if not any(weighting(encoded).any() for _, encoded in rows):
        raise BadInput(f"{path}: {audit.nothing_to_learn([encoded for _, encoded in rows])}")


def beforehand(trainer: Trainer, rows: Rows, weighting: Weighting, start: qwen2.Tree | None) -> str:
    """How long the longest row is and about what training needs, for a person. Raises BadInput or
    OutOfResources for what does not fit."""
    return finetune.beforehand(
        trainer, weighted([(episode.id, encoded) for episode, encoded in rows], weighting), start
    )


def check_held_out(rows: Rows, held_out: Rows, *, path: Path | None) -> None:
    """Raise BadInput where a held-out row is trained on too."""
    trained = {encoded.tokens.tobytes() for _, encoded in rows}
    again = [episode for episode, encoded in held_out if encoded.tokens.tobytes() in trained]
    if again:
        raise BadInput(
            f"{path}:{again[0].line}: {len(again)} of {len(held_out)} held-out rows are trained on too, "
            "this one first; hold out others (`cicjax mask FILE --audit --test FILE` lists them)"
        )


def train_rows(
    trainer: Trainer,
    rows: Rows,
    weighting: Weighting,
    *,
    start: qwen2.Tree | None = None,
    held_out: Rows = (),
    reduction: Reduction = "update",
) -> dict[str, Any]:
    """Train FOLDER/adapter on from its last checkpoint, from `start`, or from a fresh adapter.

    Gives the budget, and the negative log-likelihood of the held-out rows by author, in nats a token, before
    and after. Raises Corrupted after several non-finite updates in a row.
    """
    held = [encoded for _, encoded in held_out]
    model, base = trainer.model, trainer.base
    before = nll_by_author(held, model=model, base=base, adapter=start) if held else {}
    adapter = fine_tune(
        trainer,
        NAME,
        weighted([(episode.id, encoded) for episode, encoded in rows], weighting, reduction=reduction),
        loss=Likelihood(weighting.rule),
        start=start if start is not None else fresh_adapter(model, seed=trainer.seed),
    )
    after = nll_by_author(held, model=model, base=base, adapter=adapter) if held else {}
    budget = read_json(trainer.folder / NAME / BUDGET)
    return {"budget": budget, "held_out": {"before": before, "after": after}}
