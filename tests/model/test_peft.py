"""Adapters out to peft and back: real peft computes the same logits, import is bit-exact, and nothing loads
as less than it is."""

import json
import os
import signal
import subprocess
import sys
import warnings

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_qwen2
from safetensors.numpy import load_file, save_file

from cicjax.errors import BadInput
from cicjax.model import huggingface, lora, peft, qwen2
from cicjax.model.config import PROJECTIONS, LoRAConfig

SETTINGS = LoRAConfig(rank=4, alpha=8.0, target_modules=("q_proj", "down_proj"))
PREFIX = "base_model.model.model.layers."
QUERY = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


def random_adapter(config, settings, *, scale=0.1):
    """An adapter whose B is not zero."""
    fresh = lora.init_adapter(config, settings, jax.random.key(0))
    return jax.tree.map(
        lambda leaf: leaf + scale * jax.random.normal(jax.random.key(leaf.size), leaf.shape), fresh
    )


def write(folder, adapter, settings=SETTINGS):
    peft.write_peft(folder, adapter, settings, base_model_name_or_path="owner/base", card="# A card\n")
    return folder


def assert_bit_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype == jnp.float32 and one.shape == other.shape
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.fixture
def config(tmp_path):
    tiny_qwen2.write(tmp_path / "base")
    return huggingface.read_config(tmp_path / "base")


@pytest.fixture
def folder(tmp_path, config):
    return write(tmp_path / "adapter", random_adapter(config, SETTINGS))


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        LoRAConfig(rank=1, alpha=0.3, target_modules=("v_proj",)),
        LoRAConfig(rank=5, alpha=16.0),
        LoRAConfig(rank=2, alpha=1e-7, target_modules=("up_proj", "k_proj", "o_proj")),
    ],
    ids=["two", "one", "all", "unordered"],
)
def test_import_gives_back_every_bit(tmp_path, config, settings):
    adapter = random_adapter(config, settings)
    corner = adapter["layers"][lora.projection_shapes(config)[settings.target_modules[0]][0]][
        settings.target_modules[0]
    ]
    corner["lora_a"] = corner["lora_a"].at[0, 0, 0].set(-0.0).at[1, 1, 0].set(1e-42)
    assert_bit_equal(*(peft.read_peft(write(tmp_path / "out", adapter, settings), config)[0], adapter))
    assert peft.read_peft(tmp_path / "out", config)[1] == settings


def test_layout(folder, config):
    """The names, shapes and settings that peft, vLLM and llama.cpp go by, written out."""
    inputs_outputs = {"self_attn.q_proj": (32, 32), "mlp.down_proj": (48, 32)}
    expected = {}
    for layer in (0, 1):
        for name, (inputs, outputs) in inputs_outputs.items():
            expected[f"base_model.model.model.layers.{layer}.{name}.lora_A.weight"] = (4, inputs)
            expected[f"base_model.model.model.layers.{layer}.{name}.lora_B.weight"] = (outputs, 4)
    stored = load_file(folder / "adapter_model.safetensors")
    assert {name: tensor.shape for name, tensor in stored.items()} == expected
    assert {tensor.dtype for tensor in stored.values()} == {np.dtype(np.float32)}
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "owner/base",
        "revision": None,
        "inference_mode": True,
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "target_modules": ["q_proj", "down_proj"],
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "use_dora": False,
    }
    assert type(settings["lora_alpha"]) is int
    assert sorted(os.listdir(folder)) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert (folder / "README.md").read_text() == "# A card\n"
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1


