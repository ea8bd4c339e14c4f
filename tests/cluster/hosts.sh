#!/bin/bash
# Several hosts on one machine: each has its own network, name and processes; files are shared.
# Needs root. State is in $HOSTS_DIR, and nothing of it is seen outside but processes.
#   hosts.sh up n1 n2 ...          start hosts on one switch; n1 sees the machine's processes, so
#                                  that mpiexec there can start daemons on the others
#   hosts.sh exec n2 COMMAND...    run a command there, in this folder, with this environment
#   hosts.sh ssh [-OPTION] n2 ...  the same as ssh does it: a shell, another environment
#   hosts.sh cut n2                pull its cable          hosts.sh join n2    plug it in again
#   hosts.sh crash n2              no power: nobody is told, all its processes are gone
#   hosts.sh down                  end them all
set -eu
self=$(readlink -f "$0")
state=${HOSTS_DIR:?where to keep the state}
net=10.77.0

pause() { # KEEPER: wait a moment for it, unless it has ended
    kill -0 "$1" 2>/dev/null || { echo "hosts.sh: a host's first process has died; root?" >&2 && exit 1; }
    sleep 0.01
}

start() { # NAME unshare-options: a process that keeps namespaces, for half an hour at most; its
    # number is kept in NAME.pid
    local name=$1 keeper first
    shift
    setsid unshare --propagation private "$@" sleep 1800 </dev/null >/dev/null 2>&1 &
    keeper=$!
    while [ "$(readlink /proc/$keeper/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do pause $keeper; done
    first=$keeper
    case " $* " in *" -p "*) # unshare has forked, and its child is process 1 of that host
        until first=$(tr -d ' ' <"/proc/$keeper/task/$keeper/children") && [ -n "$first" ]; do pause $keeper; done ;;
    esac
    until [ "$(cat "/proc/$first/comm")" = sleep ]; do pause $keeper; done
    echo "$first" >"$state/$name.pid"
}

inside() { # NAME COMMAND...
    local name=$1
    shift
    nsenter -t "$(cat "$state/$name.pid")" -a --wd="$PWD" -- "$@"
}

processes() { # NAME: all that are in its network
    local own path
    own=$(readlink "/proc/$(cat "$state/$1.pid")/ns/net")
    for path in /proc/[0-9]*; do
        [ "$(readlink "$path/ns/net" 2>/dev/null)" != "$own" ] || echo "${path#/proc/}"
    done
}

up() {
    local number=10 name
    mkdir -p "$state"
    echo "127.0.0.1 localhost" >"$state/hosts"
    for name in "$@"; do number=$((number + 1)) && echo "$net.$number $name" >>"$state/hosts"; done
    start .switch -n
    inside .switch sh -c "ip link set lo up; ip link add br0 type bridge; ip link set br0 up"
    number=10
    for name in "$@"; do
        number=$((number + 1))
        if [ "$number" = 11 ]; then start "$name" -n -u -m; else start "$name" -n -u -m -p -f --mount-proc; fi
        ip link add "q$$" type veth peer name eth0 netns "$(cat "$state/$name.pid")"
        ip link set "q$$" netns "$(cat "$state/.switch.pid")" name "$name"
        inside .switch ip link set "$name" master br0 up
        inside "$name" sh -c "hostname $name; ip link set lo up; ip addr add $net.$number/24 dev eth0
            ip link set eth0 up; mount --bind $state/hosts /etc/hosts"
    done
}

command=$1
shift
case $command in
up) up "$@" ;;
exec) inside "$@" ;;
ssh)
    while [[ $1 == -* ]]; do shift; done
    name=$1
    shift
    status=0
    own=$(mktemp -d -p "$state") # process numbers repeat, and daemons name their folders by them
    inside "$name" env -i HOME="$HOME" PATH=/usr/bin:/bin TMPDIR="$own" bash -c "$*" || status=$?
    until inside .switch ip link show "$name" up | grep -q .; do sleep 0.2; done # ssh would not know
    exit "$status" ;;
cut) inside .switch ip link set "$1" down ;;
join)
    inside .switch ip link set "$1" up
    # Its ends learn of it in their own time, and keep for a while whom they could not reach.
    until inside "$1" ip link show eth0 | grep -q 'state UP' \
        && inside .switch ip -d link show "$1" | grep -q 'state forwarding'; do sleep 0.1; done
    while read -r _ name; do
        [ ! -e "$state/$name.pid" ] || inside "$name" ip neigh flush all
    done <"$state/hosts" ;;
crash)
    "$self" cut "$1"
    while read -r pid; do kill -9 "$pid" 2>/dev/null || true; done < <(processes "$1") ;;
down)
    for file in "$state"/*.pid "$state"/.switch.pid; do
        [ ! -e "$file" ] || while read -r pid; do kill -9 "$pid" 2>/dev/null || true; done \
            < <(processes "$(basename "$file" .pid)")
        rm -f "$file"
    done ;;
*) echo "unknown: $command" >&2 && exit 2 ;;
esac
