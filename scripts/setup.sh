#!/usr/bin/env bash
# Installs what this host lacks to build and run Workrs; see usage() for the options.
# Running it again is safe and quick: only what is missing is installed, and a CRIU, an etcd or a docker-registry that will
# do is left alone.
set -euo pipefail

readonly EXIT_FAILED=1 # also: something is missing (--check)
readonly EXIT_NOT_DEBIAN=2
readonly EXIT_NO_CAPABILITY=3
readonly EXIT_USAGE=64

# What comes from here lies in a folder of its own below `tools`, with a link in `links`.
readonly tools=/usr/local/lib/workrs
readonly links=/usr/local/sbin
# Where newer packages are looked for, in this order: the next Debian release, then unstable.
readonly newer_suites="forky sid"
# Earlier ones have known faults with the data of a member that was killed (etcd-io/etcd#14211 is one).
readonly etcd_wanted=3.5.30
readonly garage_wanted=2.5.0
scratch="" # see make_scratch

self=$(readlink -f "$0")
root_dir=$(dirname "$(dirname "$self")")
readonly self root_dir
# Users' PATHs often lack the sbin folders. /usr/local/sbin goes first, as a copy from here must win over the system's.
export PATH="/usr/local/sbin:$PATH:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:${HOME:-/root}/.cargo/bin"

usage() {
    cat <<END
usage: scripts/setup.sh [--check] [--one-node] [--cluster] [--bench] [--criu | --etcd | --docker-registry]
  (none)      install the packages, CRIU, Rust and etcd that are missing
  --check     say what is missing, change nothing
  --one-node  all but etcd: what building, one node and 'make demo' need
  --cluster   also Garage, an S3 server, for the tests and 'make cluster', built from source once, in some 10 minutes; and
              for the tests a registry of images, Docker Engine (its package starts Docker's service where there is
              systemd; the tests and benchmarks do not use that one), a browser, and schemathesis, which tests the API
  --bench     also install what the benchmarks need and compare with: podman, Docker Engine, numpy
  --criu      only CRIU
  --etcd      only etcd and etcdctl
  --docker-registry
              only the registry of images
exit codes: 0 all is there, 1 something failed or (--check) is missing, 2 something is missing and this is not Debian,
  3 this host may not checkpoint (no CAP_SYS_ADMIN), 64 wrong usage
END
}

say() { echo "setup: $*"; }

# fail CODE WHAT-AND-WHY [HINT...]
fail() {
    local code=$1 hint
    echo "error: $2" >&2
    for hint in "${@:3}"; do echo "hint: $hint" >&2; done
    exit "$code"
}

is_root() { [ "$(id -u)" = 0 ]; }

as_root() {
    if is_root; then "$@"; else sudo "$@"; fi
}

# at_least WANTED FOUND
at_least() { [ -n "$2" ] && printf '%s\n' "$1" "$2" | sort -V -C; }

# shellcheck disable=SC1091 # the file is the host's
is_debian() { (. /etc/os-release && [ "${ID:-}" = debian ]) 2>/dev/null; }

# --- what is needed -------------------------------------------------------------------------------------------------

# One line a package: name, how to see that it is there, purpose. The tool is looked for, not the package, so that a
# tool from elsewhere (runc comes with Docker's own packages, too) counts and is not fought over.
needed() {
    cat <<END
runc|command -v runc|runs, dumps and restores the containers
e2fsprogs|command -v mkfs.ext4|makes and checks the jobs' disks
xfsprogs|command -v mkfs.xfs|makes the file system that clones the jobs' disks
btrfs-progs|command -v mkfs.btrfs|tests: data folders on btrfs
util-linux|command -v nsenter|enters a job's namespaces
mount|command -v losetup|loop devices and mounts
iproute2|command -v ip|sets up the jobs' network; CRIU calls it
iptables|command -v iptables-restore|CRIU holds a job's network still with it (its default; 'criu check' does not ask)
gcc|command -v gcc|links the Rust crates
libc6-dev|has_static_libc|C headers and the static libc.a
protobuf-compiler|command -v protoc|builds the client of etcd
libprotobuf-dev|has_protobuf_includes|the files that protoc includes
make|command -v make|the project's entry points
openssl|command -v openssl|tests: certificates
python3|test -x /usr/bin/python3|runs the jobs of the demo and the tests
END
    if [ "$with_bench" = yes ] || [ "$with_docker" = yes ]; then
        echo "docker.io|command -v dockerd && command -v containerd|tests of the engine docker; a peer in the benchmarks"
        if has_docker_cli_apart; then echo "docker-cli|command -v docker|Docker's command"; fi
    fi
    if [ "$with_contract" = yes ]; then
        echo "chromium|command -v chromium|tests of the web page"
        echo "chromium-driver|command -v chromedriver|drives the browser in these tests"
        echo "python3-venv|/usr/bin/python3 -c 'import ensurepip'|keeps schemathesis apart from the system's Python"
        echo "curl|command -v curl|tests: the examples of docs/http-api.md"
    fi
    if [ "$with_bench" = yes ]; then
        echo "podman|command -v podman|a peer in the benchmarks"
        echo "netavark|test -x /usr/lib/podman/netavark|podman's network"
        echo "python3-numpy|test -d /usr/lib/python3/dist-packages/numpy|a measured job's array"
    fi
}