def test_metadata_come_back_and_equal_adapters_give_equal_files(tmp_path, config):
    adapter = random_adapter(config, SETTINGS)
    noted = {"base_fingerprint": "0" * 64, "method": "sft"}
    peft.write_peft(tmp_path / "out", adapter, SETTINGS, base_model_name_or_path="x", card="", metadata=noted)
    assert peft.read_metadata(tmp_path / "out") == noted
    assert peft.read_metadata(write(tmp_path / "silent", adapter)) == {}
    first, second = (
        (tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("out", "silent")
    )
    assert first == second


def logits_of(model, tokens):
    import torch

    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


def load_with_peft(model, folder):
    """A PeftModel that loaded every key: the warnings that speak of missing or foreign ones are errors."""
    import peft as library

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = library.PeftModel.from_pretrained(model, folder)
    result = loaded.load_adapter(folder, "again")
    assert not result.unexpected_keys
    assert not [name for name in result.missing_keys if "lora_" in name]
    return loaded.eval()


def transformers_model(folder, *, seed=0, **sizes):
    """A random Qwen2 made and saved by transformers, and what it is here."""
    import torch
    import transformers

    torch.manual_seed(seed)
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**{**tiny_qwen2.SIZES, **sizes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif "layers" in name:
                parameter.mul_(5)
    model.save_pretrained(folder)
    return model, *huggingface.load_base(folder, jnp.float32)


SMALL = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "three layers": {"num_hidden_layers": 3, "num_key_value_heads": 1},
}


@pytest.mark.parametrize("sizes", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("targets", [PROJECTIONS, ("v_proj", "up_proj")], ids=["all", "two"])
def test_real_peft_computes_the_same_logits(tmp_path, sizes, targets):
    pytest.importorskip("torch")
    pytest.importorskip("peft")
    theirs, config, base = transformers_model(tmp_path / "base", **sizes)
    settings = LoRAConfig(rank=3, alpha=7.5, target_modules=targets)
    adapter = random_adapter(config, settings)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, 21))
    ours = np.asarray(qwen2.apply(qwen2.Model(config, settings), base, adapter, jnp.asarray(tokens)))
    bare = logits_of(theirs, tokens)
    found = logits_of(load_with_peft(theirs, write(tmp_path / "adapter", adapter, settings)), tokens)
    assert np.abs(found - bare).max() > 0.05
    np.testing.assert_allclose(found, ours, atol=1e-4)


@pytest.mark.parametrize("rank_stabilised", [False, True])
@pytest.mark.parametrize(
    "given", ["all-linear", ["q_proj", "mlp.down_proj"], ["gate_proj"]], ids=["all-linear", "two", "one"]
)
def test_reads_what_peft_saves(tmp_path, given, rank_stabilised):
    torch = pytest.importorskip("torch")
    library = pytest.importorskip("peft")
    model, config, base = transformers_model(tmp_path / "base")
    torch.manual_seed(1)
    settings = library.LoraConfig(
        r=6,
        lora_alpha=9,
        target_modules=given,
        use_rslora=rank_stabilised,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
        lora_dropout=0.1,
    )
    theirs = library.get_peft_model(model, settings).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    adapter, read = peft.read_peft(tmp_path / "adapter", config)
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    tensors = dict(peft._tensors(adapter, read))
    assert tensors.keys() == stored.keys()
    assert all(tensors[name].tobytes() == tensor.tobytes() for name, tensor in stored.items())
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, 17))
    ours = qwen2.apply(qwen2.Model(config, read), base, adapter, jnp.asarray(tokens))
    np.testing.assert_allclose(logits_of(theirs, tokens), ours, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_widened_exactly(folder, config, dtype):
    file = folder / "adapter_model.safetensors"
    halved = {name: tensor.astype(jnp.dtype(dtype)) for name, tensor in load_file(file).items()}
    save_file(halved, file)
    read = dict(peft._tensors(*peft.read_peft(folder, config)))
    assert all(np.array_equal(read[name], tensor.astype(np.float32)) for name, tensor in halved.items())


def refused(folder, config, *words):
    """The one line with which a folder is refused."""
    with pytest.raises(BadInput) as caught:
        peft.read_peft(folder, config)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500 and str(folder) in message
    for word in words:
        assert word in message, message


def edit(folder, change):
    """Change the tensors of a peft folder by a function from dictionary to dictionary."""
    file = folder / "adapter_model.safetensors"
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in change(load_file(file)).items()}, file)


def renamed(old, new):
    return lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()}


def replaced(change, *, where=lambda name: name == QUERY):
    return lambda tensors: {
        name: change(tensor) if where(name) else tensor for name, tensor in tensors.items()
    }


def without(part):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


