"""Folders in and out: what is read equals what is stored, and everything else is refused in one line."""

import json
import os
import struct
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_qwen2
from safetensors.numpy import save_file

from cicjax.errors import BadInput
from cicjax.model import huggingface


def leaf(base, name):
    """The tree's counterpart of a tensor of the file, in the file's layout."""
    if name == "lm_head.weight":
        return np.asarray(base["lm_head"]["embedding"])
    tree, (*path, last) = base, name.removeprefix("model.").split(".")
    layer = None
    if path[0] == "layers":
        layer = int(path.pop(1))
    for part in path:
        tree = tree[part]
    key = (
        "embedding"
        if path == ["embed_tokens"]
        else "scale"
        if "norm" in path[-1]
        else "kernel"
        if last == "weight"
        else "bias"
    )
    array = np.asarray(tree[key] if layer is None else tree[key][layer])
    return array.T if key == "kernel" else array


def assert_holds(base, stored, *, dtype="float32"):
    for name, tensor in stored.items():
        np.testing.assert_array_equal(leaf(base, name), tensor.astype(jnp.dtype(dtype)), err_msg=name)
    assert {array.dtype for array in jax.tree.leaves(base)} == {jnp.dtype(dtype)}
    assert sum(array.size for array in jax.tree.leaves(base)) == sum(
        tensor.size for tensor in stored.values()
    )


def refuses(folder, *words):
    with pytest.raises(BadInput) as caught:
        huggingface.load_base(folder, "float32")
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    for word in words:
        assert word in message, message


def edit_config(folder: Path, **values):
    config = json.loads((folder / "config.json").read_text())
    config.update(values)
    (folder / "config.json").write_text(
        json.dumps({key: value for key, value in config.items() if value is not ...})
    )


@pytest.fixture
def folder(tmp_path):
    tiny_qwen2.write(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("style", ["old", "new"])
@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "llama"])
def test_reads_what_is_stored(tmp_path, tied, shards, style, model_type):
    asked = {"model_type": model_type, "tie_word_embeddings": tied, "rms_norm_eps": 1e-5, "head_dim": 8}
    stored = tiny_qwen2.write(tmp_path, shards=shards, style=style, rope_theta=12_345.0, **asked)
    config, base = huggingface.load_base(str(tmp_path), jnp.float32)
    assert_holds(base, stored)
    assert ("lm_head" in base) is (not tied) is (not config.tie_word_embeddings)
    assert (config.rope_theta, config.rms_norm_eps, config.head_dim, config.max_position_embeddings) == (
        12_345.0,
        1e-5,
        8,
        512,
    )
    assert base["layers"]["mlp"]["down_proj"]["kernel"].shape == (2, 48, 32)
    assert base["layers"]["self_attn"]["k_proj"]["kernel"].shape == (2, 32, 16)


