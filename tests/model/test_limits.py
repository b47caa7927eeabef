"""What does not fit is said in one line before anything is compiled."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_policy import random_policy

from cicjax import cli
from cicjax.devices import kind
from cicjax.errors import BadInput, OutOfResources
from cicjax.model import layout, limits, lora, qwen2
from cicjax.model.config import LoRAConfig, Qwen2Config
from cicjax.provenance import Encoded, weights
from cicjax.provenance.protocol import Weighting
from cicjax.sampling.sampler import Decoding, Sampler
from cicjax.training import scoring, steps
from cicjax.training.batches import Batch, Shape, make_row
from cicjax.training.finetune import check_fit

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
SMALL = replace(kind.ANY, memory=1 << 20)


def encoded(length):
    facts = np.full(length, -1, np.int8), np.ones(length, np.int8)
    return Encoded(np.full(length, 5, np.int32), np.zeros(length, np.int8), np.ones(length, bool), *facts)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return random_policy(tmp_path_factory.mktemp("policy"), seed=8)


def jobs(policy, device, length):
    """What trains, scores and samples a row of so many tokens, up to where something would be compiled."""
    model, base, adapter = policy
    model = model._replace(kind=device)
    row = make_row(encoded(length), Weighting(weights.OBSERVATIONAL))
    shape = Shape(1, length)
    return (
        lambda: check_fit(model, base, adapter, [("short", row), ("a7", row)], shape),
        lambda: scoring.check_fit([encoded(length)], model=model, base=base, shape=shape, names=["row a7"]),
        lambda: Sampler(model, base, adapter).check_fit(
            [[5] * (length - 1)],
            Decoding(max_new_tokens=1, temperature=1.0, stop_ids=()),
            names=["prompt a7"],
        ),
    )


@pytest.mark.parametrize("number", range(3), ids=["train", "score", "sample"])
def test_too_long_and_too_large_are_one_line(policy, number):
    jobs(policy, kind.ANY, 512)[number]()
    with pytest.raises(BadInput, match=r"(row|prompt) \w+: .*the model's 512 positions"):
        jobs(policy, kind.ANY, 513)[number]()
    with pytest.raises(OutOfResources) as caught:
        jobs(policy, SMALL, 512)[number]()
    line = str(caught.value)
    assert "\n" not in line and "512 tokens need about" in line and "and this any has 0.0;" in line
    assert caught.value.exit_code == 4


def abstract_base(config):
    """Shapes of a stacked float32 base."""

    def array(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    count, size = config.num_hidden_layers, config.hidden_size
    norms = ("input_layernorm", "post_attention_layernorm")
    layers = {name: {"scale": array(count, size)} for name in norms}
    for name, (module, inputs, outputs) in lora.projection_shapes(config).items():
        part = {"kernel": array(count, inputs, outputs)}
        if name in ("q_proj", "k_proj", "v_proj"):
            part["bias"] = array(count, outputs)
        layers.setdefault(module, {})[name] = part
    embedding = {"embedding": array(config.vocab_size, size)}
    return {"embed_tokens": embedding, "layers": layers, "norm": {"scale": array(size)}}


@pytest.mark.parametrize(
    ("lines", "length", "layers"),
    [(1, 512, kind.GPU), (1, 2048, kind.GPU), (1, 8192, kind.GPU), (1, 512, kind.CPU), (1, 8192, kind.CPU)],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_estimate_of_a_training_step_is_near_what_the_compiler_takes(lines, length, layers):
    """Four layers of Qwen2.5-0.5B on a CPU; neither half nor twice."""
    config = replace(QWEN_05B, num_hidden_layers=4, vocab_size=20_000)
    device = replace(kind.CPU, training=layers.training, activations=1 << 30)
    model = qwen2.Model(config, LoRAConfig(), device)
    base = jax.eval_shape(lambda base: layout.prepare(base, device.training), abstract_base(config))
    adapter = jax.eval_shape(lambda: lora.init_adapter(config, LoRAConfig(), jax.random.key(0)))

    def column(dtype):
        return jax.ShapeDtypeStruct((lines, length), dtype)

    ints, count = column(jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
    batch = Batch(
        ints, ints, ints, column(jnp.int8), column(jnp.bool_), column(jnp.int8), ints, count, extras={}
    )
    sums = jax.eval_shape(steps.zero_sums, adapter)
    program = steps.accumulate.lower(
        steps.Likelihood(weights.OBSERVATIONAL), model, base, adapter, sums, batch
    )
    taken = program.compile().memory_analysis().temp_size_in_bytes
    need = limits.training_need(model, base, adapter, lines=lines, length=length)
    assert 0.5 * taken < need.activations + need.head < 2 * taken


@pytest.mark.parametrize(
    "text",
    [
        "RESOURCE_EXHAUSTED: Out of memory allocating 21474836480 bytes.",
        "INTERNAL: Failed to allocate 1234 bytes for new constant",
        "INTERNAL: YNNPACK operation failed: error",
    ],
)
def test_what_still_runs_out_of_memory_is_one_line(monkeypatch, capsys, text):
    class Failing:
        def run(self):
            raise jax.errors.JaxRuntimeError(text)

    monkeypatch.setattr(cli, "parse", lambda arguments: Failing())
    assert cli.main([]) == 4
    out = capsys.readouterr().err
    assert out.startswith("cicjax: error: out of memory (") and out.count("\n") == 1
