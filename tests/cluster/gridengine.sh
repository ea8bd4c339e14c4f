#!/bin/bash
# gridengine.sh SLOTS COMMAND...
# Run COMMAND inside a throw-away Grid Engine of one host with SLOTS slots. That host has a network,
# a name and processes of its own (so root alone may): what is left ends with it. Needs the packages
# in .ci/run, whose files stay as they are.
set -eu
if [ "${1-}" != --inside ]; then
  folder=$(mktemp -d "${TMPDIR:-/tmp}/qcmb-sge.XXXXXX")
  trap 'rm -rf "$folder"' EXIT
  unshare --net --uts --mount --pid --fork --mount-proc --kill-child --propagation private \
    bash "$0" --inside "$folder" "$@"
  exit
fi
folder=$2 slots=$3
shift 3

hostname n1
ip link set lo up
ip addr add 10.77.0.11/24 dev lo # a name for 127.0.0.1 is refused
printf '127.0.0.1 localhost\n10.77.0.11 n1\n' >"$folder/hosts"
mount --bind "$folder/hosts" /etc/hosts
chmod 755 "$folder"
for place in lib spool; do
  cp -a "/var/$place/gridengine" "$folder/$place"
  mount --bind "$folder/$place" "/var/$place/gridengine"
done
echo n1 >/var/lib/gridengine/default/common/act_qmaster
mkdir -p /run/gridengine
export SGE_ROOT=/var/lib/gridengine SGE_CELL=default SGE_QMASTER_PORT=6444 SGE_EXECD_PORT=6445

# qconf opens an editor on what is to change: this one is sed with the program in $CHANGE.
cat >"$folder/editor" <<'END'
#!/bin/sh
exec sed -i "$CHANGE" "$1"
END
chmod 755 "$folder/editor"
export EDITOR=$folder/editor
change() { CHANGE=$1 qconf "${@:2}" >/dev/null; }

sge_qmaster
for _ in $(seq 100); do ! qconf -sh >/dev/null 2>&1 || break; sleep 0.1; done
qconf -ah n1 >/dev/null 2>&1 || true
qconf -as n1 >/dev/null
change 's/^\(min_[ug]id\) .*/\1 0/; s/^\(execd_params\) .*/\1 NOTIFY_KILL=TERM/' -mconf
change 's/^\(schedule_interval\) .*/\1 0:0:1/; s/^\(flush_[a-z]*_sec\) .*/\1 1/' -msconf
for name in smp mpi; do
  change "s/^\\(pe_name\\) .*/\\1 $name/; s/^\\(slots\\) .*/\\1 $slots/; s/^\\(allocation_rule\\) .*/\\1 \\\$fill_up/" -ap "$name"
done
sge_execd
change "s/^\\(qname\\) .*/\\1 all.q/; s/^\\(hostlist\\) .*/\\1 n1/; s/^\\(slots\\) .*/\\1 $slots/
  s/^\\(pe_list\\) .*/\\1 smp mpi/; s/^\\(rerun\\) .*/\\1 TRUE/; s/^\\(notify\\) .*/\\1 0:0:5/
  s/^\\(load_thresholds\\) .*/\\1 NONE/; s/^\\(shell\\) .*/\\1 \\/bin\\/bash/" -aq
"$@"
