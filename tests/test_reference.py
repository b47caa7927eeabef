"""The reference that pdoc makes of the docstrings: it is built whole, and has a page a module."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_the_reference_is_built_without_a_warning_and_has_a_page_a_module(tmp_path):
    for library in ("pdoc", "fastapi"):
        pytest.importorskip(library)
    command = [sys.executable, "scripts/reference.py", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "Warn" not in done.stderr, done.stderr
    for file in (ROOT / "cicjax").rglob("*.py"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        page = Path(*parts[:-1]) if parts[-1] == "__init__" else Path(*parts)
        if parts[-1] != "__main__":
            assert (tmp_path / page.with_suffix(".html")).is_file(), file
    for page in ("cicjax.html", "cicjax/provenance.html"):
        words = (tmp_path / page).read_text(encoding="utf-8")
        assert all(f'id="{name}"' in words for name in ("encode", "Transcript", "Segment")), page
