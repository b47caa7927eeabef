"""Which slots a query sees, and attention by its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_policy import random_policy

from cicjax.devices import kind
from cicjax.model import layout, qwen2
from cicjax.model.attention import Span, attention, left_padded, packed


def seen(span: Span, size: int) -> list[list[str]]:
    """A line a query, x where it sees a slot."""
    return [
        [
            "".join("x" if first <= slot <= last else "." for slot in range(size))
            for first, last in zip(row, span.last, strict=True)
        ]
        for row in np.asarray(span.first)
    ]


def test_packed_rows_see_their_own_segment_up_to_themselves():
    grid = """
        x.......
        xx......
        ..x.....
        ..xx....
        ..xxx...
        .....x..
        ......x.
        ......xx
    """.split()
    assert seen(packed(jnp.asarray([[1, 1, 2, 2, 2, 7, 0, 0], [4] * 8])), 8) == [
        grid,
        ["x" * (t + 1) + "." * (7 - t) for t in range(8)],
    ]


def test_left_padded_rows_see_what_begins_with_their_prompt():
    prompt = left_padded(jnp.asarray([0, 2]), jnp.arange(3))
    assert seen(prompt, 3) == [["x..", "xx.", "xxx"], ["...", "...", "..x"]]
    step = left_padded(jnp.asarray([0, 2]), jnp.asarray([4]))
    assert seen(step, 6) == [["xxxxx."], ["..xxx."]]


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_the_softmax_over_what_is_seen(heads):
    shapes = [(2, 5, 4, 8), (2, heads, 5, 8), (2, heads, 5, 8)]
    queries, keys, values = (jax.random.normal(jax.random.key(n), shape) for n, shape in enumerate(shapes))
    span = packed(jnp.asarray([[1, 1, 2, 2, 0], [1, 1, 1, 1, 1]]))

    def definition(queries, keys, values):
        k, v = (jnp.repeat(part, 4 // heads, axis=1) for part in (keys, values))
        scores = jnp.einsum("btnh,bnsh->bnts", queries, k) / np.sqrt(8)
        lines = np.asarray([[list(line) for line in row] for row in seen(span, 5)])
        scores = jnp.where(jnp.asarray(lines == "x")[:, None], scores, -jnp.inf)
        return jnp.einsum("bnts,bnsh->btnh", jax.nn.softmax(scores), v)

    ours, back = jax.vjp(jax.jit(lambda *parts: attention(*parts, span)), queries, keys, values)
    expected, expected_back = jax.vjp(jax.jit(definition), queries, keys, values)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    cotangent = jax.random.normal(jax.random.key(9), ours.shape)
    for one, other in zip(back(cotangent), expected_back(cotangent), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_no_layer_is_handed_a_mask(tmp_path):
    """Whatever replaces the dense mask inside `attention` never finds one made outside."""
    model, base, adapter = random_policy(tmp_path, seed=0)
    time = 37  # a length that no other axis has
    tokens = jnp.arange(time)[None]
    for wanted in (kind.CPU.training, kind.GPU.training):
        prepared = layout.prepare(base, wanted)
        program = jax.make_jaxpr(lambda base: qwen2.apply(model, base, adapter, tokens))(prepared)
        shapes = [v.aval.shape for jaxpr in programs(program.jaxpr, "run_block") for v in jaxpr.invars]
        assert shapes and any(time in shape for shape in shapes)
        assert all(shape.count(time) < 2 for shape in shapes)


def programs(jaxpr, name):
    """The jaxprs of all jitted calls of this name, however deep."""
    for eqn in jaxpr.eqns:
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                if eqn.params.get("name") == name:
                    yield inner
                yield from programs(inner, name)
