#!/usr/bin/env bash
# weft launch on two real clusters: launch.sh WEFT SOURCE MODE [KILL_AT EVERY]
#   late    one command trains at both; the second site comes late and joins the running job; an invitation of another authority is
#           refused; the command is killed and watches again; --stop ends both with a checkpoint
#   killed  the command killed at each (or each EVERY-th, from a random one on) of its changes of the file system: the next one
#           adopts, and there is one job
#   ssh     the second site by ssh to an sshd of the test's own, which is not there at first, and goes away for a while
mode=$3 kill_at=${4-} every=${5-1}
. "$(dirname "$0")/lib.sh"
bed_up --cluster north:2 --cluster south:2

# config STEPS EXTRA_OF_SOUTH
config() {
  "$weft" data synth synth.wtok.h5 --vocab 32 --tokens 60000 >/dev/null
  cat >run.yaml <<Y
run: {name: far, seed: 3, threads: 1}
model: {family: llama, layers: 2, hidden: 32, heads: 4, kv_heads: 2, ffn: 64, context: 32}
data: {train: $work/synth.wtok.h5, valid: $work/synth.wtok.h5}
train: {steps: $1, batch: 16, micro_batch: 2}
optim: {name: adamw, lr: 3e-3, schedule: constant}
eval: {windows: 16}
save: {every: 100}
sites: {every: 20, chunk: 4096, audit: 1, patience: 600}
launch:
  hub: {site: north, listen: "127.0.0.1:0"}
  sites:
    north: {weft: $paced, conf: $bed/north/slurm.conf, nodes: 2, time: "30", dir: $work/north}
    south: {weft: $paced, conf: $bed/south/slurm.conf, nodes: 2, time: "30", dir: $work/south, extra: [$2]}
Y
}
jobs_of() { SLURM_CONF=$bed/$1/slurm.conf squeue -h -t all -o '%i %T %k' | grep -c "weft:far-[0-9a-f]*:$1:" || true; }
alive() { SLURM_CONF=$bed/$1/slurm.conf squeue -h -o '%i %T %k' | grep -c "weft:far-[0-9a-f]*:$1:" || true; }
rounds() { cat "$1/run/metrics.jsonl" 2>/dev/null | grep -c '"ev":"outer".*"sites":2' || true; }
has_rounds() { [ "$(rounds "$1")" -ge "$2" ]; }
steps_of() { cat "$1/run/metrics.jsonl" 2>/dev/null | grep -c '"ev":"step"\|"loss/train"' || true; }
trains() { [ "$(steps_of "$1")" -ge "$2" ]; }
show() { tail -n 15 launch*.log "$work"/*/slurm-*.out "$work"/*/train.*.log "$work/north/hub.log" >&2 2>/dev/null || true; }

