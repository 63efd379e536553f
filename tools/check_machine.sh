#!/bin/sh
# Tells whether an environment can be made here, before anything is downloaded.
#
#   check_machine.sh PYTHON GIGABYTES DIRECTORY
#
# PYTHON must run, be 3.11 or newer and have the venv module; the disk under DIRECTORY must have
# GIGABYTES free (0: not looked at). Exit status 0, or 1 with one message that says what to do.
set -u

python=$1
gigabytes=$2
directory=$3

main() {
    check_gigabytes
    check_python_runs
    check_python_version
    check_venv_module
    check_free_disk
}

check_gigabytes() {
    case $gigabytes in
    '' | *[!0-9]*) fail "MIN_FREE_GB=$gigabytes is no whole number of gigabytes." ;;
    esac
}

check_python_runs() {
    command -v "$python" >/dev/null 2>&1 || fail "PYTHON=$python: no such command on this machine." \
        "Install Python 3.11 or newer, or name the one you have, as in: make test PYTHON=python3.12"
    # A version manager's stub is found on PATH and yet runs nothing, so look at what it says.
    version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>&1) ||
        fail "PYTHON=$python does not run: $version" \
            "Name one that does, as in: make test PYTHON=python3.12"
}

check_python_version() {
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "PYTHON=$python is Python $version, and keras_t5gemma2 needs 3.11 or newer." \
            "Name a newer one, as in: make test PYTHON=python3.12"
}

check_venv_module() {
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "PYTHON=$python (Python $version) cannot make environments: no module venv or ensurepip." \
            "On Debian and Ubuntu they are a package of their own: apt install python3-venv"
}

check_free_disk() {
    [ "$gigabytes" != 0 ] || return 0
    # Blocks of 1024 bytes; the free ones stand before the column that ends in a percent sign.
    free=$(df -Pk "$(nearest_existing "$directory")" |
        awk 'NR == 2 { for (i = 2; i <= NF; i++) if ($i ~ /%$/) { print $(i - 1); exit } }')
    case $free in
    '' | *[!0-9]*)
        fail "df does not say how much disk is free for $directory." \
            "See to it that $gigabytes GB are, then say so: make test MIN_FREE_GB=0"
        ;;
    esac
    [ "$free" -ge $((gigabytes * 1048576)) ] ||
        fail "$((free / 1048576)) GB of disk are free for $directory, and it needs $gigabytes GB." \
            "Free some; or, if less is enough for you, say how much: make test MIN_FREE_GB=2"
}

nearest_existing() {
    if [ -d "$1" ]; then echo "$1"; else nearest_existing "$(dirname "$1")"; fi
}

fail() {
    for line in "$@"; do printf 'error: %s\n' "$line" >&2; done
    exit 1
}

main
