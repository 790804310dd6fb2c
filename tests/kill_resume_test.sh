#!/usr/bin/env bash
# kill -9 at random moments of `compress demo`: every run must go on to the same bytes.
#   tests/kill_resume_test.sh PROGRAM TEXT [KILLS]
set -euo pipefail
program=$1 text=$2 kills=${3:-20}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

compress() {
  "$program" compress demo -o "$1" --bits 3 --path-bits 0.2 --calibration "$text" --windows 8 --context 256 --quiet > "$work/log" 2>&1
}
digest() { (cd "$1" && sha256sum config.json model.safetensors planish.json tokenizer.json); }

begin=$(date +%s%N)
compress "$work/whole"
whole_ms=$((($(date +%s%N) - begin) / 1000000))
expected=$(digest "$work/whole")
passed=0 failed=0 resumed=0
RANDOM=1
for ((i = 1; i <= kills; ++i)); do
  out=$work/run$i
  compress "$out" &
  pid=$!
  delay=$((RANDOM * whole_ms / 32768))
  sleep "$(printf '%d.%03d' $((delay / 1000)) $((delay % 1000)))"
  pkill -9 -P $pid 2> /dev/null || true
  kill -9 $pid 2> /dev/null || true
  wait $pid 2> /dev/null || true
  [ -e "$out/config.json" ] || [ ! -e "$out.partial/journal.json" ] || resumed=$((resumed + 1))
  if compress "$out" && [ "$(digest "$out")" = "$expected" ] && [ ! -e "$out.partial" ]; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "kill after $delay ms: another result"
    cat "$work/log"
  fi
  rm -rf "$out" "$out.partial"
done
echo "one run takes $whole_ms ms; $kills kills, $resumed while a run was unfinished"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
