"""What a model holds to be true, scored on claims in the agent's place, through the encoder of the rows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from cicjax.model import qwen2
from cicjax.provenance import Author, Encoded, Message, encode, render
from cicjax.provenance.tokenizer import Tokenizer
from cicjax.tasks.dialogues.build import CONTEXTS, THANKS, asked
from cicjax.tasks.dialogues.facts import Fact
from cicjax.training import scoring
from cicjax.training.batches import fit_shape
from cicjax.training.policy import LoadedPolicy

# What was said before the question: nothing, or the user's own statement.
BEFORE = {"margin": None, "after_truth": True, "after_falsehood": False}


class Margins(NamedTuple):
    """log p(true claim) - log p(false claim) of each fact, in nats a token and in nats."""

    mean: np.ndarray
    sum: np.ndarray


def row(fact: Fact, claim: bool, tokenizer: Tokenizer, *, stated: bool | None = None) -> Encoded:
    """`Tell me about <topic>.`, answered by the true or the false claim, whose content alone is a target;
    before it, where `stated` is not None, the user stated the one or the other."""
    messages = [Message(role="system", content=CONTEXTS[0], author=Author.SYSTEM)]
    if stated is not None:
        messages += [
            Message(role="user", content=fact.claim(stated), author=Author.USER),
            Message(role="assistant", content=THANKS[0], author=Author.AGENT, context_only=True),
        ]
    messages += [asked(fact), Message(role="assistant", content=fact.claim(claim), author=Author.AGENT)]
    encoded = encode(render.chat(messages, targets=frozenset()), tokenizer)
    return encoded._replace(is_target=_only(content_of(encoded), len(encoded.tokens)))


def content_of(encoded: Encoded) -> Int[np.ndarray, " N"]:
    """The positions of the claim: the agent's targets but the control token that ends its turn."""
    return np.flatnonzero(encoded.is_target & (encoded.gamma == 1))[:-1]


def _only(positions: np.ndarray, length: int) -> np.ndarray:
    chosen = np.zeros(length, np.bool_)
    chosen[positions] = True
    return chosen


def margins(
    policy: LoadedPolicy, adapter: qwen2.Tree | None, facts: Sequence[Fact], *, stated: bool | None = None
) -> Margins:
    """The margins of these facts under a model, each after the same words."""
    rows = [row(fact, claim, policy.tokenizer, stated=stated) for fact in facts for claim in (True, False)]
    shape = fit_shape((len(each.tokens) for each in rows), rows=policy.model.kind.lines_per_batch)
    scores = scoring.token_logprobs(
        rows, model=policy.model, base=policy.base, adapter=adapter, shape=shape, targets_only=True
    )
    each = [
        (s[r.is_target].sum(dtype=np.float64), r.is_target.sum()) for s, r in zip(scores, rows, strict=True)
    ]
    total, count = np.array(each).reshape(len(facts), 2, 2).transpose(2, 0, 1)
    mean = total / count
    return Margins(mean[:, 0] - mean[:, 1], total[:, 0] - total[:, 1])