@pytest.mark.parametrize("source", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("target", ["bfloat16", "float32"])
def test_converts_between_dtypes(tmp_path, source, target):
    stored = tiny_qwen2.write(tmp_path, dtype=source)
    assert_holds(huggingface.load_base(tmp_path, target)[1], stored, dtype=target)


def test_reads_a_head_size_of_its_own(tmp_path):
    stored = tiny_qwen2.write(
        tmp_path, hidden_size=24, num_attention_heads=3, num_key_value_heads=1, head_dim=16
    )
    config, base = huggingface.load_base(tmp_path, "float32")
    assert config.head_dim == 16
    assert_holds(base, stored)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_round_trip(tmp_path, tied, dtype):
    stored = tiny_qwen2.write(tmp_path / "in", tie_word_embeddings=tied, dtype=dtype)
    config, base = huggingface.load_base(tmp_path / "in", dtype)
    files = huggingface.tokenizer_files(tmp_path / "in")
    huggingface.save_folder(
        tmp_path / "new" / "out", config, base=base, files=files, extra={"eos_token_id": 7}
    )
    again, base_again = huggingface.load_base(tmp_path / "new" / "out", dtype)
    assert again == config
    assert_holds(base_again, stored, dtype=dtype)
    assert sorted(os.listdir(tmp_path / "new")) == ["out"]
    assert (tmp_path / "new/out/tokenizer.json").read_bytes() == (tmp_path / "in/tokenizer.json").read_bytes()
    assert json.loads((tmp_path / "new/out/config.json").read_text())["eos_token_id"] == 7


def test_saving_replaces_nothing_and_leaves_nothing_half_written(folder, tmp_path):
    config, base = huggingface.load_base(folder, "float32")
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(BadInput, match="exists already"):
        huggingface.save_folder(folder, config, base=base)
    assert (folder / "model.safetensors").read_bytes() == before
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("empty", "dangling"):
        with pytest.raises(BadInput, match="exists already"):
            huggingface.save_folder(tmp_path / name, config, base=base)
    with pytest.raises(FileNotFoundError):
        huggingface.save_folder(tmp_path / "out", config, base=base, files=[tmp_path / "absent.json"])
    with pytest.raises(ValueError, match="norm/scale"):
        huggingface.save_folder(tmp_path / "out", config, base={**base, "norm": {"scale": jnp.ones(3)}})
    assert sorted(os.listdir(tmp_path)) == ["dangling", "empty", "tiny"]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shard_size", ["5GB", "20KB"])
def test_reads_what_transformers_writes(tmp_path, tied, shard_size):
    torch = pytest.importorskip("torch")
    import transformers

    torch.manual_seed(0)
    theirs = transformers.Qwen2Config(**{**tiny_qwen2.SIZES, "tie_word_embeddings": tied})
    model = transformers.Qwen2ForCausalLM(theirs)
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors").exists() is (shard_size == "5GB")
    stored = {
        name: tensor.numpy()
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    assert_holds(huggingface.load_base(tmp_path, "float32")[1], stored)


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_reads_what_is_written(tmp_path, tied):
    torch = pytest.importorskip("torch")
    import transformers

    stored = tiny_qwen2.write(tmp_path / "in", tie_word_embeddings=tied, rope_theta=50_000.0)
    config, base = huggingface.load_base(tmp_path / "in", "float32")
    huggingface.save_folder(tmp_path / "out", config, base=base)
    model, report = transformers.Qwen2ForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()), report
    assert model.dtype == torch.float32
    assert model.config.rope_parameters["rope_theta"] == 50_000.0
    state = model.state_dict()
    for name, tensor in stored.items():
        np.testing.assert_array_equal(state[name].numpy(), tensor)


def test_config_reads_as_transformers_reads_it(tmp_path):
    transformers = pytest.importorskip("transformers")
    for style in ("old", "new"):
        tiny_qwen2.write(tmp_path / style, style=style, rope_theta=777.0, tie_word_embeddings=False)
        ours, theirs = (
            huggingface.read_config(tmp_path / style),
            transformers.Qwen2Config.from_pretrained(tmp_path / style),
        )
        assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
        for name in (
            "vocab_size",
            "hidden_size",
            "num_key_value_heads",
            "rms_norm_eps",
            "tie_word_embeddings",
            "max_position_embeddings",
        ):
            assert getattr(ours, name) == getattr(theirs, name)


def test_a_tied_head_stored_twice_must_be_the_same(folder):
    stored = tiny_qwen2.tensors(tiny_qwen2.config_json())
    same = {**stored, "lm_head.weight": stored["model.embed_tokens.weight"]}
    tiny_qwen2.write_weights(folder, same)
    assert_holds(huggingface.load_base(folder, "float32")[1], stored)
    same["lm_head.weight"] = same["lm_head.weight"] + 1
    tiny_qwen2.write_weights(folder, same)
    refuses(folder, "lm_head.weight", "model.safetensors")


def test_refuses_what_is_no_folder(tmp_path):
    refuses(tmp_path / "absent", "no such folder")
    for name in ("/absent/model", "./absent", "absent", "a/b/c", "a b/c", "", "x" * 5000, "a\0b"):
        with pytest.raises(BadInput, match="no such folder") as caught:
            huggingface.resolve(name)
        assert "\n" not in str(caught.value)
    (tmp_path / "file").write_text("{}")
    refuses(tmp_path / "file", "no such folder")
    (tmp_path / "empty").mkdir()
    refuses(tmp_path / "empty", "no model", "config.json")


def test_hub_ids_go_to_the_hub_and_its_failure_is_one_line(tmp_path, monkeypatch):
    import huggingface_hub

    stored = tiny_qwen2.write(tmp_path / "copy")
    asked = []

    def answer(name, *, allow_patterns):
        asked.append((name, allow_patterns))
        return str(tmp_path / "copy")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    assert_holds(huggingface.load_base("owner/tiny-0.5B", "float32")[1], stored)
    assert [name for name, _ in asked] == ["owner/tiny-0.5B"]
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in asked[0][1])

    def fail(name, *, allow_patterns):
        raise ConnectionError("several\nlines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    refuses("owner/tiny-0.5B", "ConnectionError", "pass a folder")


def test_reads_the_hub_cache_where_files_are_links(tmp_path):
    stored = tiny_qwen2.write(tmp_path / "real", shards=2)
    blobs, snapshot = tmp_path / "models--o--n/blobs", tmp_path / "models--o--n/snapshots/abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate((tmp_path / "real").iterdir()):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(Path("../../blobs") / str(number))
    assert_holds(huggingface.load_base(snapshot, "float32")[1], stored)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["not JSON", "fetch it again"]),
        (b"{", ["not JSON"]),
        (b'{\n"hidden_size": }', ["not JSON", "line 2, column 16"]),
        (b"[]", ["is a JSON object, not []"]),
        (b"\xff\xfe{}", ["not UTF-8"]),
        (b'\xef\xbb\xbf{"model_type": "qwen2"}', ["not JSON"]),
        (b'{"hidden_size": 32, "hidden_size": 64}', ["twice"]),
        (b'{"rms_norm_eps": NaN}', ["NaN"]),
        (b'{"hidden_size": ' + b"9" * 5000 + b"}", ["too many digits"]),
        (b'{"a": ' * 100_000, ["nested too deeply"]),
        (b" " * (1 << 20) + b"{}", ["larger than"]),
    ],
)
def test_refuses_a_damaged_config(folder, content, words):
    (folder / "config.json").write_bytes(content)
    refuses(folder, "config.json", *words)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "llama"}, ["llama", "Qwen2ForCausalLM"]),
        ({"model_type": ...}, ["None", "Qwen2ForCausalLM"]),
        ({"architectures": ["Qwen2ForSequenceClassification"]}, ["Qwen2ForSequenceClassification"]),
        ({"architectures": 3}, ["not supported"]),
        ({"model_type": "line\nbreak\x1b[31m"}, ["not supported"]),
        ({"hidden_act": "gelu"}, ["gelu", "silu"]),
        ({"quantization_config": {"quant_method": "gptq"}}, ["quantized"]),
        ({"use_sliding_window": True}, ["sliding"]),
        ({"layer_types": ["full_attention", "sliding_attention"]}, ["sliding"]),
        ({"layer_types": "full_attention"}, ["sliding"]),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, ["rope_scaling"]),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, ["rope_scaling"]),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, ["rope_parameters"]),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, ["rope_parameters"]),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, ["rope_parameters"]),
        ({"rope_parameters": [1]}, ["rope_parameters"]),
        ({"rope_theta": 0}, ["rope_theta"]),
        ({"rope_theta": "1e4"}, ["rope_theta"]),
        ({"rope_theta": 1e300}, ["rope_theta", "at most 1e+12"]),
        ({"rms_norm_eps": 1e38}, ["rms_norm_eps", "at most 1"]),
        ({"hidden_size": ...}, ["hidden_size"]),
        ({"hidden_size": 0}, ["hidden_size"]),
        ({"hidden_size": True}, ["hidden_size"]),
        ({"hidden_size": 32.0}, ["hidden_size"]),
        ({"vocab_size": 2**31}, ["vocab_size"]),
        ({"hidden_size": 30}, ["do not fit"]),
        ({"num_key_value_heads": 3}, ["do not fit"]),
        ({"head_dim": 7}, ["do not fit"]),
        ({"rms_norm_eps": -1.0}, ["rms_norm_eps"]),
        ({"tie_word_embeddings": "yes"}, ["tie_word_embeddings"]),
    ],
)
def test_refuses_an_unsupported_config(folder, values, words):
    edit_config(folder, **values)
    refuses(folder, "config.json", *words)