EXTRA = {"lm_head.lora_A.weight": "lm_head", "model.embed_tokens.lora_embedding_A": "embed_tokens"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            renamed("base_model.model.", ""),
            ["model.layers.0", "does not begin with base_model.model.model.layers.", "load as nothing"],
        ),
        (renamed("base_model.model.model", "base_model.model"), ["does not begin with"]),
        (renamed("base_model.model.model", "base_model.model.model.model"), ["does not begin with"]),
        (renamed("model.layers", "model.language_model.layers"), ["language_model", "does not begin with"]),
        (renamed("base_model.model.model", "base_model\n\x1b[31m"), ["does not begin with", "\\n\\x1b"]),
        (
            renamed("lora_A.weight", "lora_A.default.weight"),
            ["no base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"],
        ),
        (
            renamed("lora_B.weight", "lora_B"),
            ["no base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"],
        ),
        (renamed("self_attn", "attn"), ["no base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"]),
        (
            without("layers.1."),
            ["no base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight", "adapter_config.json"],
        ),
        (without("down_proj"), ["no base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"]),
        (without("lora_B"), ["lora_B.weight"]),
        (without("lora_A"), ["lora_A.weight"]),
        (lambda tensors: {}, ["no base_model.model.model.layers.0"]),
        (
            lambda t: t | {PREFIX + "2.self_attn.q_proj.lora_A.weight": t[QUERY]},
            ["layers.2.self_attn", "no place"],
        ),
        (lambda t: t | {PREFIX + "0.self_attn.k_proj.lora_A.weight": t[QUERY]}, ["k_proj", "no place"]),
        (
            lambda t: t | {PREFIX + "0.self_attn.q_proj.lora_magnitude_vector": t[QUERY][0]},
            ["magnitude", "no place"],
        ),
        (lambda t: t | {PREFIX + "0.self_attn.q_proj.lora_B.bias": t[QUERY][0]}, ["lora_B.bias", "no place"]),
        (lambda t: t | {"base_model.model.lm_head.weight": t[QUERY]}, ["lm_head", "does not begin with"]),
        (
            lambda t: t | {"base_model.model.model.embed_tokens.lora_embedding_A": t[QUERY]},
            ["embed_tokens", "does not begin with"],
        ),
        (replaced(np.transpose), [QUERY, "shape (32, 4)", "(4, 32)"]),
        (replaced(np.transpose, where=lambda name: "lora_" in name), ["shape (32, 4)"]),
        (replaced(lambda tensor: tensor[:2]), [QUERY, "shape (2, 32)", "(4, 32)"]),
        (replaced(lambda tensor: tensor[None]), [QUERY, "shape (1, 4, 32)"]),
        (replaced(lambda tensor: tensor[:, :0]), [QUERY, "shape (4, 0)"]),
        (replaced(lambda tensor: tensor.astype(np.float64)), [QUERY, "F64"]),
        (replaced(lambda tensor: tensor.astype(np.int32)), [QUERY, "I32"]),
        (replaced(lambda tensor: tensor * np.float32("inf")), [QUERY, "not finite"]),
        (
            replaced(np.zeros_like, where=lambda name: "lora_B" in name),
            ["every lora_B is zero", "changes nothing"],
        ),
        (replaced(np.zeros_like, where=lambda name: "lora_A" in name), ["changes nothing"]),
    ],
)
def test_refuses_what_would_load_as_less(folder, config, change, words):
    edit(folder, change)
    refused(folder, config, "adapter_model.safetensors", *words)


def test_one_live_product_is_an_adapter(folder, config):
    """Zero matrices alone are no reason to refuse: a projection without a gradient keeps its B."""
    edit(folder, replaced(np.zeros_like, where=lambda name: "lora_B" in name and "layers.1.mlp" not in name))
    assert not peft.does_nothing(peft.read_peft(folder, config)[0])