late() {
  config 1000000 "\"--begin=now+15\""
  "$weft" launch run.yaml --poll 1 >launch.log 2>&1 &
  local p=$! code=0
  until_true 300 trains north 20 || { show; fail "north does not train alone"; }
  [ "$(steps_of south)" = 0 ] || fail "south was not late: the test proves nothing"
  until_true 400 has_rounds north 4 || { show; fail "no rounds of two sites at north"; }
  until_true 300 has_rounds south 4 || { show; fail "no rounds of two sites at south"; }
  grep -q 'south: training' launch.log || { show; fail "the command has not seen south train"; }

  # another authority's invitation
  "$weft" hub --dir other --listen 127.0.0.1:0 --run far >other.log 2>&1 &
  local o=$!
  until_true 60 test -s other/address || fail "the other hub does not listen"
  "$weft" hub invite south --dir other --out wrong.json
  kill $o
  wait $o || true
  "$weft" train run.yaml --site south --invite wrong.json --join "@$work/north/hub.addr" --set run.dir="$work/wrong" \
    --set sites.patience=5 >wrong.log 2>&1 || code=$?
  [ $code = 76 ] || [ $code = 77 ] || [ $code = 69 ] || { cat wrong.log; fail "the wrong authority's invitation: $code"; }
  ! grep -q '"sites":3' north/run/metrics.jsonl || fail "a stranger took part"

  # killed, it comes back; beside it nobody else watches
  kill -KILL $p
  wait $p 2>/dev/null || true
  "$weft" launch run.yaml --poll 1 >launch2.log 2>&1 &
  p=$!
  until_true 60 grep -q 'north: training' launch2.log || { show; fail "the second command does not see north train"; }
  code=0
  "$weft" launch run.yaml --poll 1 >launch3.log 2>&1 || code=$?
  [ $code != 0 ] && grep -q 'another weft launch' launch3.log || { cat launch3.log; fail "two commands watch one run"; }
  "$weft" launch run.yaml --status --json >status.json || fail "--status beside it"
  grep -q '"site": "north", "phase": "training"' status.json || { cat status.json; fail "--status does not know"; }
  [ "$(jobs_of north) $(jobs_of south)" = "1 1" ] || fail "jobs: $(jobs_of north) at north, $(jobs_of south) at south"

  "$weft" launch run.yaml --poll 1 --stop >stop.log 2>&1 || { show; fail "--stop ended with $?"; }
  code=0
  wait $p || code=$?
  [ $code = 85 ] || { cat launch2.log; fail "the stopped run ended with $code"; }
  [ "$(alive north)$(alive south)" = 00 ] || fail "a job lives on"
  for s in north south; do
    "$weft" ckpt verify "$s/run/checkpoints/latest" >/dev/null || { show; fail "$s has saved nothing"; }
    grep -q "^$s .* ended .*" launch2.log || { cat launch2.log; fail "no table at the end"; }
  done
  "$weft" hub verify-log north/hub >/dev/null || fail "the hub's log"
  "$weft" launch run.yaml --status --json >after.json || fail "--status of a run that has ended"
  python3 -c 'import json
for l in open("after.json"):
    x = json.loads(l)
    assert x["exit"] == 85 and x["core_hours"] > 0 and x["bytes"] > 0, x' || { cat after.json; fail "no hours or bytes"; }
  echo "rounds of two sites: $(rounds north) at north, $(rounds south) at south"
}