def test_accepts_what_changes_nothing(folder):
    expected = huggingface.read_config(folder)
    default = {"type": "default"}
    for name, value in (
        ("architectures", ...),
        ("rope_scaling", default),
        ("rope_scaling", None),
        ("head_dim", None),
        ("hidden_act", ...),
    ):
        edit_config(folder, **{name: value})
        assert huggingface.read_config(folder) == expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_hidden_layers": 3}, ["model.layers.2", "no tensor"]),
        ({"num_hidden_layers": 2**31 - 1}, ["model.layers.2", "no tensor"]),
        ({"num_hidden_layers": 1}, ["model.layers.1", "no place"]),
        ({"tie_word_embeddings": False}, ["lm_head.weight", "no tensor"]),
        ({"intermediate_size": 49}, ["_proj.weight", "shape (48, 32)", "(49, 32)"]),
        ({"vocab_size": 2**31 - 1}, ["embed_tokens", "shape"]),
        ({"num_attention_heads": 8, "head_dim": 4, "num_key_value_heads": 2}, ["k_proj", "shape"]),
    ],
)
def test_refuses_weights_of_another_shape_before_taking_memory(folder, values, words):
    edit_config(folder, **values)
    refuses(folder, *words)


def test_refuses_missing_unexpected_and_foreign_tensors(folder):
    stored = tiny_qwen2.tensors(tiny_qwen2.config_json())
    tiny_qwen2.write_weights(
        folder,
        {name: tensor for name, tensor in stored.items() if not name.endswith("1.self_attn.k_proj.bias")},
    )
    refuses(folder, "model.layers.1.self_attn.k_proj.bias", "no tensor")
    tiny_qwen2.write_weights(
        folder, {**stored, "model.layers.0.self_attn.o_proj.bias": np.zeros(32, np.float32)}
    )
    refuses(folder, "model.layers.0.self_attn.o_proj.bias", "no place")
    for dtype in (np.float64, np.int32):
        tiny_qwen2.write_weights(folder, {**stored, "model.norm.weight": np.ones(32, dtype)})
        refuses(folder, "model.norm.weight", "stored as")


