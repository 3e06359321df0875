#!/usr/bin/env bash
# `weft doctor` on a real cluster: no complaint on the login side, in a batch script and in a step; what is then set wrongly is named.
# Usage: doctor.sh WEFT_BINARY SOURCE_DIR root|user
. "$(dirname "$0")/lib.sh"
user=()
[ "$3" = root ] || user=(--user)
[ "$3" != root ] || [ "$(id -u)" = 0 ] || { echo "skipped: not root"; exit 77; }
bed_up --cluster north:2 "${user[@]}"
# sound FILE: Slurm was asked, and nothing of it is BAD. (Notes are of this machine: other people's leftovers, its limits.)
sound() {
  grep -q '^ok .*cluster north' "$1" || { cat "$1" >&2; fail "the cluster did not answer"; }
  ! grep -E '^BAD +Slurm' "$1" || { cat "$1" >&2; fail "a complaint about a sound cluster"; }
}
doctor() { "$weft" doctor >"$1" 2>&1 || true; }
doctor login.txt
sound login.txt
printf '#!/bin/bash\n%q doctor >batch.txt\nsrun -n1 %q doctor >step.txt\n' "$weft" "$weft" >job.sh
timeout 300 sbatch --wait -N1 -c2 --output=job.out job.sh >/dev/null || true # doctor may end with 69 for another reason
sound batch.txt
sound step.txt
grep -q 'cores of a task.* is 2' batch.txt || { cat batch.txt >&2; fail "SRUN_CPUS_PER_TASK is missing in the script, and nobody says so"; }
! grep 'cores of a task' step.txt || fail "a step is told what is the script's"
[ "$3" = root ] || grep -q '^ok .*kept apart' step.txt || { cat step.txt >&2; fail "the bed's cure for one host name is not seen"; }

sed -i 's,^TmpFS=.*,TmpFS=/tmp,; s/^SchedulerParameters=.*/Prolog=\/bin\/true/' "$SLURM_CONF"
timeout 600 scontrol reconfigure
broken() { doctor login.txt && grep -qE '^BAD +Slurm: TmpFS +/tmp' login.txt && grep -qE '^note +Slurm: Prolog' login.txt; }
until_true 100 broken || { cat login.txt >&2; fail "TmpFS and Prolog are not named"; }
echo ok