def configure(folder, **values):
    path = folder / "adapter_config.json"
    settings = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not ...}))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"peft_type": "LOHA"}, ["LOHA"]),
        ({"peft_type": ...}, ["peft_type"]),
        ({"task_type": "SEQ_CLS"}, ["SEQ_CLS"]),
        ({"use_dora": True}, ["use_dora"]),
        ({"rank_pattern": {"q_proj": 8}}, ["rank_pattern", "one rank"]),
        ({"alpha_pattern": {"q_proj": 8}}, ["alpha_pattern", "one alpha"]),
        ({"modules_to_save": ["lm_head"]}, ["modules_to_save"]),
        ({"bias": "all"}, ["bias", "all"]),
        ({"bias": "lora_only"}, ["lora_only"]),
        ({"lora_bias": True}, ["lora_bias"]),
        ({"fan_in_fan_out": True}, ["fan_in_fan_out"]),
        ({"layers_to_transform": [0]}, ["layers_to_transform"]),
        ({"layer_replication": [[0, 2]]}, ["layer_replication"]),
        ({"target_parameters": ["mlp.experts"]}, ["target_parameters"]),
        ({"trainable_token_indices": [1]}, ["trainable_token_indices"]),
        ({"alora_invocation_tokens": [1, 2]}, ["alora"]),
        ({"use_qalora": True}, ["use_qalora"]),
        ({"exclude_modules": ["q_proj"]}, ["exclude_modules"]),
        ({"a_switch_of_the_future": True}, ["a_switch_of_the_future"]),
        ({"init_lora_weights": "pissa"}, ["pissa", "changes the base"]),
        ({"init_lora_weights": "loftq"}, ["loftq", "changes the base"]),
        ({"init_lora_weights": ["olora"]}, ["init_lora_weights"]),
        ({"use_rslora": "yes"}, ["use_rslora"]),
        ({"r": 8}, ["shape (4, 32)", "(8, 32)"]),
        ({"r": 0}, ["r must be"]),
        ({"r": -4}, ["r must be"]),
        ({"r": 4.0}, ["r must be"]),
        ({"r": True}, ["r must be"]),
        ({"r": None}, ["r must be"]),
        ({"lora_alpha": 0}, ["lora_alpha must be"]),
        ({"lora_alpha": "8"}, ["lora_alpha must be"]),
        ({"lora_alpha": 10**400}, ["lora_alpha must be"]),
        ({"lora_alpha": ...}, ["lora_alpha must be"]),
        ({"target_modules": ["q_proj"]}, ["down_proj", "no place"]),
        ({"target_modules": ["q_proj", "down_proj", "k_proj"]}, ["k_proj.lora_A.weight"]),
        ({"target_modules": "all-linear"}, ["k_proj.lora_A.weight"]),
        ({"target_modules": ["q_proj", "down_proj", "lm_head"]}, ["lm_head", "not supported"]),
        ({"target_modules": ["mlp.q_proj", "down_proj"]}, ["mlp.q_proj", "not supported"]),
        ({"target_modules": ["q_proj", 3]}, ["3", "not supported"]),
        (
            {"target_modules": ["model.layers.0.self_attn.q_proj", "down_proj"]},
            ["leaves out model.layers.1.self_attn.q_proj"],
        ),
        ({"target_modules": ["model.layers.2.self_attn.q_proj", "down_proj"]}, ["layers.2", "not supported"]),
        ({"target_modules": []}, ["must be a list"]),
        ({"target_modules": None}, ["must be a list"]),
        ({"target_modules": ".*(q_proj|down_proj)"}, ["must be a list"]),
    ],
)
def test_refuses_settings_that_would_change_the_product(folder, config, values, words):
    configure(folder, **values)
    refused(folder, config, *words)


