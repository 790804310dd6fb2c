#!/usr/bin/env bash
# Builds the program and runs its main job on the demo model, which is linked into it: measures the
# model on held-out text, then lets it write. Prints each command before running it.
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
show build/release/planish eval demo --text models/text/sample.txt
show build/release/planish generate demo --prompt "The old man looked at the sea and" --tokens 60 --greedy
