#!/bin/sh
# Installs what Corral needs on Debian 12 or 13 and puts the program at .venv/bin/corral. Does nothing the second time.
#   scripts/setup.sh          what running machines takes
#   scripts/setup.sh test     and what `make test` and `make bench` compare against: libvirt, its clients, linters
#   scripts/setup.sh host     only the system's packages and QEMU's account: `make install` puts the program elsewhere
set -eu
cd "$(dirname "$0")/.."
kind=${1:-run}
python=${PYTHON:-/usr/bin/python3}
[ -x "$python" ] || python=python3

say() { printf '\033[1m::\033[0m %s\n' "$*" >&2; }
die() { printf 'setup: %s\n' "$1" >&2; [ -z "${2:-}" ] || printf '       %s\n' "$2" >&2; exit 1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
installed() { dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null | grep -q '^ii'; }

packages="python3 python3-venv libusb-1.0-0 qemu-system-x86 qemu-utils ovmf"
[ "$kind" != test ] || packages="$packages libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients python3-libvirt virtinst libxml2-utils openssh-client prometheus-libvirt-exporter collectd-core resource-agents linux-perf iproute2 passt libusbredirparser1 ioping acpica-tools swtpm swtpm-tools systemd gir1.2-spiceclientglib-2.0 python3-gi virt-viewer xvfb openssl libnss3-tools busybox-static zstd lz4 sg3-utils"

same_version() {
    version=$(dpkg-query -W -f '${Version}' "$1")
    if ! installed "$2" && apt-cache show "$2=$version" >/dev/null 2>&1; then
        say "installing $2"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$2=$version" >&2
    fi
}

# The tests run iSCSI targets of their own: the package's, which would serve the whole network, is kept from starting.
install_target() {
    ! installed tgt || return 0
    say "installing tgt, not as a service"
    as_root mkdir -p /etc/systemd/system
    as_root ln -sf /dev/null /etc/systemd/system/tgt.service
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends tgt >&2 ||
        die "apt-get could not install tgt"
}

install_packages() {
    if ! command -v dpkg-query >/dev/null; then
        command -v qemu-system-x86_64 >/dev/null ||
            die "this is not Debian and there is no qemu-system-x86_64" "install QEMU 7.2 or newer and Python 3.11 or newer with your package manager, then run make setup again"
        return
    fi
    missing=
    for package in $packages; do installed "$package" || missing="$missing $package"; done
    if [ -n "$missing" ]; then
        say "installing Debian packages:$missing"
        [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || die "missing packages:$missing" "run as root, or install them yourself: apt-get install$missing"
        as_root apt-get update -q >/dev/null || die "apt-get update failed" "check /etc/apt/sources.list and the network"
        # shellcheck disable=SC2086
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing >&2 ||
            die "apt-get could not install:$missing"
    fi
    # Debian 13 has parts of QEMU and libvirt in packages of their own: take those that fit what is installed.
    same_version qemu-system-x86 qemu-system-modules-spice
    [ "$kind" != test ] || same_version libvirt-daemon libvirt-daemon-driver-storage
    [ "$kind" != test ] || same_version qemu-system-x86 qemu-block-extra
    [ "$kind" != test ] || install_target
    # A package of its own since Debian 13; before, QEMU's own.
    [ "$kind" != test ] || installed virtiofsd || ! apt-cache show virtiofsd >/dev/null 2>&1 || {
        say "installing virtiofsd"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends virtiofsd >&2
    }
}

install_program() {
    stamp=.venv/.setup-$kind
    want=$(cat pyproject.toml scripts/setup.sh | sha256sum)
    [ "$(cat "$stamp" 2>/dev/null)" != "$want" ] || return 0
    [ -x .venv/bin/python ] || { say "making a virtual environment in .venv"; "$python" -m venv .venv || die "no virtual environment could be made with $python"; }
    extra=
    [ "$kind" = run ] || extra='[dev]'
    say "installing corral$extra and its libraries into .venv"
    .venv/bin/pip install -q --disable-pip-version-check -e ".$extra" || die "pip could not install corral" "read its message above; it needs the Python package index"
    .venv/bin/python -m compileall -q src/corral
    printf '%s' "$want" >"$stamp"
}

# Whom the system daemon runs QEMU as (systemd/corral.sysusers says the same for a package).
make_account() {
    [ "$(id -u)" = 0 ] || return 0
    ! getent passwd corral-qemu >/dev/null || return 0
    command -v useradd >/dev/null || return 0
    say "making the account corral-qemu, as which guests' QEMU runs"
    useradd --system --user-group --no-create-home --home-dir / --shell /usr/sbin/nologin --comment "Corral's QEMU processes" corral-qemu ||
        say "it could not be made; QEMU will run as libvirt-qemu, or as root"
}

# On Debian 12 what libvirtd needs to start (an account, though the tests' own runs QEMU as somebody else) and where
# virt-install keeps kernels come with the package that starts libvirtd as a service: they are made without it.
make_libvirt_places() {
    [ "$kind" = test ] && command -v dpkg-query >/dev/null || return 0
    [ -d /var/lib/libvirt/boot ] || as_root mkdir -p -m 711 /var/lib/libvirt/boot || :
    ! getent passwd libvirt-qemu >/dev/null || return 0
    say "making the account libvirt-qemu, for the libvirtd that the tests compare with"
    as_root useradd --system --user-group --no-create-home --home-dir /var/lib/libvirt --shell /usr/sbin/nologin libvirt-qemu ||
        say "it could not be made; the tests' libvirtd may not start"
}

install_packages
make_account
make_libvirt_places
[ "$kind" = host ] || install_program
