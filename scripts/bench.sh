#!/usr/bin/env bash
# Measures Workrs on this machine, beside the peers that are installed; see usage() and docs/benchmarks.md.
set -euo pipefail

usage() {
    cat <<END
usage: scripts/bench.sh [--workrs FILE] [--only PART[,PART…]] [--rounds N] [--json FILE]
  --workrs FILE  measure this executable; by default a release build of this checkout
  --only PARTS   checkpoint, noop, queue, large; all by default
  --rounds N     rounds of the paired measurements; 7 by default
  --json FILE    write every single value there, too
Needs root, runc and CRIU (scripts/setup.sh); compares with podman where it is installed (scripts/setup.sh --bench).
exit codes: 0 measured (missed goals are told, not judged), 1 something could not be measured, 64 wrong usage
END
}

root_dir=$(dirname "$(dirname "$(readlink -f "$0")")")
# Users' PATHs often lack the sbin folders. /usr/local/sbin goes first, as a newer CRIU is put there.
export PATH="/usr/local/sbin:$PATH:/usr/sbin:/sbin:${HOME:-/root}/.cargo/bin"

workrs=
arguments=()
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage && exit ;;
    --workrs | --only | --rounds | --json)
        if [ $# -lt 2 ]; then usage >&2 && exit 64; fi
        if [ "$1" = --workrs ]; then workrs=$2; else arguments+=("$1" "$2"); fi
        shift 2
        ;;
    *) usage >&2 && echo "error: unknown option $1" >&2 && exit 64 ;;
    esac
done

if [ "$(id -u)" != 0 ]; then
    echo "error: cannot measure: jobs need root" >&2
    echo "hint: sudo scripts/bench.sh" >&2
    exit 1
fi
if [ -z "$workrs" ]; then
    cargo build --quiet --release --package workrs --manifest-path "$root_dir/Cargo.toml"
    workrs=${CARGO_TARGET_DIR:-$root_dir/target}/release/workrs
fi
# Python's folders of compiled files do not belong into the checkout.
PYTHONDONTWRITEBYTECODE=1 exec /usr/bin/python3 "$root_dir/scripts/bench/main.py" "$workrs" "${arguments[@]}"