# Up to Debian 12 it is part of docker.io.
# shellcheck disable=SC1091 # the file is the host's
has_docker_cli_apart() { (. /etc/os-release && [ "${VERSION_ID:-99}" -ge 13 ]) 2>/dev/null; }

has_static_libc() { [ -f "$(gcc -print-file-name=libc.a 2>/dev/null)" ]; }

# They lie beside protoc, wherever that is from.
has_protobuf_includes() { [ -f "$(dirname "$(dirname "$(command -v protoc)")")/include/google/protobuf/any.proto" ]; }

# Prints the lines of needed() whose probe fails.
missing() {
    local name probe purpose
    while IFS='|' read -r name probe purpose; do
        eval "$probe" >/dev/null 2>&1 || echo "$name|$purpose"
    done < <(needed)
}

print_missing() { # LINES
    local name purpose
    while IFS='|' read -r name purpose; do printf '  %-17s %s\n' "$name" "$purpose"; done <<<"$1"
}

# --- may this host checkpoint at all? -------------------------------------------------------------------------------

# Bit 21 is CAP_SYS_ADMIN. Root is judged by what it has, anyone else by what sudo could give them (the bounding set).
require_sys_admin() {
    local field=CapBnd caps
    if is_root; then field=CapEff; fi
    caps=$(sed -n "s/^$field:[[:space:]]*//p" /proc/self/status)
    if (((0x$caps >> 21) & 1)); then return; fi
    fail $EXIT_NO_CAPABILITY "jobs cannot run here: this host or container withholds CAP_SYS_ADMIN ($field $caps)" \
        "use a virtual machine or a privileged container (docker run --privileged) for the nodes and the tests" \
        "'cargo build' needs neither"
}

# --- packages -------------------------------------------------------------------------------------------------------

# --no-remove: better to fail than to push out something that the host's owner chose.
apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq --yes --no-remove --no-install-recommends \
        -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 "$@"
}

# 'apt-cache show' would not do: it also succeeds for a package that others merely name.
apt_offers() { apt-cache policy "$1" 2>/dev/null | grep -q 'Candidate: [0-9]'; }

install_packages() {
    local lines names
    lines=$(missing)
    if [ -z "$lines" ]; then
        say "packages: all there"
        return
    fi
    mapfile -t names < <(cut -d'|' -f1 <<<"$lines")
    if ! is_debian; then
        print_missing "$lines" >&2
        fail $EXIT_NOT_DEBIAN "this is not Debian, and the tools of the packages above (Debian's names) are missing" \
            "install them with this system's package manager, then run scripts/setup.sh again"
    fi
    say "installing these packages and what they depend on:"
    print_missing "$lines"
    if ! apt_get update; then say "the package lists could not all be updated; going on with what is there"; fi
    apt_get install "${names[@]}" ||
        fail $EXIT_FAILED "cannot install ${names[*]}: apt-get says why above" \
            "put that right, then run scripts/setup.sh again"
}

can_be_root() { is_root || command -v sudo >/dev/null; }

