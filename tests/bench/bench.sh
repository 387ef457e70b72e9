# shellcheck shell=bash disable=SC2034,SC2154
# The tests' own Docker engine in a network namespace of its own; sourced by ./test, root only.
#
# A machine has eight numbered places for such engines. Who holds the lock of a place owns everything with its number:
# the namespace ds01-bench-N, the link ds01bN, the rules with that comment, the folder /run/ds01-bench-N, the data in
# the cache. So what a killed run left behind is found and removed by the next one.

place=
inside=() # in front of a command, it makes it run in the engine's network, with names resolved as outside

bench_take_place() {
    local number told=
    mkdir -p /run/lock
    while true; do
        for number in {0..7}; do
            exec {place_lock}>"/run/lock/ds01-bench-$number"
            if flock -n "$place_lock"; then
                place=$number
                folder=/run/ds01-bench-$place
                data=$cache/engine/$place
                return
            fi
            exec {place_lock}>&-
        done
        [ -n "$told" ] || say "      eight test runs have an engine on this machine: waiting for one to end"
        told=1
        sleep 2
    done
}

bench_rules() { # ACTION (-I or -D): the way out for the namespace
    local rule status=0
    for rule in "filter $1 FORWARD -i ds01b$place" "filter $1 FORWARD -o ds01b$place" \
        "nat $1 POSTROUTING -s 198.18.213.$((place * 4))/30"; do
        # shellcheck disable=SC2086
        iptables -w -t $rule -m comment --comment "ds01-bench-$place" \
            -j "$([[ $rule == nat* ]] && echo MASQUERADE || echo ACCEPT)" || status=1
    done
    return "$status"
}

bench_network() {
    local device host address
    device=$(ip -4 route show default | sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -n 1)
    if [ -z "$device" ]; then
        why="this machine has no network (no default route)"
        return 1
    fi
    mtu=$(cat "/sys/class/net/$device/mtu")
    host=198.18.213.$((place * 4 + 1))
    address=198.18.213.$((place * 4 + 2))
    ip netns add "ds01-bench-$place" &&
        ip link add "ds01b$place" mtu "$mtu" type veth peer name eth0 mtu "$mtu" netns "ds01-bench-$place" &&
        ip address add "$host/30" dev "ds01b$place" &&
        ip link set "ds01b$place" up &&
        ip -n "ds01-bench-$place" address add "$address/30" dev eth0 &&
        ip -n "ds01-bench-$place" link set lo up &&
        ip -n "ds01-bench-$place" link set eth0 up &&
        ip -n "ds01-bench-$place" route add default via "$host" &&
        bench_rules -I &&
        echo 1 >/proc/sys/net/ipv4/ip_forward || return 1
    inside=(nsenter --net="/run/netns/ds01-bench-$place")
    # A resolver on the host's loopback cannot be asked from in there: take the one behind it.
    if ! grep -E '^nameserver' /etc/resolv.conf | grep -qvE ' (127\.|::1)'; then
        grep -E '^nameserver' /run/systemd/resolve/resolv.conf >"$folder/resolv.conf" 2>/dev/null || {
            why="this machine's name server is on its loopback address, which a network namespace cannot reach"
            return 1
        }
        # shellcheck disable=SC2016
        inside+=(unshare --mount --propagation slave sh -c
            'mount --bind "$0" /etc/resolv.conf && exec "$@"' "$folder/resolv.conf")
    fi
}

# bench_up VENV: network, engine and stand-in image; 1 with the reason in $why. VENV is one with docker-py.
bench_up() {
    bench_python=$1/bin/python
    why="see the lines above"
    bench_take_place
    bench_down_now
    mkdir -p "$folder/hook" "$data"
    bench_network || return 1
    cp "$bench/nvidia-container-runtime-hook" "$folder/hook/"
    : >"$folder/devices"
    : >"$folder/hook.jsonl"
    printf 'data=%q\nmtu=%q\npython=%q\n' "$data" "$mtu" "$bench_python" >"$folder/settings"
    cat >"$folder/containerd.toml" <<END
version = 2
root = "$data/containerd"
state = "$folder/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$folder/containerd.sock"
END
    "${inside[@]}" "$bench/start-engine" "$folder" {place_lock}>&- || return 1
    export DS01_TEST_ENGINE=unix://$folder/docker.sock DS01_TEST_BENCH=$folder DS01_STANDIN_IMAGE=$standin_image \
        DS01_TEST_HOOK_DEVICES=$folder/devices DS01_TEST_HOOK_LOG=$folder/hook.jsonl
    "$bench_python" "$bench/engine.py" "$DS01_TEST_ENGINE" clean &&
        "$bench_python" "$bench/engine.py" "$DS01_TEST_ENGINE" load "$standin_tar" "$standin_image"
}

# bench_end PID-FILE: ends that daemon of this place, politely first.
bench_end() {
    local pid
    pid=$(cat "$1" 2>/dev/null) || return 0
    tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$folder/" || return 0
    kill "$pid" 2>/dev/null
    for _ in {1..200}; do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null
}

bench_unmount() { # FOLDER...: all that is mounted in them, and on them
    local at folders
    folders=$(IFS='|' && echo "$*")
    while read -r at; do
        umount -l "$at"
    done < <(cut -d' ' -f2 /proc/mounts | grep -E "^($folders)(/|\$)" | sort -r)
}

# Ends the engines that single tests started, with all that runs in them, and removes their data.
bench_end_spare() {
    local at pid
    for at in "$folder"/spare/*/pid; do
        pid=$(cat "$at" 2>/dev/null) || continue
        { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qF "$folder " || continue
        kill -KILL "$pid"
        while kill -0 "$pid" 2>/dev/null; do
            sleep 0.1
        done
    done
    bench_unmount "$data-spare"
    rm -rf --one-file-system "$data-spare"
}

# Ends and removes everything of this place but the data; safe to call at any time, twice too.
bench_down() {
    [ -n "$place" ] && bench_down_now
}

bench_down_now() {
    local pid name=ds01-bench-$place
    # A daemon that a test killed comes back once: only it can end the containers that outlived it.
    if [ -e "$folder/settings" ] && [ -e "/run/netns/$name" ]; then
        nsenter --net="/run/netns/$name" "$bench/start-engine" "$folder" {place_lock}>&- &&
            "$bench_python" "$bench/engine.py" "unix://$folder/docker.sock" clean
    fi
    bench_end_spare
    bench_end "$folder/docker.pid"
    bench_end "$folder/containerd.pid"
    for pid in $(ip netns pids "$name" 2>/dev/null); do
        kill -KILL "$pid" 2>/dev/null
    done
    bench_unmount "$folder" "$data"
    bench_rules -D 2>/dev/null
    ip link delete "ds01b$place" 2>/dev/null
    ip netns delete "$name" 2>/dev/null
    rm -rf --one-file-system "$folder"
}