@pytest.mark.parametrize(
    "values",
    [
        {"use_dora": ..., "rank_pattern": ..., "bias": ..., "task_type": None, "init_lora_weights": ...},
        {
            "init_lora_weights": "gaussian",
            "lora_dropout": 0.1,
            "peft_version": "0.21",
            "revision": "main",
            "inference_mode": False,
        },
        {
            "auto_mapping": {"base_model_class": "Qwen2ForCausalLM"},
            "megatron_core": "megatron.core",
            "qalora_group_size": 16,
        },
        {"target_modules": ["self_attn.q_proj", "down_proj"], "exclude_modules": [], "loftq_config": {}},
        {
            "target_modules": [
                "model.layers.1.self_attn.q_proj",
                "model.layers.0.self_attn.q_proj",
                "mlp.down_proj",
                "down_proj",
            ]
        },
    ],
)
def test_accepts_what_changes_nothing(folder, config, values):
    expected, settings = peft.read_peft(folder, config)
    configure(folder, **values)
    found, again = peft.read_peft(folder, config)
    assert_bit_equal(found, expected)
    assert again == settings


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@hypothesis.settings(
    max_examples=200, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(data=st.data())
def test_any_value_of_any_setting_is_taken_or_refused_in_one_line(folder, config, data):
    path = folder / "adapter_config.json"
    before = path.read_bytes()
    name = data.draw(st.sampled_from([*json.loads(before), "unheard_of"]))
    configure(folder, **{name: data.draw(JSON)})
    try:
        peft.read_peft(folder, config)
    except BadInput as error:
        assert "\n" not in str(error)
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["not JSON"]),
        (b"[]", ["is a JSON object, not []"]),
        (b"\xef\xbb\xbf{}", ["not JSON"]),
        (b'{"r": 4, "r": 8}', ["twice"]),
        (b'{"lora_alpha": NaN}', ["NaN"]),
        (b'{"r": ' + b"9" * 10_000 + b"}", ["too many digits"]),
        (b'{"a": ' * 100_000, ["nested too deeply"]),
        (b'{"peft_type": "\\ud800"}', ["peft_type", "\\ud800"]),
        (b" " * (1 << 20) + b"{}", ["larger than"]),
    ],
)
def test_refuses_damaged_settings(folder, config, content, words):
    (folder / "adapter_config.json").write_bytes(content)
    refused(folder, config, "adapter_config.json", *words)


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_refuses_truncated_tensors(folder, config, length):
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    refused(folder, config, "adapter_model.safetensors", "cut short")


def test_refuses_what_is_no_peft_folder(tmp_path, config, folder):
    refused(tmp_path / "absent", config, "no such folder")
    refused(tmp_path / "base", config, "no adapter_config.json")
    (folder / "adapter_model.safetensors").unlink()
    refused(folder, config, "no adapter_model.safetensors")
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
    refused(folder, config, "pickled")


def test_refuses_an_adapter_of_another_base(tmp_path, folder):
    for number, sizes in enumerate(
        ({"num_hidden_layers": 3}, {"num_hidden_layers": 1}, {"hidden_size": 64}, {"intermediate_size": 64})
    ):
        tiny_qwen2.write(tmp_path / str(number), **sizes)
        refused(folder, huggingface.read_config(tmp_path / str(number)), "own base")


def test_nothing_is_replaced_and_nothing_half_written(tmp_path, config, folder):
    adapter = random_adapter(config, SETTINGS)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("mine")
    for name in ("adapter", "empty", "dangling", "file"):
        with pytest.raises(BadInput, match="exists already"):
            write(tmp_path / name, adapter)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    untrained = lora.init_adapter(config, SETTINGS, jax.random.key(0))
    for useless, settings in (
        (untrained, SETTINGS),
        (adapter, LoRAConfig(rank=4, alpha=0.0, target_modules=SETTINGS.target_modules)),
    ):
        with pytest.raises(BadInput, match="changes nothing"):
            write(tmp_path / "out", useless, settings)
    for wrong in (
        LoRAConfig(rank=4, alpha=8.0),
        LoRAConfig(rank=2, alpha=8.0, target_modules=SETTINGS.target_modules),
    ):
        with pytest.raises(ValueError, match="proj"):
            write(tmp_path / "out", adapter, wrong)
    with pytest.raises(UnicodeEncodeError):
        peft.write_peft(tmp_path / "out", adapter, SETTINGS, base_model_name_or_path="x", card="\ud800")
    assert sorted(os.listdir(tmp_path)) == ["adapter", "base", "dangling", "empty", "file"]


# Counts what the interpreter does to files during one export, then kills itself at a share of that in the
# next.
KILLED = """
import os, signal, sys
import numpy as np
from cicjax.model import peft
from cicjax.model.config import LoRAConfig
pair = {"lora_a": np.ones((2, 8, 4), np.float32), "lora_b": np.ones((2, 4, 8), np.float32)}
count, at = 0, None
def hook(event, args):
    global count
    if event in ("open", "os.rename", "os.mkdir", "os.chmod"):
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
def export(name):
    lora = LoRAConfig(rank=4, alpha=1.0, target_modules=("q_proj",))
    adapter = {"layers": {"self_attn": {"q_proj": pair}}}
    peft.write_peft(os.path.join(sys.argv[1], name), adapter, lora, base_model_name_or_path="x", card="card")
sys.addaudithook(hook)
export("first")
at, count = int(count * float(sys.argv[2])), 0
export("second")
"""


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_killed_half_way_leaves_nothing_under_the_name(tmp_path, share):
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(share)])
    assert ended.returncode == -signal.SIGKILL
    assert sorted(name for name in os.listdir(tmp_path) if not name.endswith(".partial")) == ["first"]
    assert len(os.listdir(tmp_path / "first")) == 3


