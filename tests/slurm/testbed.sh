#!/usr/bin/env bash
# The test bed: 8 ranks of a real training on 4 emulated nodes have the bits of one process; a node dies and comes back; nothing
# is left afterwards, even of a bed that was killed while it came up; a slurmd with a relative -f, which looks well and
# blocks every step, is named. As root and as a user without rights.
# Usage: testbed.sh WEFT_BINARY SOURCE_DIR root|user
. "$(dirname "$0")/lib.sh"
mode=$3
options=()
if [ "$mode" = root ]; then
  [ "$(id -u)" = 0 ] && unshare --uts true 2>/dev/null || { echo "not root, or no UTS namespaces" >&2; exit 77; }
else
  options=(--user)
  if [ "$(id -u)" = 0 ]; then
    as=(setpriv --reuid=daemon --regid=daemon --clear-groups env HOME=/tmp)
    "${as[@]}" test -x "$weft" -a -x "$testbed/up" 2>/dev/null || as=() # in a folder of root's
  fi
fi
[ ${#as[@]} = 0 ] || chown daemon "$work"
run() { "${as[@]}" "$@"; }

# Processes and shared memory of the bed. Everybody's: names of the bed are in their command lines, environments or files.
left() {
  {
    grep -lzF -- "$bed/" /proc/[0-9]*/cmdline /proc/[0-9]*/environ
    find /proc/[0-9]*/fd -maxdepth 1 -lname "$bed/*"
  } 2>/dev/null | cut -d/ -f3 | sort -u | while read -r p; do
    [ "$p" = $$ ] || [ "$p" = "$BASHPID" ] || ps -o pid=,stat=,args= -p "$p" | grep -v '^ *[0-9]* Z' || true
  done
  for p in $ports; do find /dev/shm -name "*-$p[._]*" -o -name "weft-*-$p[0-9][0-9]-*"; done
}
ports_of() { sed -n 's/^SlurmctldPort=//p' "$bed"/*/slurm.conf 2>/dev/null | paste -sd' ' || true; }
nothing_left() { [ -z "$(left)" ]; }
down() {
  ports=$(ports_of)
  unset SLURM_CONF
  run "$testbed/down" --dir "$bed"
  until_true 60 nothing_left || { left >&2; fail "something is left"; }
}
lines() { [ "$(grep -c "$1" "$2" 2>/dev/null)" -ge "$3" ]; }

# 1. a training over all nodes
bed_up "${options[@]}"
run "$testbed/status" --dir "$bed" || fail "a new bed is not well"
(
  [ ${#as[@]} = 0 ] || umask 0
  small_config
)
[ ${#as[@]} = 0 ] || chown daemon synth.wtok.h5 run.yaml
run timeout 300 srun -N4 -n8 --ntasks-per-node=2 --mpi=pmix "$weft" train -q run.yaml || fail "training over 4 nodes"
run timeout 300 "$weft" train -q run.yaml --set run.dir="$work/one" || fail "training in one process"
same run one || fail "8 ranks on 4 nodes and one process differ"
[ "$(SLURM_CONF=$bed/south/slurm.conf run timeout 600 srun -N3 -n3 sh -c 'echo $SLURMD_NODENAME' | sort | paste -sd' ')" = "s1 s2 s3" ] ||
  fail "the second cluster's nodes"

# 2. a node dies under a job and comes back
run timeout 300 srun --no-kill -N4 -n4 sh -c 'echo here; exec sleep 300' >job.txt 2>&1 &
until_true 60 lines here job.txt 4 || fail "a job on 4 nodes"
ports=$(ports_of)
[ -n "$(left)" ] || fail "the search for what is left finds nothing of a running job"
run "$testbed/kill-node" --dir "$bed" n2
if run "$testbed/status" --dir "$bed" >status.txt; then fail "a dead node is not noticed"; fi
grep -q 'n2: no slurmd' status.txt || fail "a dead node is not named"
run "$testbed/revive-node" --dir "$bed" n2
run "$testbed/status" --dir "$bed" >status.txt || fail "a revived node is not well"

# 3. a slurmd that was given a relative -f
run "$testbed/kill-node" --dir "$bed" n3
run sh -c "cd '$bed/north' && slurmd -N n3 -f slurm.conf"
until_true 60 test -s "$bed/north/run/slurmd.n3.pid"
if run "$testbed/status" --dir "$bed" >status.txt; then fail "a relative -f is not noticed"; fi
grep -q 'n3: .*relative -f' status.txt || fail "a relative -f is not named"
down # with a job on it
wait

# 4. killed while it comes up; the files deleted under it
for ms in 0.05 0.15 0.3; do
  run timeout -s KILL $ms "$testbed/up" --dir "$bed" "${options[@]}" >/dev/null 2>&1 || true
  down
done
bed_up "${options[@]}" --cluster alps:2
ports=$(ports_of)
run timeout 300 srun -N2 -n2 sleep 300 >job.txt 2>&1 &
running() { [ -n "$(squeue -h -t R)" ]; }
until_true 60 running || fail "a job on alps"
find "$bed" -mindepth 1 -delete
run "$testbed/down" --dir "$bed"
until_true 60 nothing_left || { left >&2; fail "something is left of a bed whose files were deleted"; }
wait
echo ok
