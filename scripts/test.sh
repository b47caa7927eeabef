#!/usr/bin/env bash
# Lint, types, tests: one command on a machine that has only Python. Arguments go to pytest.
#
#   scripts/test.sh
#   scripts/test.sh tests/model -k round_trip
#   CICJAX_QWEN=/path/to/Qwen2.5-0.5B scripts/test.sh      also the tests on real weights
#   CICJAX_EXTRAS=test,parity scripts/test.sh              also the tests against torch and peft
#   CICJAX_EXTRAS=test,aot-tpu,aot-cuda scripts/test.sh    programs compiled for an H100 too, not for TPUs alone (700 MB more)
set -euo pipefail
extras=${CICJAX_EXTRAS:-test,aot-tpu}
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$root"
"$python" -m ruff check .
"$python" -m basedpyright --pythonpath "$python"
exec "$python" -m pytest -q --durations=10 ${1+"$@"}
