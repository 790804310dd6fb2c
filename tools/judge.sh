#!/usr/bin/env bash
# What transformers, peft, compressed-tensors, auto-gptq and autoawq make of what planish wrote, and planish of
# what they wrote. By hand, as torch is large (about 1 GB installed); outcomes are in docs/judged.md.
#   tools/judge.sh PROGRAM [MODEL ...]        models: Hugging Face folders; default: models/demo
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
program=$(realpath "$1")
shift
[ $# -gt 0 ] || set -- "$here/models/demo"
venv=${JUDGE_VENV:-/tmp/venv-judge}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
if ! "$venv/bin/python" -c "import torch, transformers, peft, compressed_tensors" 2> /dev/null; then
  nice "$venv/bin/pip" install -q torch numpy safetensors transformers peft compressed-tensors
fi
# Without what they ask for, which is older: a few of their files are loaded by path.
"$venv/bin/pip" show -q auto-gptq 2> /dev/null || nice "$venv/bin/pip" install -q --no-deps auto-gptq==0.7.1
"$venv/bin/pip" show -q autoawq 2> /dev/null ||
  nice "$venv/bin/pip" install -q --no-deps --no-build-isolation autoawq==0.2.9  # its setup asks for torch
for model in "$@"; do
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  nice "$venv/bin/python" "$here/tools/judge_transformers.py" "$program" "$model" "$here/models/text/sample.txt" "$work"
  if grep -q '"model_type": *"gpt2"' "$model/config.json"; then
    echo "not judged: quantized forms of $model, whose matrices are stored [in, out]"
  else
    nice "$venv/bin/python" "$here/tools/judge_quantized.py" "$program" "$model" "$here/models/text/sample.txt" "$work"
    nice "$venv/bin/python" "$here/tools/judge_checkpoints.py" "$program" "$model" "$here/models/text/sample.txt"
  fi
  rm -rf "$work"
done
