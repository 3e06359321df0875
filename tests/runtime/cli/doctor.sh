#!/usr/bin/env bash
# `weft doctor` and Slurm: commands that stand in for Slurm's say what each pitfall looks like; doctor names it with its
# cure, and a sound cluster without complaint.
. "$(dirname "$0")/lib.sh"
mkdir bin conf
for p in srun scontrol sinfo; do
  cat >bin/$p <<S
#!/bin/bash
words="\$*"
for f in $PWD/say/$p-"\${words//[^a-z]/}" $PWD/say/$p; do
  [ ! -r "\$f" ] || { cat "\$f"; exit 0; }
done
echo "$p: error: nobody answers" >&2
exit 1
S
  chmod 755 bin/$p
done
export PATH=$PWD/bin:$PATH
unset SLURM_JOB_ID SLURM_STEP_ID SLURM_PMIX_FENCE SLURM_CPUS_PER_TASK SRUN_CPUS_PER_TASK SLURM_NTASKS_PER_NODE SLURMD_NODENAME OMPI_MCA_btl OMPI_MCA_btl_vader_backing_directory
export SLURM_CONF=$PWD/conf/slurm.conf

sound() { # a cluster without pitfalls
  rm -rf say
  mkdir say
  echo ClusterName=c >conf/slurm.conf
  rm -f conf/plugstack.conf
  cat >say/scontrol-showconfig <<S
Configuration data as of 2026-01-01T00:00:00
AuthInfo                = (null)
AuthType                = auth/none
ClusterName             = c
PMIxCollFence           = ring
PreemptMode             = OFF
PreemptParameters       = (null)
ProctrackType           = proctrack/linuxproc
Prolog                  = (null)
SchedulerParameters     = (null)
SlurmdPort              = 6818
SLURM_VERSION           = 22.05.8
TaskProlog              = (null)
TmpFS                   = /scratch/local
S
  printf 'NodeName=a1 Arch=x NodeAddr=10.0.0.1 NodeHostName=a1 Version=22\nNodeName=a2 Arch=x NodeAddr=10.0.0.2 NodeHostName=a2 Version=22\n' >say/scontrol-oshownode
  printf 'MPI plugin types are...\n\tpmix\n\tnone\n' >say/srun-mpilist
  : >say/sinfo
}
change() { sed -i "s|^\($1 *= \).*|\1$2|" say/scontrol-showconfig; }
doctor() { PATH=${path-$PATH} "$weft" doctor >out.txt 2>&1 || true; }
# names VERDICT SUBJECT FOUND MEND
names() {
  doctor
  grep -A1 -E "^$1 +$2 .*$3" out.txt | tail -n 1 | grep -qE -- "-> .*$4" || { cat out.txt >&2; fail "no '$1 $2 $3', or not with '$4'"; }
}
not() { doctor; ! grep -qE "^(note|BAD) +$1" out.txt || { cat out.txt >&2; fail "a complaint about $1"; }; }

sound
not 'Slurm: [^l]' # the limits are this shell's
grep -q 'ok .*cluster c, Slurm 22.05.8' out.txt || fail "the cluster is not named"
"$weft" doctor --json >out.json || true
python3 -c 'import json,sys; s = [json.loads(l)["subject"] for l in open("out.json")]; assert "Slurm: PMIx" in s' || fail "the findings in JSON"

SLURM_CONF=$PWD/conf/none names BAD 'Slurm: slurm.conf' 'cannot be read' 'export SLURM_CONF'
SLURM_CONF=conf/slurm.conf names BAD 'Slurm: slurm.conf' 'relative path' 'absolute'
rm say/scontrol-showconfig
names BAD 'Slurm: controller' 'nobody answers' 'scontrol ping'
sound; change AuthType auth/munge; change AuthInfo "socket=$PWD/no-munge"
names BAD 'Slurm: munge' 'no munged' 'start munged'
sound; change SLURM_VERSION 19.05.1
names note 'Slurm: controller' '19.05.1' 'overlap'
sound; printf 'MPI plugin types are...\n\tnone\n\tpmi2\n' >say/srun-mpilist
names BAD 'Slurm: PMIx' 'does not name pmix' 'mpi/pmix'
sound; change PMIxCollFence mixed
names note 'Slurm: PMIx fence' 'mixed' 'SLURM_PMIX_FENCE=ring'
SLURM_PMIX_FENCE=ring not 'Slurm: PMIx fence'

