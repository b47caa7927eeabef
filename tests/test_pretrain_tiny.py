"""Pretraining on a two-layer toy: what a batch holds, the embedding learns, a killed run ends with the same
bytes, others read it."""

import json
import sys
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cicjax.errors import BadInput, Locked
from cicjax.model import head, huggingface, qwen2
from cicjax.objectives import likelihood
from cicjax.provenance import encode
from cicjax.provenance import tokenizer as tokenizers
from cicjax.runs.folder import RunFolder
from cicjax.tasks.stem.corpus import SHARES, documents
from cicjax.training.checkpoints import latest, leaf_digests

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import pretrain_tiny

TOY = pretrain_tiny.Recipe(
    tokens=6 * 2 * 128,
    lines=2,
    length=128,
    config=replace(
        pretrain_tiny.CONFIG, num_hidden_layers=2, hidden_size=64, intermediate_size=96, num_attention_heads=1
    ),
    tokenizer_documents=300,
    dtype="float32",
)
TEXTS = (
    "Question:\nWhat is 12.5*3?\n\nProposed solution:\n",
    "pH = 4 - log10(6.5) = 3.19. Final answer: 3.19.",
    "e\u0301 \n\n x \u6771",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    pretrain_tiny.write_tokenizer(path, replace(TOY, tokenizer_documents=3000))
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    return tokenizers.load(folder)


@pytest.mark.parametrize("numbers", SHARES)
def test_shares_of_the_tokens_are_as_stated(numbers, tmp_path):
    config = replace(TOY.config, vocab_size=pretrain_tiny.VOCABULARY[numbers])
    recipe = replace(TOY, tokenizer_documents=3000, numbers=numbers, config=config)
    tokenizer, sizes = pretrain_tiny.write_tokenizer(tmp_path, recipe), Counter()
    for document in islice(documents(0, 0, numbers=numbers), 4000):
        sizes[document.kind] += len(encode(document.transcript, tokenizer).tokens)
    for kind, share in SHARES[numbers].items():
        assert sizes[kind] / sum(sizes.values()) == pytest.approx(share, abs=0.025)


def test_a_batch_holds_whole_documents_and_all_but_their_first_tokens_are_targets(tokenizer):
    recipe = replace(pretrain_tiny.Recipe(), lines=8)
    batch = pretrain_tiny.draw_batch(recipe, tokenizer, 3)
    drawn = [
        encode(document.transcript, tokenizer).tokens.tolist() for document in islice(documents(0, 3), 60)
    ]
    found = []
    for line in range(recipe.lines):
        for segment in range(1, batch.segments[line].max() + 1):
            here = batch.segments[line] == segment
            found.append(batch.tokens[line, here].tolist())
            assert batch.positions[line, here].tolist() == list(range(here.sum()))
            assert batch.is_target[line, here].tolist() == [False] + [True] * (here.sum() - 1)
    assert not batch.is_target[batch.segments == 0].any()
    assert (batch.segments > 0).mean() > 0.85
    assert all(tokens in [each[: recipe.length] for each in drawn] for tokens in found)
    again, other = (pretrain_tiny.draw_batch(recipe, tokenizer, update) for update in (3, 4))
    assert (again.tokens == batch.tokens).all() and (other.tokens != batch.tokens).any()


def test_the_embedding_learns_as_input_and_as_output(tokenizer):
    batch, state = pretrain_tiny.draw_batch(TOY, tokenizer, 0), pretrain_tiny.start_state(TOY)
    gradient = jax.grad(pretrain_tiny.loss, argnums=1)(TOY, state.base, batch)["embed_tokens"]["embedding"]
    # Only a table that is apart from the head shows what each of its two uses gives.
    apart = {**state.base, "lm_head": {"embedding": state.base["embed_tokens"]["embedding"]}}

    def untied(base):
        states = qwen2.hidden(
            qwen2.Model(TOY.config), base, None, batch.tokens, batch.positions, batch.segments
        )
        total, weight = likelihood.weighted_nll(
            likelihood.token_logprobs(head.logits(base, states), batch.tokens),
            batch.is_target.astype(np.float32),
        )
        return total / weight

    parts = jax.grad(untied)(apart)
    as_input, as_output = parts["embed_tokens"]["embedding"], parts["lm_head"]["embedding"]
    predicts = (batch.segments[:, :-1] == batch.segments[:, 1:]) & (batch.segments[:, 1:] > 0)
    assert (np.abs(as_input).sum(axis=1)[np.unique(batch.tokens[:, :-1][predicts])] > 0).all()
    assert (np.abs(as_output).sum(axis=1) > 0).all()
    np.testing.assert_allclose(gradient, as_input + as_output, rtol=1e-4, atol=1e-7)


def test_rounded_products_give_nearly_the_same_gradient(tokenizer):
    batch, state = pretrain_tiny.draw_batch(TOY, tokenizer, 0), pretrain_tiny.start_state(TOY)
    gradient = jax.grad(pretrain_tiny.loss, argnums=1)
    exact, rounded = (
        gradient(replace(TOY, dtype=dtype), state.base, batch) for dtype in ("float32", "bfloat16")
    )
    for (path, left), right in zip(
        jax.tree_util.tree_leaves_with_path(exact), jax.tree.leaves(rounded), strict=True
    ):
        assert right.dtype == jnp.float32
        # a key bias moves all scores of a query alike, so its gradient is near 0
        if "k_proj" not in str(path) or "bias" not in str(path):
            assert np.linalg.norm(left - right) < 0.1 * np.linalg.norm(left), path


def test_a_killed_run_ends_with_the_same_bytes(tmp_path, monkeypatch):
    whole = pretrain_tiny.pretrain(TOY, tmp_path / "whole")
    step, done = pretrain_tiny.update_step, []

    def killed_in_the_fifth(recipe, state, batch):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(int(state.update))
        return step(recipe, state, batch)

    monkeypatch.setattr(pretrain_tiny, "update_step", killed_in_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        pretrain_tiny.pretrain(TOY, tmp_path / "parts", save_every=3)
    monkeypatch.setattr(pretrain_tiny, "update_step", step)
    assert latest(tmp_path / "parts" / "steps") == 3
    again = pretrain_tiny.pretrain(TOY, tmp_path / "parts", save_every=3)
    assert done == [0, 1, 2, 3] and int(again.update) == TOY.updates == 6
    assert (
        leaf_digests(again.base)
        == leaf_digests(whole.base)
        != leaf_digests(pretrain_tiny.start_state(TOY).base)
    )


def test_a_folder_is_for_one_recipe_and_one_process(tmp_path):
    with RunFolder(tmp_path / "held", {}), pytest.raises(Locked):
        pretrain_tiny.pretrain(TOY, tmp_path / "held")
    pretrain_tiny.pretrain(replace(TOY, tokens=1), tmp_path / "mine")
    with pytest.raises(BadInput, match="seed is 0 there and 1 here"):
        pretrain_tiny.pretrain(replace(TOY, tokens=1, seed=1), tmp_path / "mine")


def test_a_wrong_command_says_so_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys,
        "argv",
        ["pretrain_tiny.py", "--output_dir", str(tmp_path), "--checkpoint_dir", str(tmp_path / "run")],
    )
    assert pretrain_tiny.main() == 2
    assert "exists already" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_transformers_gives_the_same_ids(folder, tokenizer):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.is_fast and tokenizer.vocab_size == len(theirs) <= pretrain_tiny.CONFIG.vocab_size
    for text in TEXTS:
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == theirs.decode(theirs.encode(text))
    assert theirs.encode("<|im_end|>") == [tokenizer.control("<|im_end|>")] != tokenizer.encode("<|im_end|>")
    assert theirs.eos_token_id == theirs.pad_token_id == tokenizer.end_of_text
    assert tokenizer.stop_ids == {tokenizer.end_of_text, tokenizer.control("<|im_end|>")}
    assert list(tokenizer.controls) == pretrain_tiny.SPECIAL and len(pretrain_tiny.SPECIAL) == 22


@pytest.mark.weights
def test_pattern_and_control_tokens_are_those_of_qwen(folder, qwen_folder):
    ours, theirs = (json.loads((path / "tokenizer.json").read_bytes()) for path in (folder, qwen_folder))
    assert [token["content"] for token in ours["added_tokens"]] == [
        token["content"] for token in theirs["added_tokens"]
    ]
    special, qwens = ({t["content"] for t in each["added_tokens"] if t["special"]} for each in (ours, theirs))
    # Six that mark code, which the embedded base has never seen: Qwen's file leaves them in the text.
    assert qwens <= special and special - qwens == set(
        "<|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>".split()
    )
    assert ours["normalizer"] == theirs["normalizer"] == {"type": "NFC"}
    split, theirs = (spec["pre_tokenizer"]["pretokenizers"][0] for spec in (ours, theirs))
    assert split == theirs


def test_the_folder_loads_in_transformers(tmp_path):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    recipe = replace(TOY, tokens=1)
    state = pretrain_tiny.pretrain(recipe, tmp_path / "run")
    pretrain_tiny.write_folder(tmp_path / "model", recipe, state, checkpoint_dir=tmp_path / "run")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    config, base = huggingface.load_base(tmp_path / "model", jnp.float32)
    tokens = np.arange(40, dtype=np.int32).reshape(2, 20) * 7 % 512
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(
            qwen2.apply(qwen2.Model(config), base, None, tokens),
            theirs(torch.tensor(tokens)).logits,
            atol=1e-4,
        )
    assert config == recipe.config
    assert (
        theirs.generation_config.eos_token_id
        == theirs.config.pad_token_id
        == tokenizers.load(tmp_path / "model").end_of_text
    )
