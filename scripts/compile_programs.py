"""The programs of the paper and of `train` on abstract arrays, as `compile_check` compiles them.

Shapes are those that the target's kind of device makes of the paper's rows: an update of eight rows is one
micro-batch, up to 256 rows decode together.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cicjax.assets import default_model_folder
from cicjax.devices import mesh
from cicjax.devices.ahead import Target
from cicjax.devices.mesh import Devices
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
    """Lines x tokens of an update of the paper, of its scoring and of updates on one's own transcripts,
    prompts x tokens, tokens of a long prompt, the numbers of rows that decode, and the slots of a cache
    smaller than the prompts make."""

    paper: tuple[int, int]
    score: tuple[int, int]
    own: tuple[tuple[int, int], ...]
    prompts: tuple[int, int]
    long_prompt: int
    rows: tuple[int, ...]
    few_slots: int


# The embedded base has short shapes: the code of eight lines takes seven times as long to compile as that of
# one, and tests compile it at every commit.
SHAPES = {
    "tiny": Shapes(
        paper=(1, 512),
        score=(1, 512),
        own=((1, 2048),),
        prompts=(16, 64),
        long_prompt=0,
        rows=(32,),
        few_slots=0,
    ),
    "0.5b": Shapes(
        paper=(4, 512),
        score=(8, 512),
        own=((8, 512), (1, 8192), (1, 32_768)),
        prompts=(64, 128),
        long_prompt=8192,
        rows=(256, 32),
        few_slots=128,
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
    chips: Devices
    base: Any
    adapter: Any

    def array(self, *shape: int, dtype: Any = jnp.int32) -> Any:
        """An abstract array that every chip holds whole."""
        return self.chips.whole(jax.ShapeDtypeStruct(shape, dtype))


def programs(target: Target, model_size: str, chips: Devices) -> list[Program]:
    """Every program on one chip; and on all of them, where there are several, those that share their rows."""
    alone = setting(target, model_size, mesh.row((chips.mesh.devices.flat[0],)))
    found = [*updates(alone), *sampling(alone)] if target.alone else []
    if chips.count > 1:
        together = setting(target, model_size, chips)
        found += [update(together, *alone.shapes.paper), *decoding(together)]
    config = alone.model.config
    table = config.vocab_size * config.hidden_size
    return [replace(each, large=min(table, each.large or table)) for each in found]


def setting(target: Target, model_size: str, chips: Devices) -> Setting:
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
    yield score(setting, *setting.shapes.score)
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
    """A whole update of one micro-batch of so many lines on each chip."""
    chips, optimization = setting.chips, steps.Optimization()
    state = jax.eval_shape(lambda adapter: steps.start_state(adapter, optimization), setting.adapter)
    batches = abstract_batch(chips.count * lines, tokens, extras, stacked=True)
    call = chips.each(
        steps.whole_update,
        static={"optimization": optimization, "model": setting.model, "axis": chips.axis},
        whole={
            "loss": loss,
            "base": setting.base,
            "state": chips.whole(state),
            "count": setting.array(),
            "learning_rate": setting.array(dtype=jnp.float32),
        },
        rows={"batches": chips.rows(batches, axis=1)},
        axis=1,
        gives="whole",
        donate=("state",),
    )
    return line_program(setting, f"update {name}", call.lower, chips.count * lines, tokens)


def score(setting: Setting, lines: int, tokens: int) -> Program:
    """Log-probabilities of given rows."""
    batch = setting.chips.rows(abstract_batch(lines, tokens))
    lower = partial(scoring._score.lower, setting.model, setting.base, setting.adapter, batch)
    return line_program(setting, "score", lower, lines, tokens)


def line_program(setting: Setting, name: str, lower: Any, lines: int, tokens: int) -> Program:
    """A program over lines of tokens."""
    return Program(
        name=name,
        shape=f"{lines} x {tokens}",
        chips=setting.chips.count,
        lower=lower,
        tokens=lines * tokens,
        trips=trips(setting, lines, tokens),
        length=tokens,
    )


def abstract_batch(lines: int, tokens: int, extras: tuple[str, ...] = (), *, stacked: bool = False) -> Batch:
    """A micro-batch without values, the only one of its update where `stacked`."""
    before = (1,) if stacked else ()

    def array(dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((*before, lines, tokens), dtype)

    return Batch(
        tokens=array(jnp.int32),
        positions=array(jnp.int32),
        segments=array(jnp.int32),
        gamma=array(jnp.int8),
        is_target=array(jnp.bool_),
        solved=array(jnp.int8),
        indices=array(jnp.int32),
        used=jax.ShapeDtypeStruct(before, jnp.int32),
        extras={name: array(jnp.float32) for name in extras},
    )


def trips(setting: Setting, lines: int, tokens: int) -> dict[str, list[float]]:
    """How often loops over the data run where a quarter of the positions carries loss, as in an
    interventional row, and every line is one row: whole chunks of the head and the half that is left."""
    half = max(setting.model.kind.head_chunk // (lines // setting.chips.count) // 2, 1)
    count = -(-tokens // 4 // half)
    block = blocks.block_size(tokens, setting.model.kind.block)
    # On the average a block of queries meets half of the blocks of keys, and its own.
    met = [(-(-tokens // block) + 1) / 2]
    return {"head": [count // 2, count % 2], "blocks": met, "attention": met}


def sampling(setting: Setting) -> Iterator[Program]:
    """What samples: an adapter to be served, prompts into rows, rows a segment further, rows compacted."""
    dtype = setting.base["embed_tokens"]["embedding"].dtype
    lower = partial(layout._rounded_apart.lower, setting.adapter["layers"], dtype=dtype)
    yield Program(name="serve adapter", shape="all layers", chips=1, lower=lower)
    yield prefill(setting)
    if setting.shapes.long_prompt:
        yield prefill_chunk(setting)
    yield from decoding(setting)
    rows, few = abstract_rows(setting, setting.shapes.rows[0]), setting.array(setting.shapes.rows[-1])
    yield Program(
        name="take rows",
        shape=f"{rows.start.shape[0]} -> {few.shape[0]} rows",
        chips=1,
        lower=partial(decode.take_rows.lower, rows, few, more=0),
    )


def served(setting: Setting) -> tuple[Any, Any]:
    """The base and the adapter, where the model has one, as sampling reads them."""
    dtype = setting.base["embed_tokens"]["embedding"].dtype
    kind = setting.model.kind
    base = jax.eval_shape(lambda base: layout.prepare(base, kind.sampling), setting.base)
    if setting.model.lora is None:
        return setting.chips.whole(base), None
    adapter = jax.eval_shape(lambda adapter: layout.serving(adapter, dtype), setting.adapter)
    return setting.chips.whole(base), setting.chips.whole(adapter)


def prefill(setting: Setting) -> Program:
    """Prompts into the most rows."""
    arguments, steps = prefill_arguments(setting, setting.shapes.rows[0])
    count, tokens = setting.shapes.prompts
    return Program(
        name="prefill",
        shape=f"{count} x {tokens}, {setting.shapes.rows[0]} rows",
        chips=1,
        lower=partial(decode.prefill.lower, setting.model, *arguments, steps=steps),
        tokens=count * tokens,
    )


def prefill_chunk(setting: Setting) -> Program:
    """A chunk of one long prompt."""
    (base, adapter), chunk = served(setting), setting.model.kind.prompt_chunk
    prompts = decode.Prompts(setting.array(1, setting.shapes.long_prompt), setting.array(1))
    caches = jax.eval_shape(lambda: decode.empty_caches(setting.model, base, prompts))
    block = blocks.block_size(chunk, setting.model.kind.block)
    return Program(
        name="prefill a chunk",
        shape=f"1 x {chunk} of {setting.shapes.long_prompt}",
        chips=1,
        lower=partial(
            decode.prefill_chunk.lower,
            *(setting.model, base, adapter, setting.chips.whole(caches)),
            *(setting.array(1, chunk), setting.array(1), setting.array()),
        ),
        tokens=chunk,
        trips={"blocks": [setting.shapes.long_prompt / block / 2]},
    )


def decoding(setting: Setting) -> Iterator[Program]:
    """A segment of steps in every bucket of rows, the adapter beside the base; and in the largest for the
    base alone, or one that an adapter was merged into."""
    for bucket in setting.shapes.rows:
        yield decode_program(setting, "decode", bucket)
    if setting.chips.count > 1:
        return
    bare, most = setting._replace(model=setting.model._replace(lora=None)), setting.shapes.rows[0]
    yield decode_program(bare, "decode, no adapter", most)
    if few := setting.shapes.few_slots:
        yield decode_program(setting, "decode", most, slots=few)
        yield decode_program(bare, "decode, no adapter", most, slots=few)


def decode_program(setting: Setting, name: str, bucket: int, slots: int | None = None) -> Program:
    """A segment of steps of so many rows on each chip, of all the `slots` of a fresh cache unless they are
    said."""
    (base, adapter), chips = served(setting), setting.chips
    count, kind = bucket * chips.count, setting.model.kind
    rows, step = abstract_rows(setting, count, slots), setting.array()
    keys = rows.caches[0].keys
    call = chips.each(
        decode.decode_loop,
        static={"model": setting.model},
        whole={"base": base, "adapter": adapter, "step": step, "stop_at": step},
        rows={"rows": rows},
        donate=("rows",),
    )
    return Program(
        name=name,
        shape=f"{count} rows, {keys.shape[2]} slots",
        chips=chips.count,
        lower=call.lower,
        tokens=count * kind.segment,
        trips={"decode": [kind.segment]},
        large=keys.size // chips.count,
    )


def prefill_arguments(setting: Setting, count: int) -> tuple[tuple[Any, ...], int]:
    """What `decode.prefill` is called with for so many rows, and their steps."""
    prompts = decode.Prompts(setting.array(*setting.shapes.prompts), setting.array(setting.shapes.prompts[0]))
    draws = decode.Draws(
        keys=setting.array(count, 2, dtype=jnp.uint32),
        temperature=setting.array(count, dtype=jnp.float32),
        top_p=setting.array(count, dtype=jnp.float32),
        stop_ids=setting.array(count, 2),
    )
    return (*served(setting), prompts, setting.array(count), draws), setting.model.kind.room


def abstract_rows(setting: Setting, count: int, slots: int | None = None) -> decode.Rows:
    """Rows as `prefill` makes them, shared by the chips; their caches of half as many steps as `slots`, where
    those are said, after prompts of the other half."""
    if slots is not None:
        kind = replace(setting.model.kind, room=slots // 2)
        shapes = setting.shapes._replace(prompts=(setting.shapes.prompts[0], slots // 2))
        setting = setting._replace(model=setting.model._replace(kind=kind), shapes=shapes)
    arguments, steps = prefill_arguments(setting, count)
    rows = jax.eval_shape(lambda *arrays: decode.prefill(setting.model, *arrays, steps=steps), *arguments)
    return setting.chips.rows(rows)
