#!/usr/bin/env python
"""Makes an embedded base: tokenizer, corpus and model from a seed alone.

    python scripts/pretrain_tiny.py --output_dir DIR --checkpoint_dir /somewhere/else
    python scripts/pretrain_tiny.py --numbers tiny ...       the world in which every number is stated

Documents, batches and updates are functions of (seed, update): killed and started again with the same command
it ends with the same bytes on the same machine. The corpus is `cicjax.tasks.stem.corpus`; this file holds the
recipe.
"""

import argparse
import itertools
import json
import math
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers
from jaxtyping import Array, Float, Int
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from cicjax.errors import BadInput, CicjaxError, Corrupted
from cicjax.files.whole import write_json, write_text
from cicjax.model import head, huggingface, layout, qwen2
from cicjax.model.config import Qwen2Config
from cicjax.model.lora import projection_shapes
from cicjax.objectives import likelihood
from cicjax.provenance import encode
from cicjax.provenance.tokenizer import Tokenizer, load
from cicjax.provenance.transcript import END_OF_TEXT
from cicjax.runs.folder import RunFolder
from cicjax.tasks.stem.catalogue import CATALOGUE
from cicjax.tasks.stem.corpus import ODDS, documents
from cicjax.training import checkpoints
from cicjax.training.batches import Batch, Row, Shape, make_row, pack
from cicjax.training.scoring import EVERYTHING

# Qwen's way of cutting text before pairs are merged, digits one by one, and the control tokens in the order
# of their ids there.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| "
    r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> "
    "<|box_end|> <|quad_start|> <|quad_end|>"
    " <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> <tool_call> </tool_call> "
    "<|fim_prefix|> <|fim_middle|>"
    " <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>"
).split()
PLAIN = ("<tool_call>", "</tool_call>")  # control tokens that stay visible when special ones are skipped
# Each of the 300 names of a catalogue is a token. Entries that no document asks for stay unused.
VOCABULARY = {CATALOGUE: 1280, "tiny": 512}
# Many more sums are to be known by heart where every number is stated.
TOKENS = {CATALOGUE: 14_000_000, "tiny": 24_000_000}
TOKENIZER_PART = 1 << 32  # of the corpus; updates are counted from 0 and never come so far

CONFIG = Qwen2Config(
    vocab_size=VOCABULARY[CATALOGUE],
    hidden_size=192,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=3,
    num_key_value_heads=1,
    head_dim=64,
    rope_theta=10_000.0,
    tie_word_embeddings=True,
    max_position_embeddings=2048,
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that the result depends on. `lines` of `length` tokens are one update."""

    tokens: int = TOKENS[CATALOGUE]
    seed: int = 0
    numbers: str = CATALOGUE
    config: Qwen2Config = CONFIG
    lines: int = 24
    length: int = 320
    learning_rate: float = 3e-3
    min_learning_rate_ratio: float = 0.05
    warmup_updates: int = 100
    weight_decay: float = 0.1
    adam_beta1: float = 0.9
    adam_beta2: float = 0.98
    max_grad_norm: float = 1.0
    tokenizer_documents: int = 8000
    dtype: str = "bfloat16"  # of the products; weights, moments and sums are float32

    @property
    def updates(self) -> int:
        return -(-self.tokens // (self.lines * self.length))


class State(NamedTuple):
    """What training changes. The weights are float32 throughout."""

    base: Any
    optimizer: Any
    update: Int[Array, ""]


def write_tokenizer(folder: Path, recipe: Recipe) -> Tokenizer:
    """Train the byte-level BPE on documents that no update sees and write it as Qwen's tokenizers are
    written."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = recipe.config.vocab_size - len(SPECIAL)
    trainer = trainers.BpeTrainer(vocab_size=entries, initial_alphabet=alphabet, show_progress=False)
    sample = itertools.islice(
        documents(recipe.seed, TOKENIZER_PART, numbers=recipe.numbers), recipe.tokenizer_documents
    )
    texts = (segment.content for document in sample for segment in document.transcript.segments)
    bpe.train_from_iterator((text for text in texts if isinstance(text, str)), trainer)
    bpe.add_tokens(
        [tokenizers.AddedToken(name, special=name not in PLAIN, normalized=False) for name in SPECIAL]
    )
    write_text(
        folder / "tokenizer.json", json.dumps(json.loads(bpe.to_str()), indent=1, ensure_ascii=False) + "\n"
    )
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "model_max_length": 2048,
    }
    write_json(
        folder / "tokenizer_config.json",
        settings | {"add_prefix_space": False, "clean_up_tokenization_spaces": False},
    )
    return load(folder)


