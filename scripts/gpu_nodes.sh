#!/usr/bin/env bash
# One cicjax command on several GPU nodes. Needs ssh and scp to each, and nothing else.
#
#   export NODES='node-0 node-1'     the first is where the others meet, on PORT (8476)
#   scripts/gpu_nodes.sh setup       this checkout's last commit and its .venv on every node
#   scripts/gpu_nodes.sh run train /mnt/shared/log.jsonl --model Qwen/Qwen2.5-0.5B --output_dir /mnt/shared/mine
#   scripts/gpu_nodes.sh log [NODE]  what the first node says, or another
#   scripts/gpu_nodes.sh stop        all save after the same update, then end
#
# `run` comes back at once; the same command resumes. --output_dir is on a file system that all nodes share
# (docs/accelerators.md). CACHE is a folder for compiled programs, shared too. Under Slurm none of this is
# needed: srun --ntasks-per-node=1 cicjax ...
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=remote.sh
. "$(dirname "${BASH_SOURCE[0]}")/remote.sh"

read -ra nodes <<<"${NODES:-}"
if [ ${#nodes[@]} = 0 ] || [ $# = 0 ]; then usage; fi

# What is told is made here, and meant to be.
on() {
    # shellcheck disable=SC2029
    ssh "$1" "$2"
}

run() {
    local number
    for number in "${!nodes[@]}"; do
        on "${nodes[$number]}" "$(remote_run "$@" --num_processes "${#nodes[@]}" --process_id "$number" \
            --coordinator_address "${nodes[0]}:${PORT:-8476}")"
    done
}

setup() {
    local archive node
    archive=$(remote_archive)
    for node in "${nodes[@]}"; do
        scp -q "$archive" "$node":cicjax.tar
        on "$node" "$(remote_setup cuda)"
    done
}

verb=$1
shift
case $verb in
setup) setup ;;
run) run "$@" ;;
log) on "${1:-${nodes[0]}}" "$(remote_log)" ;;
stop) for node in "${nodes[@]}"; do on "$node" "$(remote_stop)"; done ;;
*) usage ;;
esac
