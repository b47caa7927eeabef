"""The programs of the paper and of `train` on abstract arrays, as `compile_check` compiles them.

Shapes are those that the target's kind of device makes of the paper's rows: an update of eight rows is one
micro-batch, up to 256 rows decode together.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cicjax.assets import default_model_folder
from cicjax.devices.ahead import Chips, Target
from cicjax.methods import grpo
from cicjax.model import blocks, huggingface, layout, lora, qwen2
from cicjax.model.config import LoRAConfig, Qwen2Config
from cicjax.sampling import decode
from cicjax.training import scoring, steps
from cicjax.training.batches import Batch

QWEN_05B = Qwen2Config(
    vocab_size=151_936,
    hidden_size=896,
    intermediate_size=4864,
    num_hidden_layers=24,
    num_attention_heads=14,
    num_key_value_heads=2,
    head_dim=64,
    rope_theta=1e6,
)


class Shapes(NamedTuple):
    """Lines x tokens of the paper's updates and of one's own transcripts, prompts x tokens, and the numbers
    of rows that decode."""

    paper: tuple[int, int]
    own: tuple[tuple[int, int], ...]
    prompts: tuple[int, int]
    rows: tuple[int, ...]


# The embedded base has short shapes: the code of eight lines takes seven times as long to compile as that of
# one, and tests compile it at every commit.
SHAPES = {
    "tiny": Shapes(paper=(1, 320), own=((1, 2048),), prompts=(16, 64), rows=(32,)),
    "0.5b": Shapes(
        paper=(8, 320), own=((8, 512), (1, 2048), (1, 8192), (1, 32_768)), prompts=(64, 128), rows=(256, 32)
    ),
}


@dataclass(frozen=True, kw_only=True)
class Program:
    """One program: how it is lowered, the tokens that one run of it works on, what its loops over the data do
    in that run, the length of its lines where it has some, and of how many elements its vocabulary or cache
    is."""

    name: str
    shape: str
    chips: int
    lower: Callable[[], Any]
    tokens: int = 0
    trips: dict[str, list[float]] = field(default_factory=dict)
    length: int = 0
    large: int = 0


class Setting(NamedTuple):
    """What all programs of one size share: the static half, the shapes, and the abstract base and adapter on
    their chips."""

    model: qwen2.Model
    shapes: Shapes
    chips: Chips
    base: Any
    adapter: Any

    def array(self, *shape: int, dtype: Any = jnp.int32) -> Any:
        """An abstract array that every chip holds whole."""
        return self.chips.whole(jax.ShapeDtypeStruct(shape, dtype))


def programs(target: Target, model_size: str, chips: Chips) -> list[Program]:
    """Every program on one chip; and on all of them, where there are several, those that share their rows."""
    alone = setting(target, model_size, Chips(chips.devices[:1]))
    found = [*updates(alone), *sampling(alone)] if target.alone else []
    if len(chips.devices) > 1:
        together = setting(target, model_size, chips)
        found += [update(together, *alone.shapes.paper), *decoding(together)]
    config = alone.model.config
    table = config.vocab_size * config.hidden_size
    return [replace(each, large=min(table, each.large or table)) for each in found]


def setting(target: Target, model_size: str, chips: Chips) -> Setting:
    """Sizes and abstract trees. The embedded base too is held in the bfloat16 that its file has: exact
    products of float32 take twelve times as long to compile."""
    tiny = model_size == "tiny"
    config = huggingface.read_config(default_model_folder()) if tiny else QWEN_05B
    model = qwen2.Model(config, LoRAConfig(), target.kind)
    base = huggingface.abstract_base(config, jnp.bfloat16)
    adapter = jax.eval_shape(lambda: lora.init_adapter(config, LoRAConfig(), jax.random.key(0)))
    return Setting(model, SHAPES[model_size], chips, chips.whole(base), chips.whole(adapter))


def updates(setting: Setting) -> Iterator[Program]:
    """What trains and scores: the paper's lines, then longer ones."""
    paper = setting.shapes.paper
    yield update(setting, *paper)
    columns = ("advantages", "old_logprobs", "ref_logprobs")
    yield update(setting, *paper, name="GRPO", loss=grpo.Loss(0.2, 0.04), extras=columns)
    yield score(setting, *paper)
    for shape in setting.shapes.own:
        yield update(setting, *shape)


def update(
    setting: Setting,
    lines: int,
    tokens: int,
    *,
    name: str = "likelihood",
    loss: steps.Loss = steps.Likelihood(),  # noqa: B008 (a constant)
    extras: tuple[str, ...] = (),
) -> Program:
    """Loss and gradient of so many lines on each chip."""
    lines *= len(setting.chips.devices)
    batch = abstract_batch(setting, lines, tokens, extras)
    sums = setting.chips.whole(jax.eval_shape(steps.zero_sums, setting.adapter))
    arguments = (loss, setting.model, setting.base, setting.adapter, sums, batch)
    return Program(
        name=f"update {name}",
        shape=f"{lines} x {tokens}",
        chips=len(setting.chips.devices),
        lower=lambda: steps.accumulate.lower(*arguments),
        tokens=lines * tokens,
        trips=trips(setting, lines, tokens),
        length=tokens,
    )