# Called before the first change, so that the hints name all that is to do.
require_root_or_sudo() {
    local names hints=()
    if can_be_root || ! is_debian; then return; fi
    names=$(missing | cut -d'|' -f1 | tr '\n' ' ')
    if [ -n "$names" ]; then
        hints+=("run as root: apt-get update && apt-get install --no-install-recommends $names")
    fi
    if ! command -v criu >/dev/null; then hints+=("run as root: $self --criu"); fi
    if [ "$with_etcd" = yes ] && ! etcd_works; then hints+=("run as root: $self --etcd"); fi
    if [ "$with_registry" = yes ] && ! docker-registry_works; then hints+=("run as root: $self --docker-registry"); fi
    if [ ${#hints[@]} = 0 ]; then return; fi
    fail $EXIT_FAILED "cannot install what is missing: this is not root, and there is no sudo" "${hints[@]}"
}

# --- programs from newer packages -----------------------------------------------------------------------------------

# install_from_newer TOOL NAME HINT: makes a folder of its own for the TOOL (criu, etcd), turns links to it, and removes
# the folders of former runs. For each TOOL there are functions: TOOL_works, say_TOOL, download_TOOL, unpack_TOOL.
install_from_newer() {
    local tool=$1 name=$2 home
    is_debian || fail $EXIT_NOT_DEBIAN "this host has no $name that will do, and this is not Debian" "$3"
    if ! is_root; then
        sudo "$self" "--$tool"
        return
    fi
    refuse_foreign_links "$name" "$tool"
    say "$name: none here will do; fetching one into $tools"
    lock_tools
    if "${tool}_works"; then # another run made it meanwhile
        "say_$tool"
        return
    fi
    make_scratch
    "download_$tool"
    home=$(mktemp -d "$tools/$tool.XXXXXX")
    chmod 755 "$home"
    # Checked in its folder before the link is turned: an interrupted run leaves at most a folder that nothing points to,
    # which the next run removes. It cannot be built elsewhere and renamed, as CRIU's path is in its binary.
    "unpack_$tool"
    remove_old "$tool"
    "say_$tool"
}

# The link has the name of the tool. What somebody else put there is theirs.
refuse_foreign_links() { # NAME LINK...
    local link
    for link in "${@:2}"; do
        link=$links/$link
        if [ -e "$link" ] && [[ $(readlink -f "$link") != "$tools"/* ]]; then
            fail $EXIT_FAILED "cannot install $1: $link will not do, and this script did not make it" \
                "move it away, then run scripts/setup.sh again"
        fi
    done
}

# Two at once would remove each other's folders. The lock is held until this script ends.
lock_tools() {
    as_root mkdir -p "$tools" "$links"
    exec 9<"$tools"
    flock 9
}

make_scratch() {
    if [ -n "$scratch" ]; then return; fi
    scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/workrs-setup.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    chmod 755 "$scratch" # apt downloads as a user of its own
}

turn_link() { # BINARY
    local link
    link=$links/$(basename "$1")
    as_root ln -sfn "$1" "$link.new"
    as_root mv -T "$link.new" "$link"
}

remove_old() { # TOOL
    local folder
    for folder in "$tools/$1".*; do
        if [[ $(readlink "$links/$1") != "$folder"/* ]]; then rm -rf "$folder"; fi
    done
}

# Prints the addresses of the Debian mirrors that this system is set to use. Apt itself is asked, as it knows every
# format and place of sources; it needs no package lists for this.
debian_mirrors() {
    local suites
    # shellcheck disable=SC1091
    suites="$(. /etc/os-release && echo "${VERSION_CODENAME:-sid}")|oldstable|stable|testing|unstable|sid"
    apt-get update --print-uris | sed -nE "s#^'(.*[^/])/*/dists/($suites)/InRelease'.*#\1#p" | sort -u
}

# Writes an apt configuration with sources, lists and package state of its own, so that the system's stay as they are.
# Proxies and credentials still come from the system's.
write_apt_configuration() { # MIRROR SUITE
    local keyring signed=""
    for keyring in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
        if [ -f "$keyring" ]; then signed="[signed-by=$keyring] "; fi
    done
    rm -rf "$scratch/apt"
    mkdir -p "$scratch"/apt/{none,lists/partial,cache/archives/partial}
    : >"$scratch/apt/status" # empty: apt is to fetch the libraries that the system has in older versions, too
    echo "deb $signed$1 $2 main" >"$scratch/apt/sources.list"
    cat >"$scratch/apt/apt.conf" <<END
Dir::Etc::sourcelist "$scratch/apt/sources.list";
Dir::Etc::sourceparts "$scratch/apt/none";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "$scratch/apt/none";
Dir::State::lists "$scratch/apt/lists";
Dir::State::status "$scratch/apt/status";
Dir::State::extended_states "$scratch/apt/extended_states";
Dir::Cache "$scratch/apt/cache";
Dir::Log "$scratch/apt";
APT::Default-Release "";
APT::Get::List-Cleanup "false";
Acquire::Languages "none";
Acquire::Retries "3";
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
END
}

# download_debs NAME HINT APT-GET'S-COMMAND...: leaves .deb files in $scratch/apt/cache/archives, of the first suite that
# has them. Each call begins with an empty folder.
download_debs() {
    local mirror suite log="$scratch/log"
    : >"$log"
    for suite in $newer_suites; do
        for mirror in $(debian_mirrors); do
            write_apt_configuration "$mirror" "$suite"
            if apt-get -q -c "$scratch/apt/apt.conf" update >>"$log" 2>&1 &&
                (cd "$scratch/apt/cache/archives" && apt-get -q -c "$scratch/apt/apt.conf" "${@:3}") >>"$log" 2>&1; then
                return
            fi
        done
    done
    tail -n 15 "$log" >&2
    fail $EXIT_FAILED "cannot download $1: no mirror in apt's sources gave it (log above; tried: $newer_suites)" \
        "check the network and that a Debian mirror stands in /etc/apt, then run scripts/setup.sh again" "$2"
}

unpack_debs() { # INTO
    local deb
    for deb in "$scratch"/apt/cache/archives/*.deb; do dpkg -x "$deb" "$1"; done
}

# --- CRIU -----------------------------------------------------------------------------------------------------------

# The version says too little: whether one works depends on the kernel, so CRIU itself is asked.
criu_works() { command -v criu >/dev/null && as_root "$(command -v criu)" check >/dev/null 2>&1; }

say_criu_unchecked() { say "CRIU: at $(command -v criu), not checked ('criu check' needs root)"; }

say_criu() { say "CRIU: $(criu --version | sed -n 's/^Version: //p') at $(command -v criu), 'criu check' passes"; }

install_criu() {
    if ! can_be_root && command -v criu >/dev/null; then
        say_criu_unchecked
    elif criu_works; then
        say_criu
    else
        install_from_newer criu CRIU \
            "install CRIU 4.1 or later so that 'criu check' passes as root: https://criu.org/Installation"
    fi
}

# CRIU, patchelf and everything they depend on.
download_criu() {
    download_debs CRIU "or install a CRIU yourself that passes 'criu check'" \
        install --download-only --yes --no-install-recommends criu patchelf
}

# Unpacks into $home, and makes CRIU use the libraries there instead of the system's.
unpack_criu() {
    local binary lib_dir interpreter report
    unpack_debs "$home"
    binary=$home/usr/sbin/criu
    lib_dir=$(dirname "$(find "$home" -name libc.so.6 -print -quit)")
    patchelf() { "$interpreter" --library-path "$lib_dir" "$home/usr/bin/patchelf" "$@"; }
    interpreter=$(find "$home" -type f -name 'ld-linux*.so*' -print -quit)
    # An rpath, not a runpath: it holds for the libraries' own libraries, too.
    patchelf --set-interpreter "$interpreter" --force-rpath --set-rpath "$lib_dir" "$binary"
    if ! report=$("$binary" check 2>&1); then
        rm -rf "$home"
        fail $EXIT_FAILED "cannot use the downloaded CRIU: its 'criu check' says: $report" \
            "this kernel ($(uname -r)) may lack CONFIG_CHECKPOINT_RESTORE, or need a newer CRIU"
    fi
    turn_link "$binary"
}

# --- Rust -----------------------------------------------------------------------------------------------------------

rust_wanted() {
    sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' "$root_dir/Cargo.toml" 2>/dev/null | head -n 1 || true
}

rust_found() { (cd "$root_dir" && cargo --version 2>/dev/null | cut -d' ' -f2) || true; }

rust_works() { at_least "$(rust_wanted)" "$(rust_found)"; }

# rustup puts the toolchain into the caller's home: never through sudo.
install_rust() {
    if ! rust_works && ! command -v rustup >/dev/null && can_be_root && apt_offers rustup; then
        say "installing rustup from Debian"
        apt_get install rustup ||
            fail $EXIT_FAILED "cannot install rustup: apt-get says why above" \
                "if Debian's own cargo and rustc are in its way: apt-get remove cargo rustc"
    fi
    if ! rust_works && command -v rustup >/dev/null; then
        say "installing Rust's stable toolchain"
        rustup toolchain install stable --profile minimal --component clippy,rustfmt || true # rust_works judges
        if ! rust_works; then rustup default stable || true; fi
    fi
    rust_works || fail $EXIT_FAILED "cannot build Workrs: cargo is $(rust_lack)" \
        "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
    say "Rust: $(rust_found) at $(command -v cargo)"
}

rust_lack() {
    local found wanted
    found=$(rust_found) wanted=$(rust_wanted)
    echo "${found:-missing}${wanted:+ (wanted: $wanted or later)}"
}

# --- etcd -----------------------------------------------------------------------------------------------------------

etcd_works() { command -v etcdctl >/dev/null && at_least $etcd_wanted "$(etcd_version etcd)"; }

etcd_version() { "$1" --version 2>/dev/null | sed -n 's/^etcd Version: *//p' || true; } # BINARY

say_etcd() { say "etcd: $(etcd_version etcd) at $(command -v etcd)"; }

install_etcd() {
    if etcd_works; then
        say_etcd
        return
    fi
    refuse_foreign_links etcd etcdctl
    install_from_newer etcd etcd "install etcd and etcdctl $etcd_wanted or later: https://etcd.io/docs/latest/install"
}

# Without what they depend on: both are linked with nothing but the libc, and run with the system's.
download_etcd() {
    download_debs etcd "or install etcd and etcdctl $etcd_wanted or later yourself" download etcd-server etcd-client
}

unpack_etcd() {
    local found
    unpack_debs "$home"
    found=$(etcd_version "$home/usr/bin/etcd")
    if ! at_least $etcd_wanted "$found" || ! "$home/usr/bin/etcdctl" version >/dev/null; then
        rm -rf "$home"
        fail $EXIT_FAILED "cannot use the downloaded etcd: it is ${found:-a file that does not run here}" \
            "install etcd and etcdctl $etcd_wanted or later yourself"
    fi
    turn_link "$home/usr/bin/etcdctl"
    turn_link "$home/usr/bin/etcd" # last: remove_old goes by it
}

# --- Garage ---------------------------------------------------------------------------------------------------------

garage_works() { at_least $garage_wanted "$(garage_version garage)"; }

garage_version() { "$1" --version 2>/dev/null | sed -nE 's/^garage [^0-9]*([0-9.]+).*/\1/p' || true; } # BINARY

say_garage() { say "Garage: $(garage_version garage) at $(command -v garage)"; }

# No Debian release has it. What the build leaves behind is one file, so that this happens once on a machine.
install_garage() {
    local home=$tools/garage-$garage_wanted
    if garage_works; then
        say_garage
        return
    fi
    can_be_root || fail $EXIT_FAILED "cannot install Garage into $tools: this is not root, and there is no sudo"
    refuse_foreign_links Garage garage
    lock_tools
    if ! [ -x "$home/garage" ]; then
        say "Garage: building $garage_wanted, once on this machine; that takes some 10 minutes on two cores"
        make_scratch
        build_garage
        as_root install -D -m 755 "$scratch/garage/bin/garage" "$home/garage.new"
        as_root mv -T "$home/garage.new" "$home/garage"
    fi
    turn_link "$home/garage"
    say_garage
}

# With a profile that builds quickly: a server for tests need not be the fastest. cargo is the caller's, as with Rust.
build_garage() {
    env CARGO_TARGET_DIR="$scratch/garage-target" CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_STRIP=true \
        cargo install garage --version "$garage_wanted" --locked --no-default-features --features bundled-libs,lmdb \
        --root "$scratch/garage" --no-track --quiet ||
        fail $EXIT_FAILED "cannot build Garage $garage_wanted: cargo says why above" \
            "put that right, then run scripts/setup.sh again; only some tests and 'make cluster' need Garage"
}

# --- docker-registry ------------------------------------------------------------------------------------------------

docker-registry_works() { [ -n "$(registry_version docker-registry)" ]; }

registry_version() { "$1" --version 2>/dev/null | sed -nE 's/^[^ ]*docker-registry [^ ]+ v?//p' || true; } # BINARY

say_docker-registry() { say "docker-registry: $(registry_version docker-registry) at $(command -v docker-registry)"; }

# Not by installing the package, which starts a service where there is systemd. The tests start their own.
install_docker-registry() {
    if docker-registry_works; then
        say_docker-registry
        return
    fi
    install_from_newer docker-registry docker-registry \
        "install docker-registry yourself: https://distribution.github.io/distribution"
}

# Without what it depends on, as with etcd.
download_docker-registry() {
    download_debs docker-registry "or install docker-registry yourself" download docker-registry
}

unpack_docker-registry() {
    unpack_debs "$home"
    if [ -z "$(registry_version "$home/usr/bin/docker-registry")" ]; then
        rm -rf "$home"
        fail $EXIT_FAILED "cannot use the downloaded docker-registry: it does not run here" \
            "install docker-registry yourself"
    fi
    turn_link "$home/usr/bin/docker-registry"
}

# --- schemathesis ---------------------------------------------------------------------------------------------------

# What tests the API's contract, with all that it depends on, each by its hash.
contract_requirements=$root_dir/crates/workrs/tests/contract/requirements.txt
contract_home=$tools/contract

contract_works() { cmp -s "$contract_requirements" "$contract_home/requirements.txt"; }

say_contract() { say "schemathesis: in $contract_home"; }

# In a Python environment of its own: nothing of it is seen by the system's Python.
install_contract() {
    if contract_works; then
        say_contract
        return
    fi
    can_be_root || fail $EXIT_FAILED "cannot install schemathesis into $tools: this is not root, and there is no sudo"
    lock_tools
    say "schemathesis: installing it into $contract_home"
    as_root rm -rf "$contract_home"
    if ! { as_root /usr/bin/python3 -m venv "$contract_home" &&
        as_root "$contract_home/bin/pip" install --quiet --disable-pip-version-check --require-hashes \
            --requirement "$contract_requirements"; }; then
        fail $EXIT_FAILED "cannot install schemathesis: Python says why above" \
            "put that right, then run scripts/setup.sh again; only the tests of the API's contract need it"
    fi
    # Last: it says that all is there.
    as_root install -m 644 "$contract_requirements" "$contract_home/requirements.txt"
    say_contract
}

# --- main -----------------------------------------------------------------------------------------------------------

check() {
    local lines lacks=0
    lines=$(missing)
    if [ -n "$lines" ]; then
        say "missing packages:"
        print_missing "$lines"
        lacks=1
    fi
    if ! command -v criu >/dev/null; then
        say "missing: criu"
        lacks=1
    elif ! is_root && ! sudo -n true 2>/dev/null; then
        say_criu_unchecked
    elif ! criu_works; then
        say "missing: a CRIU that works ('criu check' fails with $(command -v criu))"
        lacks=1
    fi
    if ! rust_works; then
        say "missing: Rust; cargo is $(rust_lack)"
        lacks=1
    fi
    if [ "$with_etcd" = yes ] && ! etcd_works; then
        say "missing: etcd with etcdctl, $etcd_wanted or later"
        lacks=1
    fi
    if [ "$with_garage" = yes ] && ! garage_works; then
        say "missing: Garage, $garage_wanted or later"
        lacks=1
    fi
    if [ "$with_registry" = yes ] && ! docker-registry_works; then
        say "missing: docker-registry"
        lacks=1
    fi
    if [ "$with_contract" = yes ] && ! contract_works; then
        say "missing: schemathesis, as crates/workrs/tests/contract/requirements.txt has it"
        lacks=1
    fi
    if [ $lacks = 0 ]; then say "all is there"; fi
    return $lacks
}

main() {
    local mode=install argument
    with_bench=no with_etcd=yes with_garage=no with_registry=no with_docker=no with_contract=no
    for argument in "$@"; do
        case $argument in
        --check) mode=check ;;
        --criu | --etcd | --docker-registry) mode=${argument#--} ;;
        --one-node) with_etcd=no ;;
        --cluster) with_garage=yes with_registry=yes with_docker=yes with_contract=yes ;;
        --bench) with_bench=yes ;;
        -h | --help) usage && exit ;;
        *) usage >&2 && fail $EXIT_USAGE "unknown option $argument" ;;
        esac
    done
    require_sys_admin
    if [ "$mode" = check ]; then
        check
        return
    fi
    require_root_or_sudo
    if [ "$mode" != install ]; then
        "install_$mode"
        return
    fi
    install_packages
    install_criu
    install_rust
    if [ $with_etcd = yes ]; then install_etcd; fi
    if [ $with_garage = yes ]; then install_garage; fi
    if [ $with_registry = yes ]; then install_docker-registry; fi
    if [ $with_contract = yes ]; then install_contract; fi
}

main "$@"
