#!/usr/bin/env bash
# The paper in one command on a machine that has only Python: `cicjax repro` with these arguments. The same
# command resumes.
#
#   scripts/repro.sh --scale smoke
#   scripts/repro.sh --model /path/to/Qwen2.5-0.5B --scale small --seed 0 --output_dir my_run
#   CICJAX_EXTRAS=cuda scripts/repro.sh ...                on an NVIDIA GPU; tpu on a TPU VM
set -euo pipefail
extras=${CICJAX_EXTRAS:-}
# shellcheck source-path=SCRIPTDIR source=setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
case " $* " in
*" --output"[_-]"dir"* | *" --config"*) ;;
*) # A folder for each set of arguments: the same command resumes, another one starts beside it.
    suffix=$(printf '%s' "${*:+-$*}" | tr -cs '[:alnum:].' '-')
    set -- ${1+"$@"} --output_dir "$root/checkpoints/runs/repro$suffix"
    ;;
esac
exec "$venv/bin/cicjax" repro "$@"
