#!/usr/bin/env bash
# Measures Workrs on this machine, beside the peers that are installed; see usage() and docs/benchmarks.md.
set -euo pipefail

usage() {
    cat <<END
usage: scripts/bench.sh [--full] [--only NAMES] [--tools NAMES] [--rounds N] [--kills N] [--workrs FILE]
                        [--group-bench FILE] [--out DIR]
  --full         every kind of data at 50, 500 and 2,000 MB, by default a choice of them; 50 kills instead of 20, and
                 100,000 queued jobs instead of 10,000
  --only NAMES   separated by commas: checkpoint, noop, queue, images, chunking, page; of groups: recovery, throughput, scale;
                 matrix (the table of kinds of data by size), a kind (list, array, dict, sqlite, c, disk, bytes), or a
                 kind and its megabytes (list-50)
  --tools NAMES  of workrs, workrs-docker (its engine on Docker, which needs docker, too), podman, docker, for the table;
                 all by default
  --rounds N     rounds of the paired measurements; 7 by default
  --kills N      kills of a node for each lease in recovery, and a quarter as many with etcd's leader; 20 by default
  --workrs FILE  measure this executable; by default a release build of this checkout
  --group-bench FILE
                 the example program group_bench, which throughput and scale run; by default a release build of it
  --out DIR      where results.md, results.csv and results.json go; target/bench by default
Needs root, runc and CRIU (scripts/setup.sh); compares with podman and Docker where they are installed
(scripts/setup.sh --bench). What is of groups needs etcd, recovery also Garage (scripts/setup.sh --cluster).
exit codes: 0 measured (missed goals are told, not judged), 1 something could not be measured, 64 wrong usage
END
}

root_dir=$(dirname "$(dirname "$(readlink -f "$0")")")
# Users' PATHs often lack the sbin folders. /usr/local/sbin goes first, as a newer CRIU is put there.
export PATH="/usr/local/sbin:$PATH:/usr/sbin:/sbin:${HOME:-/root}/.cargo/bin"
target_dir=${CARGO_TARGET_DIR:-$root_dir/target}

workrs=
out=$target_dir/bench
arguments=()
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage && exit ;;
    --full)
        arguments+=("$1")
        shift
        ;;
    --workrs | --group-bench | --only | --tools | --rounds | --kills | --out)
        if [ $# -lt 2 ]; then usage >&2 && exit 64; fi
        case $1 in
        --workrs) workrs=$2 ;;
        --out) out=$2 ;;
        *) arguments+=("$1" "$2") ;;
        esac
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
    cargo build --quiet --release --locked --package workrs --manifest-path "$root_dir/Cargo.toml"
    workrs=$target_dir/release/workrs
fi
# Python's folders of compiled files do not belong into the checkout.
export PYTHONDONTWRITEBYTECODE=1
exec /usr/bin/python3 "$root_dir/scripts/bench/main.py" "$workrs" --out "$out" "${arguments[@]}"