def grid(rng, shape, *, step, limit):
    """Multiples of `step` of at most `limit` steps, so that sums and products of a few are exact in
    float32."""
    return (rng.integers(-limit, limit + 1, shape) * step).astype(np.float32)


def grid_folder(folder, *, dtype):
    """A folder whose weights lie on a grid, as its tensors; in bfloat16 the rounding is part of the grid."""
    rng = np.random.default_rng(0)
    stored = tiny_qwen2.write(folder, dtype=dtype, tie_word_embeddings=True, rope_theta=50_000.0)
    stored = {
        name: grid(rng, tensor.shape, step=2**-10, limit=500).astype(tensor.dtype)
        for name, tensor in stored.items()
    }
    tiny_qwen2.write_weights(folder, stored)
    return stored


def grid_adapter(config):
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: lora.init_adapter(config, SETTINGS, jax.random.key(0)))
    return jax.tree.map(lambda leaf: jnp.asarray(grid(rng, leaf.shape, step=2**-6, limit=8)), shapes)


@pytest.mark.parametrize(
    ("source", "asked", "stored_as"),
    [
        ("float32", None, "float32"),
        ("bfloat16", None, "bfloat16"),
        ("float16", None, "float16"),
        ("bfloat16", "float32", "float32"),
        ("float32", "bfloat16", "bfloat16"),
    ],
)
def test_merged_weights_are_added_in_float32_and_rounded_once(tmp_path, source, asked, stored_as):
    stored = grid_folder(tmp_path / "base", dtype=source)
    config = huggingface.read_config(tmp_path / "base")
    adapter = grid_adapter(config)
    huggingface.write_merged(
        tmp_path / "out", tmp_path / "base", adapter=adapter, lora=SETTINGS, dtype=asked, card="# Card\n"
    )
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert merged.keys() == stored.keys() and "lm_head.weight" not in merged
    factors = dict(peft._tensors(adapter, SETTINGS))
    for name, tensor in stored.items():
        exact, prefix = tensor.astype(np.float64), "base_model.model." + name.removesuffix(".weight")
        if f"{prefix}.lora_A.weight" in factors:
            a, b = (factors.pop(f"{prefix}.lora_{factor}.weight").astype(np.float64) for factor in "AB")
            exact = exact + 2.0 * b @ a
        np.testing.assert_array_equal(
            merged[name], exact.astype(np.float32).astype(jnp.dtype(stored_as)), err_msg=name
        )
    assert not factors
    copied = {"tokenizer.json", "tokenizer_config.json", "README.md", "config.json", "model.safetensors"}
    assert set(os.listdir(tmp_path / "out")) == copied


def test_rounding_twice_would_be_seen(tmp_path):
    """The grid of the test above is fine enough for it: a base rounded to bfloat16 before the sum gives other
    weights."""
    stored = grid_folder(tmp_path / "base", dtype="float32")["model.layers.0.self_attn.q_proj.weight"]
    pair = grid_adapter(huggingface.read_config(tmp_path / "base"))["layers"]["self_attn"]["q_proj"]
    update = 2.0 * (np.asarray(pair["lora_a"][0]) @ np.asarray(pair["lora_b"][0])).T
    once = (stored + update).astype(jnp.bfloat16)
    twice = (stored.astype(jnp.bfloat16).astype(np.float32) + update).astype(jnp.bfloat16)
    assert (once != twice).mean() > 0.1


