#!/usr/bin/env bash
# Checks the order of the layers: a file in src/<x>/ (tests too) may include only src/<x>/ and the
# layers before it, and every #include "..." names the folder of a layer. bench/ and fuzz/ may include
# every layer, and their own folder. Also: every folder of src/ is in the list, and CMakeLists.txt
# declares the layers in the order of the list.
#
#   tools/check_layers.sh [ROOT]       check the tree at ROOT (default: this repository)
#   tools/check_layers.sh --self-test  show that made-up violations are caught
#
# Exit status: 0 in order, 1 violations (each printed as file:line: reason).
set -euo pipefail

layers="base tensor math formats grids layer model runtime calibrate methods evaluate pipeline export serve apps"

check_includes() {
  local root=$1
  (
    cd "$root"
    for folder in src bench fuzz; do
      [ -d "$folder" ] || continue
      find "$folder" -type f \
        \( -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' -o -name '*.inc' \) -print
    done | LC_ALL=C sort | tr '\n' '\0' | xargs -0 -r grep -HnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' || true
  ) | awk -v layers="$layers" '
    BEGIN { n = split(layers, list, " "); for (i = 1; i <= n; ++i) rank[list[i]] = i }
    {
      split($0, field, ":"); file = field[1]; line = field[2]
      match($0, /"[^"]*"?/); target = substr($0, RSTART + 1, RLENGTH - 1); sub(/".*/, "", target)
      split(file, path, "/"); split(target, part, "/")
      from = (path[1] == "src") ? path[2] : path[1]
      to = (index(target, "/") > 0) ? part[1] : ""
      place = file ":" line ": "
      if (path[1] != "src" && to == from) next
      if (!(to in rank)) {
        print place "#include \"" target "\" does not name the folder of a layer (write \"layer/file.h\", or <...> for a library)"
      } else if (path[1] == "src" && from in rank && rank[to] > rank[from]) {
        print place "layer " from " includes \"" target "\", but " to " comes after it"
      }
    }'
}

check_folders() {
  local root=$1 folder
  for folder in "$root"/src/*; do
    case " $layers " in
      *" ${folder##*/} "*) ;;
      *) echo "src/${folder##*/}:0: not a layer (the list is in tools/check_layers.sh)" ;;
    esac
  done
}

check_cmake_order() {
  local root=$1
  [ -f "$root/CMakeLists.txt" ] || return 0
  awk -v layers="$layers" '
    BEGIN { n = split(layers, list, " "); for (i = 1; i <= n; ++i) rank[list[i]] = i; last = 0 }
    /^planish_layer\(/ {
      name = $0; sub(/^planish_layer\(/, "", name); sub(/[ )].*/, "", name)
      place = "CMakeLists.txt:" FNR ": "
      if (!(name in rank)) { print place name " is not a layer"; next }
      if (rank[name] <= last) print place "layer " name " stands too late"
      last = rank[name]
    }' "$root/CMakeLists.txt"
}

check_tree() {
  check_includes "$1"
  check_folders "$1"
  check_cmake_order "$1"
}

# Each made-up tree differs from a clean one by one line; exactly that line must be reported.
self_test() {
  local scratch failures=0
  scratch=$(mktemp -d)
  # shellcheck disable=SC2064  # expanded now: the variable is local
  trap "rm -rf '$scratch'" EXIT

  clean_tree() {
    rm -rf "${scratch:?}/tree"
    mkdir -p "$scratch"/tree/src/{base,math,apps,methods/round} "$scratch"/tree/{bench,fuzz}
    printf '#include <vector>\n#include "base/check.h"\n' > "$scratch/tree/src/base/check.cc"
    printf '#include "base/check.h"\n// #include "apps/cli.h" in a comment\n' > "$scratch/tree/src/math/gemm.cc"
    printf '#include "methods/round/a.h"\n#include "math/gemm.h"\n' > "$scratch/tree/src/methods/round/a.cc"
    printf '#include "apps/cli.h"\n#include "bench/peak.h"\n' > "$scratch/tree/bench/a_bench.cc"
    printf 'planish_layer(base)\nplanish_layer(math LIBS x)\n' > "$scratch/tree/CMakeLists.txt"
  }
  expect() {  # name, expected output as a glob ('' for none)
    local found
    found=$(check_tree "$scratch/tree")
    # shellcheck disable=SC2053  # a glob on purpose
    if [[ $found == $2 ]]; then
      echo "ok: $1"
    else
      echo "FAILED: $1: expected '$2', found '$found'"
      failures=$((failures + 1))
    fi
  }

  clean_tree
  expect "a clean tree" ""
  clean_tree
  echo '#include "methods/round/a.h"' >> "$scratch/tree/src/math/gemm.cc"
  expect "an include of a later layer" "src/math/gemm.cc:3: layer math includes *methods comes after it"
  clean_tree
  echo '  #  include "math/gemm.h"' > "$scratch/tree/src/base/check_test.cc"
  expect "a test is no exception" "src/base/check_test.cc:1: layer base includes *math comes after it"
  clean_tree
  echo '#include "gemm.h"' > "$scratch/tree/src/math/gemm.h"
  expect "an include without a folder" "src/math/gemm.h:1: *does not name the folder of a layer*"
  clean_tree
  echo '#include "gtest/gtest.h"' > "$scratch/tree/fuzz/a_fuzz.cc"
  expect "a library in quotes" "fuzz/a_fuzz.cc:1: *does not name the folder of a layer*"
  clean_tree
  mkdir "$scratch/tree/src/util"
  expect "a folder that is no layer" "src/util:0: not a layer*"
  clean_tree
  printf 'planish_layer(math)\nplanish_layer(base)\n' > "$scratch/tree/CMakeLists.txt"
  expect "layers declared out of order" "CMakeLists.txt:2: layer base stands too late"
  [ "$failures" -eq 0 ]
}

if [ "${1:-}" = --self-test ]; then
  self_test
  exit
fi
root=${1:-$(cd "$(dirname "$0")/.." && pwd)}
if [ ! -d "$root/src" ]; then
  echo "$root: no folder src here" >&2
  exit 1
fi
found=$(check_tree "$root")
if [ -n "$found" ]; then
  echo "$found"
  exit 1
fi
echo "layers in order"
