"""How many programs the whole paper compiles on an accelerator: its table of shapes, run on a CPU."""

import json
import os
import subprocess
import sys

import pytest
from aot import ON_REQUEST, ROOT

CHILD = """
import collections, gc, json, logging, re, sys
import jax
from cicjax import cli

jax.config.update("jax_log_compiles", True)
compiled = collections.Counter()

class Count(logging.Handler):
    def emit(self, record):
        match = re.match(r"Compiling (?:jit.)?(\\w+).? with global shapes", record.getMessage())
        if match:
            compiled[match[1]] += 1

logging.getLogger("jax").addHandler(Count())
logging.getLogger("jax").propagate = False
code = cli.main(["repro", "--scale", "smoke", "--output_dir", sys.argv[1]])
jitted = {each.__name__ for each in gc.get_objects()
          if type(each).__name__ == "PjitFunction" and each.__module__.startswith("cicjax.")}
with open(sys.argv[2], "w") as file:
    json.dump({name: count for name, count in compiled.items() if name in jitted}, file)
sys.exit(code)
"""


@pytest.mark.aot
@ON_REQUEST
def test_the_paper_needs_few_programs(tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "CICJAX_KIND": "v5e",
        "JAX_PLATFORMS": "cpu",
        "JAX_NUMPY_RANK_PROMOTION": "allow",
    }
    command = [sys.executable, "-c", CHILD, str(tmp_path / "run"), str(tmp_path / "programs.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    programs = json.loads((tmp_path / "programs.json").read_text())
    print(programs)
    assert 3 < sum(programs.values()) <= 12, programs
