"""Pretraining on a two-layer toy: the embedding learns, a killed run ends with the same bytes, other programs read the tokenizer."""

import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from cicjax.provenance import tokenizer as tokenizers
from cicjax.training.checkpoints import leaf_digests

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import pretrain_tiny

TOY = pretrain_tiny.Recipe(
    tokens=6 * 2 * 128,
    lines=2,
    length=128,
    config=replace(pretrain_tiny.CONFIG, num_hidden_layers=2, hidden_size=64, intermediate_size=96, num_attention_heads=1),
    tokenizer_documents=300,
    dtype="float32",
)


def test_the_embedding_has_a_gradient(tmp_path):
    tokenizer = pretrain_tiny.write_tokenizer(tmp_path, TOY)
    batch, state = pretrain_tiny.draw_batch(TOY, tokenizer, 0), pretrain_tiny.start_state(TOY)
    gradient = jax.grad(lambda base: pretrain_tiny.loss(TOY, base, batch))(state.base)
    rows = np.abs(np.asarray(gradient["embed_tokens"]["embedding"])).sum(axis=1)
    assert (rows[np.unique(batch.tokens)] > 0).all() and (rows > 0).mean() > 0.9  # as inputs, and all of them as outputs
    half = replace(TOY, dtype="bfloat16")
    assert float(pretrain_tiny.loss(half, state.base, batch)) == pytest.approx(float(pretrain_tiny.loss(TOY, state.base, batch)), rel=0.02)


def test_resuming_gives_the_same_bytes_and_the_loss_falls(tmp_path, monkeypatch):
    def same_process(recipe, folder, first):
        return (pretrain_tiny.made_batch(recipe, folder, update) for update in range(first, recipe.updates))

    monkeypatch.setattr(pretrain_tiny, "batches", same_process)
    whole = pretrain_tiny.pretrain(TOY, tmp_path / "whole")
    stopped = []

    def stop_at_4(recipe, folder, first):
        for update, batch in enumerate(same_process(recipe, folder, first), start=first):
            if update == 4 and not stopped:
                stopped.append(update)
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(pretrain_tiny, "batches", stop_at_4)
    with pytest.raises(KeyboardInterrupt):
        pretrain_tiny.pretrain(TOY, tmp_path / "parts", save_every=2)
    again = pretrain_tiny.pretrain(TOY, tmp_path / "parts", save_every=2)
    assert stopped == [4] and leaf_digests(again.base) == leaf_digests(whole.base)


def test_transformers_gives_the_same_ids(tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = pretrain_tiny.write_tokenizer(tmp_path, TOY)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.is_fast and ours.vocab_size <= 512
    for text in ("Question:\nWhat is 12.5*3?\n\nProposed solution:\n", "pH = 4 - log10(6.5) = 3.187. Final answer: 3.187.", "e\u0301 \n\n x"):
        assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)
    assert theirs.eos_token_id == theirs.pad_token_id == ours.end_of_text == ours.control("<|endoftext|>")
    assert len(ours.controls) == 22 == len(set(pretrain_tiny.SPECIAL))
    assert tokenizers.load(tmp_path).fingerprint == ours.fingerprint
