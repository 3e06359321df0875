#!/usr/bin/env bash
# weft health as slurmd calls it, by the wrapper that slurm/health/install writes: as HealthCheckProgram a node that fails is
# drained with the findings as the reason, and comes back when an administrator says so; as Prolog it keeps the job from
# starting there. A node that is well stays idle and runs jobs.
# Usage: health.sh WEFT_BINARY SOURCE_DIR
. "$(dirname "$0")/lib.sh"
bed_up --cluster north:2
conf=$SLURM_CONF
state() { sinfo -h -N -n "$1" -o %t; }
is() { [[ $(state "$1") == $2* ]]; }

# The folder that the check writes to is a node's own: a file in its place breaks that node, and only it.
mkdir -p scratch/n1 scratch/n2
cat >break.sh <<'S'
#!/bin/sh
exec "$0.real" "$@" --dir "SCRATCH/$SLURMD_NODENAME"
S
install() { # OPTIONS...: the wrapper, and between it and weft a word of which folder is the node's
  "$top/slurm/health/install" --to "$work/check" --weft "$work/break.sh" --conf "$conf" "$@" >lines.txt
}
sed -i "s,SCRATCH,$work/scratch," break.sh
chmod 755 break.sh
ln -sf "$weft" break.sh.real
breaks() { rm -rf "scratch/$1"; echo x >"scratch/$1"; }
mends() { rm -f "scratch/$1"; mkdir "scratch/$1"; }

# --- as HealthCheckProgram
install
grep -qx "HealthCheckProgram=$work/check" lines.txt || fail "the installer does not say what to write into slurm.conf"
printf 'HealthCheckProgram=%s\nHealthCheckInterval=1\nHealthCheckNodeState=ANY\n' "$work/check" >>"$conf"
breaks n2
timeout 600 scontrol reconfigure
until_true 200 is n2 drain || fail "n2 is not drained: $(sinfo -h -N -o '%N %t %E')"
scontrol show node n2 >node.txt
grep -q 'Reason=weft health: .*/scratch/n2: opening a file in it failed: Not a directory' node.txt || { cat node.txt >&2; fail "the reason says nothing"; }
is n1 idle || fail "n1 is well, but $(state n1)"
# mended. (The check every second leaves slurmctld no time to ask whether the node answers: it goes first.)
mends n2
sed -i '/^HealthCheck/d' "$conf"
timeout 600 scontrol reconfigure
runs_on_both() {
  is n2 drain && scontrol update NodeName=n2 State=RESUME # again: a check that began before may come late
  [ "$(timeout 60 srun --immediate=20 -N2 -n2 echo ran 2>/dev/null | grep -c ran)" = 2 ]
}
until_true 300 runs_on_both || fail "n2 is mended, but $(sinfo -h -N -o '%N %t %E')"

# --- as Prolog: exit code 2 drains, the job waits or goes elsewhere
install --no-drain
! grep -q -- --drain check || fail "--no-drain"
printf 'Prolog=%s\nPrologFlags=Alloc\n' "$work/check" >>"$conf"
timeout 600 scontrol reconfigure
[ "$(timeout 600 srun -N2 -n2 echo ran | grep -c ran)" = 2 ] || fail "the Prolog stops jobs on sound nodes"
breaks n1
timeout 100 srun -N1 -w n1 true >out.txt 2>&1 &
until_true 200 is n1 drain || fail "n1 failed its Prolog, but $(state n1)"
is n2 idle || fail "n2 is well, but $(state n2)"
scancel --user="$(id -un)"
wait || true
echo ok
