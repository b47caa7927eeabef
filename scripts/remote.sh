# shellcheck shell=bash
# Sourced by tpu_vm.sh and gpu_nodes.sh: what each host is told, as text for its shell. Everything lies in
# ~/cicjax there.

# This checkout's last commit as a file; prints its path.
remote_archive() {
    local folder
    folder=$(mktemp -d)
    git -C "$(dirname "${BASH_SOURCE[0]}")/.." archive --output "$folder/cicjax.tar" HEAD
    printf %s "$folder/cicjax.tar"
}

# After the archive was copied: a .venv with the part of the project that this kind of machine needs.
remote_setup() {
    cat <<END
mkdir -p cicjax && tar xf cicjax.tar -C cicjax && cd cicjax && bash -c 'extras=$1 && . scripts/setup.sh'
END
}

# cicjax with these arguments, in a session of its own: it outlives the connection. The lock is what a killed
# process on a TPU leaves behind.
remote_run() {
    local arguments
    printf -v arguments ' %q' "$@"
    cat <<END
cd cicjax || exit
if kill -0 "\$(cat run.pid 2>/dev/null)" 2>/dev/null; then
    echo "\$(hostname): cicjax runs here already; stop ends it" >&2
    exit 3
fi
rm -f /tmp/libtpu_lockfile
export JAX_COORDINATOR_PORT=8476${CACHE:+ JAX_COMPILATION_CACHE_DIR=$(printf %q "$CACHE")}
setsid nohup .venv/bin/cicjax$arguments >run.log 2>&1 </dev/null &
echo \$! >run.pid
END
}

remote_log() {
    echo 'tail -n 40 -f cicjax/run.log'
}

# All hosts agree on one update, save after it and end.
remote_stop() {
    echo "kill -TERM \"\$(cat cicjax/run.pid)\""
}

# The comment at the top of a script.
usage() {
    sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
