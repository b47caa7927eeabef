"""The table of devices: every program takes its kind as an argument, and none changes what is computed."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_policy import random_policy

from cicjax.devices import kind
from cicjax.model import layout
from cicjax.provenance import Encoded
from cicjax.sampling import decode
from cicjax.training import scoring
from cicjax.training.batches import Shape

ROOT = Path(__file__).resolve().parents[2]
KINDS = (kind.ANY, kind.CPU, kind.GPU, kind.TPU)
PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}


@pytest.fixture(scope="module", params=[jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def policy(request, tmp_path_factory):
    model, base, adapter = random_policy(tmp_path_factory.mktemp("policy"), seed=4)
    return model, jax.tree.map(lambda leaf: leaf.astype(request.param), base), adapter


def rows(count=5):
    rng = np.random.default_rng(0)
    for length in rng.integers(8, 30, count):
        gamma = (rng.random(length) < 0.5).astype(np.int8)
        facts = np.full(length, -1, np.int8), np.ones(length, np.int8)
        yield Encoded(rng.integers(1, 300, length).astype(np.int32), gamma, np.ones(length, bool), *facts)


def test_this_process_has_a_kind():
    assert kind.here().name in (jax.default_backend(), "any")
    assert jax.default_backend() != "cpu" or kind.here() is kind.CPU


def test_the_question_is_asked_in_one_place():
    files = [*(ROOT / "cicjax").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
    asking = {
        file.relative_to(ROOT).as_posix()
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "default_backend"
    }
    assert asking == {"cicjax/devices/kind.py"}


@pytest.mark.parametrize("device", KINDS, ids=lambda device: device.name)
def test_a_kind_fits_together(device):
    assert hash(device) == hash(kind.replace(device))
    assert list(device.row_buckets) == sorted(set(device.row_buckets))
    assert device.room % device.segment == 0 and device.head_chunk > 0 and device.lines_per_batch > 0


@pytest.mark.parametrize("device", KINDS, ids=lambda device: device.name)
def test_every_kind_scores_the_same(policy, device):
    model, base, adapter = policy

    def scores(device):
        return np.concatenate(
            scoring.token_logprobs(
                list(rows()),
                model=model._replace(kind=device),
                base=layout.prepare(base, device.training),
                adapter=adapter,
                shape=Shape(device.lines_per_batch, 64),
            )
        )

    accuracy = 1e-5 if base["norm"]["scale"].dtype == jnp.float32 else 2e-2
    np.testing.assert_allclose(scores(device), scores(kind.ANY), atol=accuracy)


@pytest.mark.parametrize("device", [kind.CPU, kind.GPU, kind.TPU], ids=lambda device: device.name)
def test_programs_are_lowered_for_a_device_that_is_not_here(policy, device):
    """And the CPU's bits are gathered and written in its own programs alone."""
    model, base, _ = policy
    model, half = model._replace(lora=None, kind=device), base["norm"]["scale"].dtype == jnp.bfloat16
    base = layout.prepare(base, device.sampling)
    prompts = decode.Prompts(np.ones((2, 16), np.int32), np.zeros(2, np.int32))
    owner, ones = np.asarray([0, 0, 1, 1]), np.ones(4, np.float32)
    draws = decode.Draws(np.zeros((4, 2), np.uint32), ones, ones, np.zeros((4, 4), np.int32))
    prefilled = decode.prefill.trace(model, base, None, prompts, owner, draws, steps=16)
    traced = [
        prefilled,
        decode.decode_loop.trace(model, base, None, prefilled.out_info, np.int32(1), np.int32(9)),
    ]
    for each in traced:
        text = each.lower(lowering_platforms=(PLATFORMS[device.name],)).as_text()
        by_bits = [line for line in text.splitlines() if "bitcast_convert" in line and "bf16" in line]
        assert bool(by_bits) == (half and device.bf16_by_bits)
