# shellcheck shell=bash
# Sourced by test.sh and repro.sh: makes sure that .venv holds this project, and sets `root`, `venv` and
# `python`. Needs a Python from 3.11 on and nothing else; where there is none, uv fetches one. PYTHON names
# the one to use; `extras` are the optional parts to install.
# Runs in the bash 3.2 of macOS. A pyproject.toml that has not changed since is not installed again.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
python=$venv/bin/python

# A candidate counts only when it runs: the shims of version managers exist for versions that are not there.
suitable() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 </dev/null
}

has_pip() {
    "$python" -m pip --version >/dev/null 2>&1
}

make_venv() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
        if suitable "$candidate"; then
            echo "setup: $("$candidate" --version) in $venv (once; some minutes on a slow line)" >&2
            "$candidate" -m venv --clear "$venv"
            return
        fi
    done
    if [ -z "${PYTHON:-}" ] && make_venv_by_uv; then
        return
    fi
    echo "setup: no Python from 3.11 on with venv and ensurepip found" \
        "(tried ${PYTHON:-python3 python3.13 python3.12 python3.11 python uv});" \
        "install one (on Debian with python3-venv) or name it: PYTHON=/path/to/python3" >&2
    return 2
}

# A stock TPU VM has Python 3.10.
make_venv_by_uv() {
    local uv
    for uv in uv "${HOME:-}/.local/bin/uv"; do
        "$uv" --version >/dev/null 2>&1 </dev/null && break
        uv=
    done
    if [ -z "$uv" ]; then
        python3 -m pip install --quiet --disable-pip-version-check --no-input --user uv >&2 </dev/null || return
        uv=$(python3 -m site --user-base)/bin/uv
    fi
    echo "setup: no Python from 3.11 on here; $("$uv" --version) fetches 3.12 into $venv (once)" >&2
    "$uv" venv --quiet --clear --seed --python 3.12 "$venv" && suitable "$python"
}

# The compilers of devices that are not here, each in the version that the installed jax asks for, in a folder
# of their own: jax would start what lies beside it in every run, with warnings. cicjax/devices/ahead.py looks
# there.
install_compilers() {
    if [ "$(uname -sm)" != "Linux x86_64" ]; then
        echo "setup: no compiler for$1 on this kind of machine; tests of what it compiles are skipped" >&2
        return
    fi
    "$python" - "$1" <<'END' >"$venv/compilers.txt" || return
import sys
from importlib.metadata import requires, version

wanted = sys.argv[1].split()
if "aot-tpu" in wanted:
    print(next(line.split(";")[0] for line in requires("jax") if line.startswith("libtpu")))
if "aot-cuda" in wanted:
    print(f"jax-cuda12-plugin=={version('jax')}\nnvidia-cuda-nvcc-cu12>=12.6.85,<13")
END
    "$python" -m pip install --quiet --disable-pip-version-check --no-input --upgrade \
        --target "$venv/compilers" -r "$venv/compilers.txt"
}

install_project() {
    local stamp=$venv/.installed-${extras:-none} wanted part parts='' compilers=''
    wanted="$root $(cksum <"$root/pyproject.toml")"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && "$python" -c '' >/dev/null 2>&1; then
        return
    fi
    # A folder cut short while being made gets its pip late; one whose Python is gone is made anew.
    suitable "$python" && { has_pip || "$python" -m ensurepip >/dev/null; } || make_venv || return
    for part in $(printf %s "${extras:-}" | tr , ' '); do
        case $part in
        aot-*) compilers="$compilers $part" ;;
        *) parts=${parts:+$parts,}$part ;;
        esac
    done
    "$python" -m pip install --quiet --disable-pip-version-check --no-input \
        --editable "$root${parts:+[$parts]}" || return
    if [ -n "$compilers" ]; then
        install_compilers "$compilers" || return
    fi
    printf '%s\n' "$wanted" >"$stamp"
}

install_project