# The jobs wait in the queue for good: what counts is how many there are.
killed() {
  local n rc=0 killed=0 submitted=0
  config 10 "\"--begin=now+3600\""
  sed -i 's/dir: \([^ ,}]*north\)}/dir: \1, extra: ["--begin=now+3600"]}/' run.yaml
  n=$((1 + ${WEFT_SEED:-$RANDOM} % every))
  echo "WEFT_SEED=$((n - 1))"
  for (( ; n < 400; n += every)); do
    rc=0
    rm -rf north south run.launch.json*
    # the jobs do not inherit what kills the command
    { LD_PRELOAD=$kill_at WEFT_KILL_AT=$n SBATCH_EXPORT=NONE timeout 300 "$weft" launch run.yaml --poll 0.5 --settle 1 --detach >killed.log 2>&1; } 2>/dev/null || rc=$?
    [ $rc = 137 ] || break
    killed=$((killed + 1))
    [ "$(alive north)" -le 1 ] && [ "$(alive south)" -le 1 ] || fail "killed at call $n it left two jobs"
    submitted=$((submitted + $(alive north) + $(alive south)))
    timeout 300 "$weft" launch run.yaml --poll 0.5 --settle 1 --detach >again.log 2>&1 || { cat again.log; fail "after a kill at call $n"; }
    [ "$(alive north) $(alive south)" = "1 1" ] || { cat again.log; fail "after a kill at call $n: $(alive north) and $(alive south) jobs"; }
    timeout 300 "$weft" launch run.yaml --poll 0.5 --stop >stop.log 2>&1 || { cat stop.log; fail "--stop"; }
    [ "$(alive north)$(alive south)" = 00 ] || { cat stop.log; fail "--stop left a job in the queue"; }
  done
  [ $rc = 0 ] || { cat killed.log; fail "not killed any more, it ended with $rc"; }
  echo "killed $killed times, $submitted jobs were there already"
  # a few kills may all have come before the first submission
  [ $killed -ge $((10 / every)) ] && { [ $submitted -ge 1 ] || [ "$every" -gt 1 ]; } || fail "hardly ever killed at the moment that counts"
}
# An sshd on a port of its own; `sshd_up` and `sshd_down` as often as one likes.
sshd_up() {
  "$(command -v sshd)" -D -e -f "$work/ssh/conf" >>"$work/ssh/log" 2>&1 &
  sshd=$!
  until_true 60 listens || { cat "$work/ssh/log" >&2; fail "sshd does not listen"; }
}
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }
# The one that listens, and those that serve a session.
sshd_down() {
  local children
  children=$(pgrep -P "$sshd" || true)
  # shellcheck disable=SC2086
  kill "$sshd" $children 2>/dev/null || true
  wait "$sshd" 2>/dev/null || true
}
free_port() {
  local p
  for p in $(shuf -i 20000-30000 -n 50); do
    (exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null || { echo "$p"; return; }
  done
}
says() { grep -q "$1" launch.log; }

ssh() {
  command -v sshd ssh-keygen >/dev/null || { echo "no OpenSSH server here"; exit 77; }
  local p code=0 # port: sshd_up's too
  port=$(free_port)
  mkdir -m 700 ssh
  [ "$(id -u)" != 0 ] || mkdir -p /run/sshd
  ssh-keygen -q -t ed25519 -N '' -f ssh/host
  ssh-keygen -q -t ed25519 -N '' -f ssh/user
  cp ssh/user.pub ssh/authorized
  cat >ssh/conf <<Y
Port $port
ListenAddress 127.0.0.1
HostKey $work/ssh/host
AuthorizedKeysFile $work/ssh/authorized
PidFile none
PasswordAuthentication no
StrictModes no
UsePAM no
PrintMotd no
Y
  echo "[127.0.0.1]:$port $(cut -d' ' -f1,2 ssh/host.pub)" >ssh/known
  config 1000000 ""
  sed -i "s#^    south: {#&driver: ssh, host: 127.0.0.1, ssh: [-p, $port, -i, $work/ssh/user, -F, none, -oIdentitiesOnly=yes, -oUserKnownHostsFile=$work/ssh/known], #" run.yaml
  "$weft" launch run.yaml --poll 1 >launch.log 2>&1 &
  p=$!
  until_true 120 says 'south: does not answer' || { show; fail "a site that cannot be reached is not said to be so"; }
  until_true 300 trains north 20 || { show; fail "north waits for a site that it does not need"; }
  sshd_up
  until_true 400 has_rounds south 2 || { show; cat ssh/log >&2; fail "south has not joined"; }
  until_true 300 says 'south: training' || { show; fail "the command has not seen south train"; }
  sshd_down
  until_true 200 says 'south: does not answer; training' || { show; fail "that ssh is gone is not noticed"; }
  local before
  before=$(rounds south)
  until_true 300 has_rounds south $((before + 2)) || { show; fail "south does not train on without ssh"; }
  sshd_up
  until_true 200 eval '[ "$(grep "south: " launch.log | tail -n 1 | grep -c "does not answer")" = 0 ]' || { show; fail "south is not found again"; }
  [ "$(jobs_of south)" = 1 ] || fail "$(jobs_of south) jobs at south"
  [ "$(stat -c %a south/invite.json)" = 600 ] || fail "others can read the invitation"
  cmp run.yaml south/run.yaml || fail "the run file has changed on its way"
  "$weft" launch run.yaml --poll 1 --stop >stop.log 2>&1 || { show; fail "--stop ended with $?"; }
  wait $p || code=$?
  [ $code = 85 ] || { cat launch.log; fail "the stopped run ended with $code"; }
  [ "$(alive north)$(alive south)" = 00 ] || fail "a job lives on"
  sshd_down
  # who is not let in is no site
  rm ssh/authorized
  touch ssh/authorized
  sshd_up
  "$weft" launch run.yaml --poll 1 --status >refused.log 2>&1 || true
  grep -q 'south.*does not answer.*ermission denied' refused.log || { cat refused.log; fail "ssh's own words are not shown"; }
  sshd_down
}
$mode
echo ok