def test_refuses_other_dtypes_in_memory(folder):
    with pytest.raises(BadInput, match="float16"):
        huggingface.load_base(folder, "float16")


def test_refuses_pickles_and_folders_without_weights(folder):
    (folder / "model.safetensors").unlink()
    refuses(folder, "no weights", "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    refuses(folder, "pickled", "convert")


@pytest.mark.parametrize("held", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(
    ("dtype", "value"), [("float32", np.nan), ("bfloat16", -np.inf), ("float16", np.inf), ("float32", 3.4e38)]
)
def test_refuses_weights_that_are_not_finite_as_they_are_held(tmp_path, dtype, value, held):
    stored = tiny_qwen2.write(tmp_path, dtype=dtype)
    name = "model.layers.1.mlp.up_proj.weight"
    stored[name] = stored[name].copy()
    stored[name][2, 3] = value
    save_file(stored, tmp_path / "model.safetensors")
    if value == 3.4e38 and held == jnp.float32:  # too large for bfloat16 alone
        huggingface.load_base(tmp_path, held)
        return
    with pytest.raises(BadInput) as caught:
        huggingface.load_base(tmp_path, held)
    assert f"{name} holds numbers that are not finite in {jnp.dtype(held)}" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["../outside.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "x.bin", "\n.safetensors", 5, ["x"]],
)
def test_weight_map_stays_inside_the_folder(tmp_path, name):
    stored = tiny_qwen2.write(tmp_path / "model", shards=2)
    save_file(stored, tmp_path / "outside.safetensors")
    index = tmp_path / "model" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(stored, name)}))
    refuses(tmp_path / "model", "weight_map leads to")


