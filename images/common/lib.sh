# Sourced by every step of a build: a known environment, whatever the framework image sets.
set -eu
umask 022
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive
root=/opt/ds01
build=$root/build
env=$root/env
# What packages put beside the environment's Python is not for these scripts, which may be root.
PATH=${PATH#"$env/bin:"}

# Constraints, indexes and options of pip come from this site, not from the image.
for name in $(env | sed -n 's/^\(PIP_[A-Za-z0-9_]*\)=.*/\1/p'); do unset "$name"; done
unset PYTHONUSERBASE PYTHONSTARTUP
. "$build/site.env"
export PIP_CONFIG_FILE=/dev/null PIP_NO_INPUT=1 PIP_NO_CACHE_DIR=1 PIP_PROGRESS_BAR=off
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_DEFAULT_TIMEOUT=30
# The site's certificate authorities come on top of the image's own.
if [ -f "$build/ca.pem" ] && [ ! -f "$root/ca.pem" ]; then
    cat /etc/ssl/certs/ca-certificates.crt "$build/ca.pem" >"$root/ca.pem" 2>/dev/null || cp "$build/ca.pem" "$root/ca.pem"
fi
if [ -f "$root/ca.pem" ]; then
    export PIP_CERT=$root/ca.pem SSL_CERT_FILE=$root/ca.pem REQUESTS_CA_BUNDLE=$root/ca.pem
fi
HOME=$(mktemp -d)
export HOME
trap 'rm -rf "$HOME"' EXIT

say() { echo "ds01: $*"; }
# What follows `ds01 error:` is shown to the user as the reason.
fail() {
    echo "ds01 error: $*" >&2
    exit 1
}

# has_module PYTHON MODULE: whether it is there; nothing of it is run.
has_module() {
    "$1" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)' "$2" 2>/dev/null
}

# framework_python MODULE: the Python that has the framework, else the image's python3.
framework_python() {
    for name in /opt/conda/bin/python python3 python /usr/bin/python3; do
        path=$(command -v "$name") || continue
        if [ -z "$1" ] || has_module "$path" "$1"; then
            echo "$path"
            return
        fi
    done
    command -v python3 || fail "This image has no Python."
}

# at_least PYTHON MAJOR MINOR
at_least() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] < (int(sys.argv[1]), int(sys.argv[2])))' "$2" "$3" 2>/dev/null
}

# make_venv PYTHON ARGUMENTS...
make_venv() {
    python=$1
    shift
    if ! "$python" -c 'import ensurepip, venv; ensurepip.version()' 2>/dev/null; then
        install_venv "$python"
    fi
    "$python" -m venv "$@"
}

# Debian and Ubuntu ship Python's venv apart.
install_venv() {
    command -v apt-get >/dev/null || fail "$1 cannot make virtual environments, and this image has no apt-get to add what it lacks."
    minor=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    apt_update
    apt_get install -y --no-install-recommends "python$minor-venv" || apt_get install -y --no-install-recommends python3-venv
    apt_clean
    "$1" -c 'import ensurepip, venv; ensurepip.version()' || fail "$1 cannot make virtual environments."
}

apt_get() {
    set -- -q -o Acquire::Retries=2 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold "$@"
    if [ -f "$root/ca.pem" ]; then
        set -- -o "Acquire::https::CaInfo=$root/ca.pem" "$@"
    fi
    if [ -d "$HOME/apt" ]; then
        set -- -o "Dir::Etc::sourcelist=$HOME/apt/sources.list" -o "Dir::Etc::sourceparts=$HOME/apt/sources.list.d" "$@"
    fi
    apt-get "$@"
}

# One broken source of the image (a vendor's, whose key has gone) does not end the build: what is
# then missing is told by name.
apt_update() {
    if [ -n "${DS01_APT_MIRROR:-}" ]; then
        mkdir -p "$HOME/apt/sources.list.d"
        chmod 755 "$HOME" "$HOME/apt" "$HOME/apt/sources.list.d"
        cp /etc/apt/sources.list "$HOME/apt/" 2>/dev/null || : >"$HOME/apt/sources.list"
        cp /etc/apt/sources.list.d/* "$HOME/apt/sources.list.d/" 2>/dev/null || :
        find "$HOME/apt" -type f -exec sed -Ei "s#https?://[^/ ]+/(debian-security|debian|ubuntu-ports|ubuntu)([/ ]|\$)#$DS01_APT_MIRROR/\1\2#g" {} +
    fi
    apt_get update || say "some package lists could not be fetched"
}

apt_clean() {
    rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb /var/cache/apt/*.bin
}
