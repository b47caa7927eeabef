"""Adapters by path: checkpoints and peft folders give the same tree, and never over a base that is not
theirs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_qwen2

from cicjax.errors import BadInput, Corrupted
from cicjax.files.whole import write_json
from cicjax.model import huggingface, lora, peft
from cicjax.model.config import LoRAConfig
from cicjax.training import adapters, checkpoints

SETTINGS = LoRAConfig(rank=4, alpha=8.0, target_modules=("q_proj", "down_proj"))
BASE = "a" * 64


def trained(config, seed=1):
    shapes = jax.eval_shape(lambda: lora.init_adapter(config, SETTINGS, jax.random.key(0)))
    return jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(seed + leaf.size), leaf.shape), shapes)


def save(folder, adapter, *, step=3, **metadata):
    settings = {"rank": 4, "alpha": 8.0, "target_modules": ["q_proj", "down_proj"]}
    known = {"method": "sft", "total_updates": 3, "base_fingerprint": BASE, "lora": settings, **metadata}
    checkpoints.save(folder, step, tree={"adapter": adapter, "step": jnp.int32(step)}, metadata=known)
    return folder


@pytest.fixture
def config(tmp_path):
    tiny_qwen2.write(tmp_path / "base")
    return huggingface.read_config(tmp_path / "base")


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    return all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def refused(path, config, *words, **arguments):
    with pytest.raises(BadInput) as caught:
        adapters.load_adapter(path, config, **arguments)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    for word in words:
        assert word in message, message


def test_both_kinds_of_folder_give_the_same_adapter(tmp_path, config):
    save(tmp_path / "run/sft", trained(config, seed=9), step=2)
    save(tmp_path / "run/sft", trained(config))
    adapter, settings, known = adapters.load_adapter(tmp_path / "run/sft", config, base_fingerprint=BASE)
    assert same(adapter, trained(config)) and settings == SETTINGS
    assert (known["method"], known["step"], known["total_updates"], known["base_fingerprint"]) == (
        "sft",
        3,
        3,
        BASE,
    )
    noted = {"method": "sft", "base_fingerprint": BASE, "other": "x"}
    peft.write_peft(tmp_path / "out", adapter, settings, base_model_name_or_path="x", card="", metadata=noted)
    again, settings, known = adapters.load_adapter(str(tmp_path / "out"), config, base_fingerprint=BASE)
    assert same(again, adapter) and settings == SETTINGS
    assert known == {"method": "sft", "base_fingerprint": BASE}


def test_another_base_is_refused_by_both_names(tmp_path, config):
    save(tmp_path / "run/sft", trained(config))
    other = {"base_fingerprint": "b" * 64, "base_name": "models/other"}
    refused(
        tmp_path / "run/sft",
        config,
        "trained on the base aaaaaaaaaaaa,",
        "models/other is bbbbbbbbbbbb",
        **other,
    )
    write_json(tmp_path / "run/config.json", {"model_name_or_path": "models/own"})
    refused(
        tmp_path / "run/sft",
        config,
        "trained on the base models/own (aaaaaaaaaaaa)",
        "models/other is bbbbbbbbbbbb",
        **other,
    )
    noted = {"base_fingerprint": BASE}
    peft.write_peft(
        tmp_path / "out", trained(config), SETTINGS, base_model_name_or_path="x", card="", metadata=noted
    )
    refused(tmp_path / "out", config, "aaaaaaaaaaaa", "bbbbbbbbbbbb", **other)


def test_what_says_nothing_of_its_base_is_checked_by_its_shapes_alone(tmp_path, config):
    peft.write_peft(tmp_path / "out", trained(config), SETTINGS, base_model_name_or_path="x", card="")
    assert adapters.load_adapter(tmp_path / "out", config, base_fingerprint=BASE)[2] == {}
    tiny_qwen2.write(tmp_path / "wide", hidden_size=64)
    refused(tmp_path / "out", huggingface.read_config(tmp_path / "wide"), "shape")


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, config):
    save(tmp_path / "run/sft", trained(config))
    tiny_qwen2.write(tmp_path / "deep", num_hidden_layers=3)
    deep = huggingface.read_config(tmp_path / "deep")
    refused(tmp_path / "run/sft", deep, "layers/mlp/down_proj/lora_a", "(2, 48, 4)", "(3, 48, 4)")
    for number, wrong in enumerate(
        ({"rank": 8, "alpha": 8.0, "target_modules": ["q_proj"]}, None, {"rank": 4}, {"rank": 4, "extra": 1})
    ):
        refused(
            save(tmp_path / str(number), trained(config), lora=wrong),
            config,
            "the adapter" if number == 0 else "does not say",
        )
    strange = {"rank": 4, "alpha": 8.0, "target_modules": ["lm_head"]}
    refused(save(tmp_path / "strange", trained(config), lora=strange), config, "projections")


def test_an_adapter_that_is_not_finite_is_refused(tmp_path, config):
    for value in (np.nan, -np.inf):
        adapter = trained(config)
        module = adapter["layers"]["mlp"]["down_proj"]
        module["lora_b"] = module["lora_b"].at[1, 2, 3].set(value)
        save(tmp_path / "run/sft", adapter)
        refused(tmp_path / "run/sft", config, "layers/mlp/down_proj/lora_b", "not finite")


def test_a_wrong_folder_says_what_to_give_instead(tmp_path, config):
    refused(tmp_path / "absent", config, "no such folder")
    refused(tmp_path / "base", config, "no adapter", "adapter_config.json")
    for method in ("sft", "interventional"):
        save(tmp_path / "run" / method, trained(config))
    refused(tmp_path / "run", config, "interventional, sft", str(tmp_path / "run" / "sft"))


def test_a_changed_byte_is_corruption(tmp_path, config):
    folder = save(tmp_path / "run/sft", trained(config))
    values = max(
        (path for path in (folder / "3").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size
    )
    content = bytearray(values.read_bytes())
    content[-1] ^= 1
    values.chmod(0o600)
    values.write_bytes(content)
    with pytest.raises(Corrupted, match="step 3"):
        adapters.load_adapter(folder, config)