def test_weight_map_does_not_leave_by_a_link(tmp_path):
    stored = tiny_qwen2.write(tmp_path / "model", shards=2)
    save_file(stored, tmp_path / "outside.safetensors")
    index = tmp_path / "model" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(stored, "link.safetensors")}))
    (tmp_path / "model" / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    refuses(tmp_path / "model", "weight_map leads to")


def test_refuses_broken_shards(tmp_path):
    stored = tiny_qwen2.write(tmp_path, shards=2)
    index = tmp_path / "model.safetensors.index.json"
    for content in ({}, {"weight_map": {}}, {"weight_map": []}):
        index.write_text(json.dumps(content))
        refuses(tmp_path, "no weight_map")
    index.write_text(json.dumps({"weight_map": dict.fromkeys(stored, "gone.safetensors")}))
    refuses(tmp_path, "gone.safetensors", "missing")
    save_file(stored, tmp_path / "a.safetensors")
    save_file(stored, tmp_path / "b.safetensors")
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}))
    refuses(tmp_path, "belongs in one file")


@pytest.mark.parametrize("length", [0, 5, 8, 100, -1])
def test_refuses_truncated_weights(folder, length):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    refuses(folder, "model.safetensors", "cut short")


@pytest.mark.parametrize("header", [0, 1, 1 << 26, 1 << 40, (1 << 64) - 1])
def test_refuses_a_header_longer_than_its_file(folder, header):
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", header) + path.read_bytes()[8:])
    refuses(folder, "model.safetensors", "cut short")


def test_refuses_a_folder_in_the_place_of_the_weights(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    refuses(folder, "no weights")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pristine")
    stored = tiny_qwen2.write(folder, num_hidden_layers=1, vocab_size=8, hidden_size=8, intermediate_size=8)
    return folder, (folder / "model.safetensors").read_bytes(), stored


@hypothesis.settings(
    max_examples=300, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(data=st.data())
def test_one_changed_byte_of_the_header_is_refused_or_changes_nothing(pristine, data):
    folder, content, stored = pristine
    header = 8 + struct.unpack("<Q", content[:8])[0]
    place = data.draw(st.integers(0, header - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != content[place]))
    (folder / "model.safetensors").write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
    try:
        _, base = huggingface.load_base(folder, "float32")
    except BadInput as error:
        assert "\n" not in str(error)
    else:
        assert_holds(base, stored)


def test_fingerprint_is_of_content(tmp_path):
    for name, style in (("a", "old"), ("b", "new"), ("c", "old")):
        tiny_qwen2.write(tmp_path / name, style=style)
    first = huggingface.fingerprint(tmp_path / "a")
    assert first == huggingface.fingerprint(str(tmp_path / "a")) == huggingface.fingerprint(tmp_path / "b")
    assert len(bytes.fromhex(first)) == 32
    edit_config(tmp_path / "c", rope_theta=20_000.0)
    assert huggingface.fingerprint(tmp_path / "c") != first


def test_fingerprint_sees_one_bit_that_loading_does_not(folder):
    before, path = huggingface.fingerprint(folder), folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    huggingface.load_base(folder, "float32")
    assert huggingface.fingerprint(folder) != before


def test_fingerprint_reads_an_unchanged_file_once(folder, monkeypatch):
    before = huggingface.fingerprint(folder)
    monkeypatch.setattr(huggingface.hashlib, "file_digest", lambda *_: pytest.fail("the file was read again"))
    assert huggingface.fingerprint(folder) == before


def test_the_tokenizer_of_the_helper_fits_its_models(tmp_path):
    from cicjax.provenance import tokenizer

    tiny_qwen2.write(tmp_path)
    loaded = tokenizer.load(tmp_path)
    text = "Question:\nIs 12 N = 3 kg * 4 m/s^2? Ω\n"
    assert loaded.decode(loaded.encode(text)) == text
    assert len(loaded.encode("2024")) == 4
    assert max(loaded.encode(text)) < loaded.end_of_text < tiny_qwen2.SIZES["vocab_size"]


@pytest.mark.weights
def test_reads_the_real_weights(qwen_folder):
    config, base = huggingface.load_base(qwen_folder, "bfloat16")
    assert (config.num_hidden_layers, config.hidden_size, config.head_dim) == (24, 896, 64)
    assert sum(array.size for array in jax.tree.leaves(base)) == 494_032_768
    assert all(
        bool(jnp.isfinite(array.astype(jnp.float32)).all())
        for array in jax.tree.leaves(base["layers"]["self_attn"])
    )