def score(setting: Setting, lines: int, tokens: int) -> Program:
    """Log-probabilities of given rows."""
    arguments = (setting.model, setting.base, setting.adapter, abstract_batch(setting, lines, tokens))
    return Program(
        name="score",
        shape=f"{lines} x {tokens}",
        chips=len(setting.chips.devices),
        lower=lambda: scoring._score.lower(*arguments),
        tokens=lines * tokens,
        trips=trips(setting, lines, tokens),
        length=tokens,
    )


def abstract_batch(setting: Setting, lines: int, tokens: int, extras: tuple[str, ...] = ()) -> Batch:
    """A micro-batch without values, its lines shared by the chips."""

    def array(dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((lines, tokens), dtype)

    batch = Batch(
        tokens=array(jnp.int32),
        positions=array(jnp.int32),
        segments=array(jnp.int32),
        gamma=array(jnp.int8),
        is_target=array(jnp.bool_),
        solved=array(jnp.int8),
        indices=array(jnp.int32),
        used=jax.ShapeDtypeStruct((), jnp.int32),
        extras={name: array(jnp.float32) for name in extras},
    )
    return setting.chips.rows(batch)


def trips(setting: Setting, lines: int, tokens: int) -> dict[str, list[float]]:
    """How often loops over the data run where a quarter of the positions carries loss, as in an
    interventional row, and every line is one row: whole chunks of the head and the half that is left."""
    half = max(setting.model.kind.head_chunk // lines // 2, 1)
    count = -(-tokens // 4 // half)
    block = blocks.block_size(tokens, setting.model.kind.block)
    # On the average a block of queries meets half of the blocks of keys, and its own.
    met = [(-(-tokens // block) + 1) / 2]
    return {"head": [count // 2, count % 2], "blocks": met, "attention": met}


def sampling(setting: Setting) -> Iterator[Program]:
    """What samples: an adapter merged, prompts into rows, rows a segment further, rows compacted."""
    model = setting.model
    yield Program(
        name="merge",
        shape="the adapter into the base",
        chips=1,
        lower=lambda: jax.jit(
            lambda base, adapter: layout.prepare(base, model.kind.sampling, adapter=adapter, lora=model.lora)
        ).lower(setting.base, setting.adapter),
    )
    program, base, prompts, owner, keys, steps = prefill_arguments(setting, setting.shapes.rows[0])
    yield Program(
        name="prefill",
        shape=f"{' x '.join(map(str, setting.shapes.prompts))}, {owner.shape[0]} rows",
        chips=1,
        lower=lambda: decode.prefill.lower(program, base, prompts, owner, keys, steps=steps),
        tokens=prompts.tokens.size,
    )
    yield from decoding(setting)
    rows, few = abstract_rows(setting, setting.shapes.rows[0]), setting.array(setting.shapes.rows[-1])
    yield Program(
        name="take rows",
        shape=f"{rows.start.shape[0]} -> {few.shape[0]} rows",
        chips=1,
        lower=lambda: decode.take_rows.lower(rows, few, more=0),
    )


def decoding(setting: Setting) -> Iterator[Program]:
    """A segment of steps, in every bucket of rows."""
    kind = setting.model.kind
    for bucket in setting.shapes.rows:
        count = bucket * len(setting.chips.devices)
        program, base, *_ = prefill_arguments(setting, count)
        rows, step = abstract_rows(setting, count), setting.array()
        yield Program(
            name="decode",
            shape=f"{count} rows, {rows.caches[0].keys.shape[2]} slots",
            chips=len(setting.chips.devices),
            lower=lambda program=program, base=base, rows=rows, step=step: decode.decode_loop.lower(
                program, base, rows, step, step
            ),
            tokens=count * kind.segment,
            trips={"decode": [kind.segment]},
            large=rows.caches[0].keys.size,
        )


def prefill_arguments(setting: Setting, count: int) -> tuple[Any, ...]:
    """What `decode.prefill` is called with for so many rows."""
    model, chips = setting.model._replace(lora=None), setting.chips
    base = jax.eval_shape(lambda base: layout.prepare(base, model.kind.sampling), setting.base)
    prompts = decode.Prompts(setting.array(*setting.shapes.prompts), setting.array(setting.shapes.prompts[0]))
    keys = setting.array(count, 2, dtype=jnp.uint32)
    return (
        decode.Program(model, 1.0, (0,)),
        chips.whole(base),
        prompts,
        setting.array(count),
        keys,
        model.kind.room,
    )


def abstract_rows(setting: Setting, count: int) -> decode.Rows:
    """Rows as `prefill` makes them, shared by the chips."""
    program, base, prompts, owner, keys, steps = prefill_arguments(setting, count)
    rows = jax.eval_shape(
        lambda *arrays: decode.prefill(program, *arrays, steps=steps), base, prompts, owner, keys
    )
    return setting.chips.rows(rows)
