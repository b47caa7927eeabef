#!/usr/bin/env bash
# Lint, format, types, tests: one command on a machine that has only Python. Arguments go to pytest, which
# runs in two processes unless they say otherwise.
#
#   scripts/test.sh
#   scripts/test.sh tests/model -k round_trip
#   scripts/test.sh -n 0 --pdb                             in one process
#   CICJAX_QWEN=/path/to/Qwen2.5-0.5B scripts/test.sh      also the tests on real weights
#   CICJAX_EXTRAS=test,parity scripts/test.sh              also the tests against torch and peft
#   CICJAX_EXTRAS=test,aot-tpu,aot-cuda scripts/test.sh    also programs compiled for TPUs and an H100
set -euo pipefail
extras=${CICJAX_EXTRAS:-test}
# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
cd "$root"
"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m basedpyright --pythonpath "$python"
case " $* " in
*" -n"* | *" --numprocesses"* | *" --pdb"*) ;;
*) # By file, so that what a file prepares for its tests is prepared once.
    set -- -n 2 --dist loadfile ${1+"$@"}
    ;;
esac
exec "$python" -m pytest -q --durations=10 ${1+"$@"}