# two nodes on one host: their ports, their TmpFS, their host names
sound; sed -i 's/a2$/a1/; s/10.0.0.2/10.0.0.1/; s/NodeHostName=a2/NodeHostName=a1/' say/scontrol-oshownode
names BAD 'Slurm: ports' '1 nodes share' 'Port='
names BAD 'Slurm: TmpFS' '/scratch/local' 'TmpFS=/path/%n'
names note 'Slurm: host names' 'share a host' 'UTS'
change TmpFS '/scratch/%n'
sed -i '1s/Version/Port=7001 Version/; 2s/Version/Port=7002 Version/' say/scontrol-oshownode
not 'Slurm: (ports|TmpFS)'
OMPI_MCA_btl=tcp,self not 'Slurm: host names'

# inside a job
export SLURM_JOB_ID=7
SLURMD_NODENAME=a1 names BAD 'Slurm: host names' 'node a1 has the host name' 'OMPI_MCA_btl=tcp,self'
SLURMD_NODENAME=a1 OMPI_MCA_btl=tcp,self not 'Slurm: host names'
SLURMD_NODENAME=$(hostname) not 'Slurm: host names'
SLURM_CPUS_PER_TASK=4 names note 'Slurm: cores of a task' 'does not read it' 'SRUN_CPUS_PER_TASK'
SLURM_CPUS_PER_TASK=4 SLURM_STEP_ID=0 not 'Slurm: cores of a task'
SLURM_CPUS_PER_TASK=4 SRUN_CPUS_PER_TASK=4 not 'Slurm: cores of a task'
SLURM_NTASKS_PER_NODE=2 names note 'Slurm: tasks of a node' 'bends' 'unset'
mkdir none
path=$PWD/none names BAD 'Slurm' 'not on PATH' 'module load slurm'
unset SLURM_JOB_ID

# settings
sound; change Prolog /etc/prolog
names note 'Slurm: Prolog' 'holds the job' 'nohold_on_prolog_fail'
change SchedulerParameters 'bf_interval=5,nohold_on_prolog_fail'
not 'Slurm: Prolog'
sound; change PreemptMode REQUEUE
names note 'Slurm: preemption' 'REQUEUE' 'send_user_signal'
change PreemptParameters send_user_signal
not 'Slurm: preemption'
sound; change ProctrackType proctrack/cgroup
if [ -e /sys/fs/cgroup/unified/cgroup.procs ]; then
  names BAD 'Slurm: proctrack' 'both kinds' 'linuxproc'
else
  not 'Slurm: proctrack'
fi
printf 'a2: Low socket*core*thread count, Low CPUs\na3: Prolog error\na4: weft health: disk full\n' >say/sinfo
names note 'Slurm: nodes' 'a2: Low socket' 'config_overrides'
names note 'Slurm: nodes' 'a3: Prolog error' 'by hand'
names note 'Slurm: nodes' 'a4: weft health' 'weft health'
sound; printf 'optional %s/gone.so\n# required %s/gone.so\n' "$PWD" "$PWD" >conf/plugstack.conf
not 'Slurm: plugstack'
echo "required $PWD/gone.so" >>conf/plugstack.conf
names BAD 'Slurm: plugstack' 'gone.so is required and missing' 'optional'

# a slurmd that was started with a relative path (one that only looks like it)
sound
mkdir north; : >north/slurm.conf
cp "$(command -v tail)" slurmd
(exec ./slurmd -f north/slurm.conf) & # tail -f
p=$!
for _ in $(seq 3000); do grep -qa north /proc/$p/cmdline && break; sleep 0.1; done
names BAD 'Slurm: slurmd' "$p runs with -f north/slurm.conf" 'absolute'
kill $p; wait $p 2>/dev/null || true
(exec ./slurmd -f "$PWD/north/slurm.conf") &
p=$!
for _ in $(seq 3000); do grep -qa north /proc/$p/cmdline && break; sleep 0.1; done
doctor
! grep -q "process $p" out.txt || fail "an absolute path is called relative"
kill $p; wait $p 2>/dev/null || true
(ulimit -n 512; doctor; grep -A1 'Slurm: limits .*512 open files' out.txt | grep -q 'ulimit -n') || { cat out.txt >&2; fail "few open files"; }

rm -rf say; mkdir say; unset SLURM_CONF
if [ ! -e /etc/slurm/slurm.conf ]; then names note Slurm 'of no cluster' 'SLURM_CONF'; fi
path=$PWD/none doctor
grep -q '^ok *Slurm .*not here' out.txt || { cat out.txt >&2; fail "no Slurm is no fault"; }
echo ok