def draw_batch(recipe: Recipe, tokenizer: Tokenizer, update: int) -> Batch:
    """The documents of an update, side by side in its lines; one longer than a line loses its end. All but
    first tokens are targets."""
    rows: list[Row] = []
    room = 0.96 * recipe.lines * recipe.length
    for document in documents(recipe.seed, update, numbers=recipe.numbers):
        encoded = encode(document.transcript, tokenizer)
        cut = type(encoded)(*(column[: recipe.length] for column in encoded))
        rows.append(make_row(cut._replace(is_target=np.ones(len(cut.tokens), np.bool_)), EVERYTHING))
        room -= len(rows[-1].loss_weights)
        if room < 0:
            return pack(rows, Shape(recipe.lines, recipe.length))[0]
    raise AssertionError("documents do not end")


def start_state(recipe: Recipe) -> State:
    """Normal weights with the variance of their inputs, smaller where they add to the residual stream."""
    config, key = recipe.config, jax.random.key(recipe.seed)
    layers: qwen2.Tree = {
        name: {"scale": jnp.ones((config.num_hidden_layers, config.hidden_size))} for name in NORMS
    }
    for number, (name, (module, inputs, outputs)) in enumerate(projection_shapes(config).items()):
        deviation = inputs**-0.5
        if name in ("o_proj", "down_proj"):
            deviation *= (2 * config.num_hidden_layers) ** -0.5
        shape = (config.num_hidden_layers, inputs, outputs)
        projection = {"kernel": deviation * jax.random.normal(jax.random.fold_in(key, number + 1), shape)}
        if name in ("q_proj", "k_proj", "v_proj"):
            projection["bias"] = jnp.zeros((config.num_hidden_layers, outputs))
        layers.setdefault(module, {})[name] = projection
    embedding = 0.02 * jax.random.normal(jax.random.fold_in(key, 0), (config.vocab_size, config.hidden_size))
    base = {
        "embed_tokens": {"embedding": embedding},
        "layers": layers,
        "norm": {"scale": jnp.ones((config.hidden_size,))},
    }
    return State(base, optimizer(recipe).init(base), jnp.zeros((), jnp.int32))


NORMS = ("input_layernorm", "post_attention_layernorm")


def optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """AdamW after clipping; the rate climbs, then falls along a cosine. Norms, biases and the embedding do
    not decay."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0,
        recipe.learning_rate,
        min(recipe.warmup_updates, recipe.updates // 2),
        recipe.updates,
        recipe.learning_rate * recipe.min_learning_rate_ratio,
    )

    def decays(base: qwen2.Tree) -> qwen2.Tree:
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", base)

    adamw = optax.adamw(
        rate, recipe.adam_beta1, recipe.adam_beta2, weight_decay=recipe.weight_decay, mask=decays
    )
    return optax.chain(optax.clip_by_global_norm(recipe.max_grad_norm), adamw)


def loss(recipe: Recipe, base: qwen2.Tree, batch: Batch) -> Float[Array, ""]:
    """Mean negative log-likelihood over all targets, through full logits: `cicjax.model.head` gives the
    embedding no gradient.

    Products run in `dtype`. The embedding goes in as float32 at the bottom: bf16 rows are gathered by their
    bits, which has no gradient.
    """
    dtype = jnp.dtype(recipe.dtype)
    layers = jax.tree.map(lambda leaf: leaf.astype(dtype), base["layers"])
    rounded = {**base, "layers": layout.apart(layers, recipe.config.num_hidden_layers)}
    states = qwen2.hidden(
        qwen2.Model(recipe.config), rounded, None, batch.tokens, batch.positions, batch.segments
    )
    output = {"embed_tokens": {"embedding": base["embed_tokens"]["embedding"].astype(dtype)}}
    logprobs = likelihood.token_logprobs(head.logits(output, states), batch.tokens)
    total, weight = likelihood.weighted_nll(
        logprobs, EVERYTHING.rule(batch.gamma, batch.is_target, batch.solved)
    )
    return total / weight


@partial(jax.jit, static_argnums=(0,), donate_argnums=(1,))
def update_step(recipe: Recipe, state: State, batch: Batch) -> tuple[State, Float[Array, ""]]:
    """One AdamW update: the next state, and the loss before it, in nats a token. `state` is donated."""
    value, gradient = jax.value_and_grad(partial(loss, recipe))(state.base, batch)
    change, moments = optimizer(recipe).update(gradient, state.optimizer, state.base)
    return State(optax.apply_updates(state.base, change), moments, state.update + 1), value


def batches(recipe: Recipe, tokenizer: Tokenizer, first: int) -> Iterator[Batch]:
    """The batches from update `first` on, made ahead by a thread of their own."""
    with ThreadPoolExecutor(1) as maker:
        ahead: deque = deque()
        for update in range(first, recipe.updates):
            while len(ahead) < 4 and update + len(ahead) < recipe.updates:
                ahead.append(maker.submit(draw_batch, recipe, tokenizer, update + len(ahead)))
            yield ahead.popleft().result()


def pretrain(recipe: Recipe, checkpoint_dir: Path, *, save_every: int = 100) -> State:
    """Run or resume all updates in a folder that one process holds; the loss and the time left go to the
    terminal.

    Raises Locked and BadInput where the folder is in use or holds another recipe, Corrupted when the loss is
    not finite any more.
    """
    with RunFolder(checkpoint_dir, asdict(recipe)):
        tokenizer = write_tokenizer(checkpoint_dir, recipe)
        state, steps = start_state(recipe), checkpoint_dir / "steps"
        if checkpoints.latest(steps) is not None:
            state = State(**checkpoints.load(steps, state._asdict(), fall_back=True)[0])
        first, started, losses = int(state.update), time.monotonic(), []
        for update, batch in enumerate(batches(recipe, tokenizer, first), start=first + 1):
            state, value = update_step(recipe, state, batch)
            losses.append(float(value))
            if not math.isfinite(losses[-1]):
                raise Corrupted(
                    f"the loss of update {update} is {losses[-1]}; lower the learning rate and start in a "
                    "new --checkpoint_dir"
                )
            if update % 50 == 0 or update == recipe.updates:
                seconds = (time.monotonic() - started) / (update - first)
                speed, left = recipe.lines * recipe.length / seconds, seconds * (recipe.updates - update) / 60
                so_far = f"update {update}/{recipe.updates}: loss {np.mean(losses[-50:]):.4f}"
                print(f"{so_far}, {speed:,.0f} tokens/s, {left:.0f} min left", flush=True)
            if update % save_every == 0 or update == recipe.updates:
                checkpoints.save(
                    steps, update, tree=state._asdict(), metadata={"tokenizer": tokenizer.fingerprint}
                )
    return state


def write_folder(output_dir: Path, recipe: Recipe, state: State, *, checkpoint_dir: Path) -> None:
    """The model as a Hugging Face folder in bf16, with its tokenizer; end of text ends and pads."""
    base = jax.tree.map(lambda leaf: np.asarray(leaf.astype(jnp.bfloat16)), state.base)
    end = load(checkpoint_dir).end_of_text
    files = [checkpoint_dir / name for name in ("tokenizer.json", "tokenizer_config.json")]
    huggingface.save_folder(
        output_dir, recipe.config, base=base, files=files, extra={"eos_token_id": end, "pad_token_id": end}
    )


def main() -> int:
    """Pretrain, write the model folder, and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="where the model folder is written; must not exist"
    )
    parser.add_argument(
        "--checkpoint_dir",
        type=Path,
        required=True,
        help="where the run keeps its state, outside the repository",
    )
    parser.add_argument("--tokens", type=int, help="by default 14 million, 24 for the numbers `tiny`")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument(
        "--numbers",
        choices=sorted(ODDS),
        default=Recipe.numbers,
        help="catalogue: questions name what carries a constant; tiny: they state everything, and nobody "
        "answers twice",
    )
    options = parser.parse_args()
    try:
        if options.output_dir.exists():
            raise BadInput(f"{options.output_dir}: exists already; move it away or name another folder")
        tokens = TOKENS[options.numbers] if options.tokens is None else options.tokens
        if tokens < 1 or options.seed < 0:
            raise BadInput(
                f"--tokens {tokens} --seed {options.seed}: give at least one token and a seed from 0 on"
            )
        config = replace(CONFIG, vocab_size=VOCABULARY[options.numbers])
        recipe = Recipe(tokens=tokens, seed=options.seed, numbers=options.numbers, config=config)
        state = pretrain(recipe, options.checkpoint_dir)
        write_folder(options.output_dir, recipe, state, checkpoint_dir=options.checkpoint_dir)
    except CicjaxError as error:
        print(f"pretrain_tiny: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    print(f"{options.output_dir} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
