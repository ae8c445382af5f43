#!/bin/sh
# Installs Corral for a whole host, as root; the second time it upgrades.
#   scripts/install.sh install PREFIX             the program and its units
#   scripts/install.sh uninstall PREFIX           takes both away; machines, images and definitions stay
#   scripts/install.sh units PROGRAM DIRECTORY    only the units, for a program that is elsewhere, such as .venv/bin/corral
set -eu
cd "$(dirname "$0")/.."
units="corral.service corral.socket corral-ro.socket"

say() { printf '\033[1m::\033[0m %s\n' "$*" >&2; }
die() { printf 'install: %s\n' "$1" >&2; [ -z "${2:-}" ] || printf '         %s\n' "$2" >&2; exit 1; }
booted() { [ -d /run/systemd/system ]; }

# Where systemd looks for units of programs under this prefix (systemd.unit(5)).
unit_directory() { case $1 in /usr | /usr/local) echo "$1/lib/systemd" ;; *) echo /etc/systemd ;; esac; }

# The units in DIRECTORY/system and DIRECTORY/user, which start PROGRAM.
install_units() {
    program=$1 directory=$2
    case $program in /*) ;; *) die "'$program' is no absolute path" ;; esac
    "$program" --version >/dev/null 2>&1 || die "'$program' is not a corral that runs"
    for kind in system user; do
        from=systemd
        [ $kind = system ] || from=systemd/user
        mkdir -p "$directory/$kind"
        for unit in $units; do
            if [ -e "$from/$unit.in" ]; then
                sed "s|@corral@|$program|g" "$from/$unit.in" >"$directory/$kind/$unit"
            else
                cp "$from/$unit" "$directory/$kind/$unit"
            fi
            chmod 644 "$directory/$kind/$unit"
        done
    done
}

# The group whose members may use the system daemon's socket, and QEMU's account.
make_accounts() {
    if command -v systemd-sysusers >/dev/null; then
        systemd-sysusers "$PWD/systemd/corral.sysusers"
    elif ! getent group corral >/dev/null; then
        groupadd --system corral
    fi
}

install_all() {
    prefix=$1 library=$1/lib/corral
    scripts/setup.sh host
    make_accounts
    say "installing corral and its libraries into $library"
    [ -x "$library/bin/python" ] || "${PYTHON:-/usr/bin/python3}" -m venv "$library" || die "no virtual environment could be made in $library"
    "$library/bin/pip" install -q --disable-pip-version-check --upgrade . || die "pip could not install corral" "read its message above; it needs the Python package index"
    # pip keeps a corral of the same version: what is installed is this tree.
    "$library/bin/pip" install -q --disable-pip-version-check --no-deps --force-reinstall .
    mkdir -p "$prefix/bin"
    ln -sf ../lib/corral/bin/corral "$prefix/bin/corral"
    directory=$(unit_directory "$prefix")
    install_units "$prefix/bin/corral" "$directory"
    if booted; then
        systemctl daemon-reload
        systemctl try-restart corral.service # machines run on, and the new daemon takes them up
    fi
    say "installed $prefix/bin/corral, units in $directory; what next:"
    echo "   systemctl enable --now corral.socket corral-ro.socket    # the daemon starts with its first client" >&2
    echo "   systemctl enable corral.service                          # and at boot, for machines with autostart" >&2
    echo "   adduser SOMEBODY corral                                  # who may use it besides root" >&2
}

uninstall_all() {
    prefix=$1
    if booted && systemctl cat corral.socket >/dev/null 2>&1; then
        systemctl disable --now corral.socket corral-ro.socket corral.service
    fi
    directory=$(unit_directory "$prefix")
    for unit in $units; do rm -f "$directory/system/$unit" "$directory/user/$unit"; done
    rm -rf "$prefix/lib/corral"
    rm -f "$prefix/bin/corral"
    ! booted || systemctl daemon-reload
    say "machines' definitions and images are still in /var/lib/corral"
}

case ${1:-} in
units) [ $# = 3 ] || die "say which PROGRAM, and the DIRECTORY of its units"; install_units "$2" "$3"; exit ;;
install | uninstall) ;;
*) die "install, uninstall or units?" ;;
esac
case ${2:-} in /*) ;; *) die "PREFIX '${2:-}' is no absolute path" ;; esac
[ "$(id -u)" = 0 ] || die "this changes the whole host" "run it as root: sudo make $1"
"${1}_all" "$2"
