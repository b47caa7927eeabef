"""Tokens that no pretraining ever showed get vectors of their own, and nothing else moves."""

import numpy as np

from cicjax.experiments.unseen import ALIKE, drawn_apart, told_apart
from cicjax.model.config import LoRAConfig
from cicjax.model.ops import Kernel, table_of
from cicjax.training.policy import load_policy


def likeness(rows):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1.0)
    return cosines.max(axis=1)


def test_what_is_alike_is_drawn_as_long_as_the_others_and_the_others_stay():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(12, 64)).astype(np.float32)
    rows[4:9] = 5 * rows[4] + 0.01 * rows[4:9]
    apart = drawn_apart(rows)
    kept = [*range(4), *range(9, 12)]
    np.testing.assert_array_equal(apart[kept], rows[kept])
    assert likeness(apart).max() < 0.6
    lengths = np.linalg.norm(apart[4:9], axis=1)
    np.testing.assert_allclose(lengths, np.linalg.norm(rows[kept], axis=1).mean(), rtol=1e-5)
    np.testing.assert_array_equal(drawn_apart(apart), apart)


def test_the_embedded_base_tells_the_words_of_chats_apart():
    policy = load_policy(None, dtype="float32", lora=LoRAConfig(), training=True)
    before = np.asarray(table_of(policy.base["embed_tokens"]["embedding"]))
    ids = [policy.tokenizer.encode(each)[0] for each in ("Nothing.", "z", "x")]
    assert (likeness(before)[ids] > 0.99).all()
    embedding = told_apart(policy).base["embed_tokens"]["embedding"]
    after = np.asarray(table_of(embedding))
    same = (before == after).all(axis=1)
    assert (likeness(before)[same] <= ALIKE).all() and likeness(after).max() <= ALIKE
    assert 0.4 < same.mean() < 0.6
    if isinstance(embedding, Kernel):
        np.testing.assert_array_equal(np.asarray(embedding.matrix), after.T)
