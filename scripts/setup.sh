# shellcheck shell=bash
# Sourced by test.sh and repro.sh: makes sure that .venv holds this project, and sets `root`, `venv` and
# `python`. Needs a Python from 3.11 on and nothing else. PYTHON names the one to use; `extras` are the
# optional parts to install.
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
    echo "setup: no Python from 3.11 on with venv and ensurepip found" \
        "(tried ${PYTHON:-python3 python3.13 python3.12 python3.11 python});" \
        "install one (on Debian with python3-venv) or name it: PYTHON=/path/to/python3" >&2
    return 2
}

install_project() {
    local stamp=$venv/.installed-${extras:-none} wanted
    wanted="$root $(cksum <"$root/pyproject.toml")"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && "$python" -c '' >/dev/null 2>&1; then
        return
    fi
    # A folder cut short while being made gets its pip late; one whose Python is gone is made anew.
    suitable "$python" && { has_pip || "$python" -m ensurepip >/dev/null; } || make_venv || return
    "$python" -m pip install --quiet --disable-pip-version-check --no-input \
        --editable "$root${extras:+[$extras]}" || return
    printf '%s\n' "$wanted" >"$stamp"
}

install_project
