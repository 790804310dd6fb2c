#!/usr/bin/env bash
# The program from outside: exit codes, messages, JSON, the same results for any number of threads,
# a full disk.
#   tests/cli_test.sh PROGRAM SOURCE_DIR
set -uo pipefail
program=$1 source=$2
work=$(mktemp -d)
trap 'umount "$work/small" 2> /dev/null; rm -rf "$work"' EXIT
passed=0 failed=0
text=$source/models/text/sample.txt

# expect CODE PATTERN COMMAND...: exit status and a pattern in the output.
expect() {
  local code=$1 pattern=$2 output status=0
  shift 2
  output=$("$@" 2>&1) || status=$?
  if [ "$status" -eq "$code" ] && grep -qE -- "$pattern" <<< "$output"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED (status $status, expected $code; pattern '$pattern'): $*"
    head -5 <<< "$output"
  fi
}

expect 0 'eval.*generate|generate' "$program" --help
for verb in eval generate logits inspect calibrate compress grids completion bench pack diff; do
  expect 0 'Examples' "$program" "$verb" --help
done
expect 2 'required|subcommand' "$program"
expect 2 'not expected' "$program" eval demo --text "$text" --no-such-option
expect 2 'no such folder' "$program" inspect "$work/none"
expect 2 'cannot open' "$program" eval demo --text "$work/none.txt"
expect 2 'UTF-8' "$program" generate demo --prompt $'\xff\xfe' --tokens 2
expect 2 'has id 999999' "$program" logits demo --ids 1,999999
expect 2 'expected numbers' "$program" logits demo --ids 1,x
expect 2 '--isa' "$program" logits demo --ids 1 --isa sse9
expect 2 'give --calibration' "$program" compress demo -o "$work/c"
: > "$work/empty.txt"
expect 2 'the text is empty' "$program" compress demo -o "$work/c" --calibration "$work/empty.txt"
expect 2 'cannot create|No such file|cannot' "$program" compress demo -o /proc/none/x --calibration "$text" --windows 2 --context 32
printf '[[stage]]\nmethod = "gptq"\nbist = 3\n' > "$work/recipe.toml"
expect 2 "bits" "$program" compress demo -o "$work/c" --recipe "$work/recipe.toml" --calibration "$text"
expect 0 '"logits"' "$program" logits demo --ids 5,6,7 --json
expect 0 'complete' "$program" completion bash

# A model folder without a tokenizer takes ids.
mkdir "$work/bare"
cp "$source"/models/demo/config.json "$source"/models/demo/model.safetensors "$work/bare"
expect 0 'position' "$program" logits "$work/bare" --ids 5,6,7
head -c 100000 "$source/models/demo/model.safetensors" > "$work/bare/model.safetensors"
expect 2 'model.safetensors' "$program" logits "$work/bare" --ids 5

# Numbers do not depend on threads.
for threads in 1 2 3; do
  "$program" eval demo --text "$text" --tokens 3000 --threads $threads --json --quiet | grep -v seconds > "$work/eval$threads"
done
expect 0 '' cmp "$work/eval1" "$work/eval2"
expect 0 '' cmp "$work/eval1" "$work/eval3"
expect 0 '"tokens": 299[0-9]' cat "$work/eval1"
"$program" generate demo -p "The sea" --tokens 12 --seed 4 --quiet > "$work/a"
"$program" generate demo -p "The sea" --tokens 12 --seed 4 --quiet --threads 1 > "$work/b"
expect 0 '' cmp "$work/a" "$work/b"

# Ctrl-C: 130, and the state to go on from.
"$program" compress demo -o "$work/int" --calibration "$text" --windows 16 --context 512 --quiet > "$work/log" 2>&1 &
pid=$!
sleep 1
kill -INT $pid
wait $pid
status=$?
expect 0 '^130$' echo "$status"
expect 0 'the same command goes on' cat "$work/log"

# calibrate, then compress from its file: the same bytes as in one go.
small=(--windows 4 --context 128)
"$program" calibrate demo --text "$text" -o "$work/stats" "${small[@]}" --quiet > /dev/null
"$program" compress demo -o "$work/one" --mode independent --states fp32 --calibration "$text" "${small[@]}" --quiet > /dev/null
expect 0 'bits per weight' "$program" compress demo -o "$work/two" --mode independent --states fp32 --calibration "$text" "${small[@]}" --statistics "$work/stats" --quiet
expect 0 '' cmp "$work/one/model.safetensors" "$work/two/model.safetensors"
expect 0 'already there' "$program" compress demo -o "$work/one" --mode independent --states fp32 --calibration "$text" "${small[@]}" --quiet
expect 2 'already compressed' "$program" compress "$work/one" -o "$work/three" --calibration "$text" "${small[@]}" --quiet
expect 0 'int4 g128' "$program" inspect "$work/one" --fast

# A disk that fills up: a clear failure, nothing under the final name, and the rest once there is room.
mkdir "$work/small"
if mount -t tmpfs -o size=3m tmpfs "$work/small" 2> /dev/null; then
  expect 1 'No space left' "$program" compress demo -o "$work/small/out" --calibration "$text" "${small[@]}" --quiet
  expect 1 '' test -e "$work/small/out"
  mount -o remount,size=64m "$work/small"
  expect 0 'bits per weight' "$program" compress demo -o "$work/small/out" --calibration "$text" "${small[@]}" --quiet
else
  echo "skipped: full disk (cannot mount a small file system here)"
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
