#!/usr/bin/env bash
# One cicjax command on every host of a TPU slice. Needs gcloud, signed in, and nothing else.
#
#   export TPU=my-slice ZONE=europe-west4-b
#   scripts/tpu_vm.sh setup          this checkout's last commit and its .venv on every host
#   scripts/tpu_vm.sh run train /mnt/shared/log.jsonl --model Qwen/Qwen2.5-0.5B --output_dir /mnt/shared/mine
#   scripts/tpu_vm.sh log [HOST]     what the first host says, or another
#   scripts/tpu_vm.sh stop           all save after the same update, then end
#
# `run` comes back at once; the same command resumes, after a preemption too. --output_dir is on a file system
# that all hosts share (docs/accelerators.md). CACHE is a folder for compiled programs, shared too; FLAGS, such
# as --project=mine, go to every gcloud call.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=remote.sh
. "$(dirname "${BASH_SOURCE[0]}")/remote.sh"

vm() {
    # shellcheck disable=SC2086 # FLAGS are several words
    gcloud compute tpus tpu-vm "$@" --zone="$ZONE" ${FLAGS:-}
}

everywhere() {
    vm ssh "$TPU" --worker=all --ssh-flag=-oServerAliveInterval=30 --command="$1"
}

setup() {
    local archive host hosts
    hosts=$(vm describe "$TPU" --format='value(networkEndpoints.len())')
    # The first connection makes a host's keys; to all of them at once it fails.
    for ((host = 0; host < hosts; host++)); do
        vm ssh "$TPU" --worker="$host" --command=true
    done
    archive=$(remote_archive)
    vm scp "$archive" "$TPU":cicjax.tar --worker=all
    everywhere "$(remote_setup tpu)"
}

if [ -z "${TPU:-}" ] || [ -z "${ZONE:-}" ] || [ $# = 0 ]; then usage; fi
verb=$1
shift
case $verb in
setup) setup ;;
run) everywhere "$(remote_run "$@")" ;;
log) vm ssh "$TPU" --worker="${1:-0}" --command="$(remote_log)" ;;
stop) everywhere "$(remote_stop)" ;;
*) usage ;;
esac
