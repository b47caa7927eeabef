"""What ships works: the wheel that the source distribution gives, installed into a folder of its own, with
nothing of the repository beside it; on it the embedded base learns."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("base", "sft", "observational", "interventional")


def built(kind, source, folder):
    """The path of the `sdist` or `wheel` of a source tree."""
    program = f"import hatchling.build, sys; print(hatchling.build.build_{kind}(sys.argv[1]))"
    return folder / run([sys.executable, "-c", program, folder], cwd=source).split()[-1]


def run(command, **how):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=120, **how
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The source distribution, unpacked, and the wheel built from it."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("shipped")
    sdist = built("sdist", ROOT, folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    source = folder / sdist.name.removesuffix(".tar.gz")
    assert sdist.stat().st_size < 20e6
    return source, built("wheel", source, folder)


@pytest.fixture(scope="module")
def installed(shipped, tmp_path_factory):
    """The wheel as pip installs it; its dependencies are those of the environment that runs the tests."""
    site = tmp_path_factory.mktemp("wheel") / "site"
    wheel = shipped[1]
    assert wheel.stat().st_size < 20e6
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    run([*pip, "--target", site, wheel])
    return site


def test_the_source_distribution_has_all_that_its_tests_read_and_gives_the_same_wheel(shipped, tmp_path):
    source, wheel = shipped
    for name in ("README.md", "LICENSE", "CITATION.cff", "docs/extend.md", "tests/test_wheel.py"):
        assert (source / name).read_bytes() == (ROOT / name).read_bytes()
    names = [zipfile.ZipFile(each).namelist() for each in (wheel, built("wheel", ROOT, tmp_path))]
    assert sorted(names[0]) == sorted(names[1])
    assert {"cicjax/py.typed", "cicjax/_tiny/model.safetensors"} <= set(names[0])


def test_the_command_is_installed(installed, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(installed)}
    said = run([installed / "bin" / "cicjax", "--version"], cwd=tmp_path, env=environment)
    assert said == f"cicjax {version('cicjax')}\n"


def cicjax(installed, *arguments, cwd):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "cicjax", *map(str, arguments)],
        cwd=cwd,
        env=environment | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def smoke(installed, cwd):
    """`cicjax repro --scale smoke` in a new folder, at a rate at which its few updates show; the bytes of its
    results.json."""
    arguments = (
        "repro",
        "--scale",
        "smoke",
        "--seed",
        0,
        "--learning_rate",
        6e-4,
        "--output_dir",
        "run",
        "--methods",
        *METHODS,
    )
    cicjax(installed, *arguments, cwd=cwd)
    return (cwd / "run" / "results.json").read_bytes()


def test_the_code_and_the_base_come_from_the_wheel(installed, tmp_path):
    code = "import cicjax.assets as a; print(a.default_model_folder())"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment, capture_output=True, check=True
    )
    assert Path(done.stdout.decode().strip()) == installed / "cicjax" / "_tiny"


def test_the_demo_of_masks(installed, tmp_path):
    shown = cicjax(installed, "mask", "--demo", cwd=tmp_path)
    assert "[LOSS] n = 10.0/40.0 = 0.250 mol; M = n/V = 1.000 M." in shown and "[MASK] Question:" in shown


def test_smoke_learns_on_the_embedded_base_and_a_repetition_gives_the_same_results(installed, tmp_path):
    """Something is solved and something is not, both streams learn, and what they learn differs."""
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    first = smoke(installed, tmp_path / "first")
    results = json.loads(first)
    assert list(results["methods"]) == list(METHODS)
    for method in METHODS[1:]:
        row = results["methods"][method]
        assert 0 < row["solved"] < row["questions"], method
    ledger = results["ledger"]
    assert (
        ledger["positions_observational"] == ledger["positions_attempts"] + ledger["positions_interventional"]
    )
    assert 0 < ledger["wrong_attempts"] < ledger["stream_rows"]
    for method in ("observational", "interventional"):
        assert results["methods"][method]["truth_gain"] > 0, "corrections became likelier"
    assert (
        results["methods"]["interventional"]["self_confirmation"]
        < results["methods"]["observational"]["self_confirmation"]
    )
    assert smoke(installed, tmp_path / "second") == first
