#!/usr/bin/env bash
# Files that planish wrote, read by the packages that others read them with: gguf (llama.cpp's), safetensors.
# Skips with a line when the registry of packages does not answer.
#   tests/judge_files.sh PROGRAM SOURCE_DIR
set -euo pipefail
program=$1 source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ! (cd "$work" && python3 -m venv venv &&
      timeout 120 venv/bin/pip install -q --disable-pip-version-check gguf safetensors numpy) > "$work/pip.log" 2>&1; then
  echo "skipped: packages gguf, safetensors, numpy cannot be installed here: $(tail -1 "$work/pip.log")"
  exit 0
fi
"$work/venv/bin/python" "$source/tests/judge_files.py" "$program" "$source" "$work"
