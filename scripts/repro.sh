#!/usr/bin/env bash
# The paper in one command on a machine that has only Python: `cicjax repro` with these arguments. The same command resumes.
#
#   scripts/repro.sh --scale smoke
#   scripts/repro.sh --model /path/to/Qwen2.5-0.5B --scale small --seed 0 --output_dir my_run
#   CICJAX_EXTRAS=cuda scripts/repro.sh ...                on an NVIDIA GPU; tpu on a TPU VM
set -euo pipefail
extras=${CICJAX_EXTRAS:-}
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
case " $* " in
*" --output"[_-]"dir"* | *" --config"*) ;;
*) set -- ${1+"$@"} --output_dir "$root/checkpoints/runs/repro" ;;
esac
exec "$venv/bin/cicjax" repro "$@"
