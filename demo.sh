#!/usr/bin/env bash
# Builds the program and runs its main job on the demo model, which is linked into it: compresses it to
# 3 bits with a small low-rank path, prints the damage on text it was not calibrated on, and lets both
# write. Prints each command before running it. The compressed model stays in build/demo3.
set -euo pipefail
cd "$(dirname "$0")"

tools/setup.sh build
cmake --preset release > /dev/null
cmake --build --preset release --target planish

show() {
  printf '\n$'
  printf ' %q' "$@"
  printf '\n'
  "$@"
}
planish=build/release/planish
rm -rf build/demo3
show "$planish" compress demo -o build/demo3 --bits 3 --path-bits 0.2 --calibration models/text/calibration.txt \
  --windows 32
show "$planish" eval demo build/demo3 --reference demo --text models/text/sample.txt
for model in demo build/demo3; do
  show "$planish" generate "$model" --prompt "The old man looked at the sea and" --tokens 60 --greedy
done