@pytest.mark.parametrize("style", ["old", "new"])
def test_merged_configuration_is_the_base_s(tmp_path, style):
    tiny_qwen2.write(tmp_path / "base", dtype="bfloat16", style=style, rope_theta=50_000.0)
    path = tmp_path / "base" / "config.json"
    own = {
        **json.loads(path.read_text()),
        "eos_token_id": 7,
        "initializer_range": 0.02,
        "auto_map": {"AutoModel": "code.py"},
    }
    path.write_text(json.dumps(own))
    config = huggingface.read_config(tmp_path / "base")
    arguments = {"adapter": random_adapter(config, SETTINGS), "lora": SETTINGS, "dtype": "float32"}
    huggingface.write_merged(tmp_path / "out", tmp_path / "base", **arguments)
    assert huggingface.read_config(tmp_path / "out") == config
    kept = json.loads((tmp_path / "out" / "config.json").read_text())
    assert kept["torch_dtype"] == "float32" and "auto_map" not in kept and "dtype" not in kept
    assert {name: kept[name] for name in own.keys() - {"torch_dtype", "dtype", "auto_map"}} == {
        name: value for name, value in own.items() if name not in ("torch_dtype", "dtype", "auto_map")
    }


def test_merging_refuses_what_does_not_fit_and_replaces_nothing(tmp_path):
    tiny_qwen2.write(tmp_path / "base", dtype="float16")
    config = huggingface.read_config(tmp_path / "base")
    adapter = jax.tree.map(lambda leaf: leaf * 1e4, random_adapter(config, SETTINGS))
    with pytest.raises(BadInput, match=r"not finite in float16.*float32"):
        huggingface.write_merged(tmp_path / "out", tmp_path / "base", adapter=adapter, lora=SETTINGS)
    with pytest.raises(BadInput, match="exists already"):
        huggingface.write_merged(
            tmp_path / "base", tmp_path / "base", adapter=adapter, lora=SETTINGS, dtype="float32"
        )
    assert os.listdir(tmp_path) == ["base"]


@pytest.mark.parametrize("sizes", SMALL.values(), ids=SMALL)
def test_transformers_computes_the_same_from_the_merged_folder(tmp_path, sizes):
    pytest.importorskip("torch")
    import transformers

    _, config, base = transformers_model(tmp_path / "base", **sizes)
    settings = LoRAConfig(rank=3, alpha=7.5)
    adapter = random_adapter(config, settings)
    huggingface.write_merged(tmp_path / "out", tmp_path / "base", adapter=adapter, lora=settings)
    model, report = transformers.Qwen2ForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()), report
    assert model.config.tie_word_embeddings is config.tie_word_embeddings
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, 21))
    bare = qwen2.apply(qwen2.Model(config), base, None, jnp.asarray(tokens))
    ours = np.asarray(qwen2.apply(qwen2.Model(config, settings), base, adapter, jnp.asarray(tokens)))
    assert np.abs(ours - np.asarray(bare)).max() > 0.05
    np.testing.assert_allclose(logits_of(model.eval(), tokens), ours, atol=1e-4)


def test_transformers_takes_the_stored_dtype(tmp_path):
    torch = pytest.importorskip("torch")
    import transformers

    tiny_qwen2.write(tmp_path / "base", dtype="bfloat16", style="new")
    config = huggingface.read_config(tmp_path / "base")
    huggingface.write_merged(
        tmp_path / "out", tmp_path / "base", adapter=random_adapter(config, SETTINGS), lora=SETTINGS
    )
    assert (
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype
        == torch.bfloat16
    )


@pytest.mark.weights
def test_real_weights_in_peft_and_merged(tmp_path, qwen_folder):
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    import transformers

    config, base = huggingface.load_base(qwen_folder, jnp.float32)
    settings = LoRAConfig()
    adapter = random_adapter(config, settings, scale=0.01)
    tokens = np.random.default_rng(0).integers(0, 150_000, (1, 24))
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(qwen2.apply(qwen2.Model(config, settings), base, adapter, jnp.asarray(tokens)))
    del base
    model = transformers.AutoModelForCausalLM.from_pretrained(qwen_folder, dtype=torch.float32).eval()
    bare = logits_of(model, tokens)
    found = logits_of(load_with_peft(model, write(tmp_path / "adapter", adapter, settings)), tokens)
    del model
    huggingface.write_merged(
        tmp_path / "merged", qwen_folder, adapter=adapter, lora=settings, dtype="float32"
    )
    merged = logits_of(
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval(),
        tokens,
    )
    assert np.abs(found - bare).max() > 0.1
    np.testing.assert_allclose(found, ours, atol=1e-3)
    np.testing.assert_allclose(merged, ours, atol=1e-3)
    assert_bit_equal(peft.read_peft(tmp_path / "adapter", config)[0], adapter)
