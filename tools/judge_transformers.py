"""Logits of transformers and peft beside planish's, on what planish wrote of a model.

    judge_transformers.py PROGRAM MODEL TEXT WORK_DIR      (called by judge.sh)
"""
import os
import subprocess
import sys

import numpy as np
import peft
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

program, model, text, work = sys.argv[1:]
transformers.logging.set_verbosity_error()
IDS = [1, 17, 200, 3, 42, 7, 99, 250, 11, 5, 60, 61, 62, 133, 8, 9]


def path(name):
    return os.path.join(work, name)


def run(*args):
    subprocess.run([program, *args, "--quiet"], check=True, stdout=subprocess.DEVNULL)


def ours(folder, *extra):
    run("logits", folder, "--ids", ",".join(map(str, IDS)), "--last", "0", "-o", path("logits.npy"), *extra)
    return np.load(path("logits.npy"))


def theirs(module):
    with torch.no_grad():
        return module(torch.tensor([IDS])).logits[0].float().numpy()


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()


def compare(what, a, b, limit):
    worst, spread = np.abs(a - b).max(), a.std()
    verdict = "agree" if worst < limit else "DIFFER"
    print(f"{os.path.basename(model)}: {what}: {verdict}, largest difference {worst:.2e} (logits spread {spread:.2f})")
    assert worst < limit, what


def main():
    print(f"transformers {transformers.__version__}, peft {peft.__version__}, torch {torch.__version__}")
    for kind in ("hf-bf16", "hf-f32"):
        run("convert", model, "-o", path(kind), "--to", kind)
        compare(f"{kind}, transformers", ours(path(kind)), theirs(load(path(kind))), 1e-3)
    run("compress", model, "-o", path("small"), "--bits", "3", "--rank", "8", "--calibration", text, "--windows", "4",
        "--context", "64")
    run("convert", path("small"), "-o", path("merged"), "--to", "hf-f32")
    run("convert", path("small"), "-o", path("base"), "--to", "hf-f32", "--drop", "paths")
    run("convert", path("small"), "-o", path("adapter"), "--to", "lora")
    expected = ours(path("small"))
    compare("artifact decoded, transformers", expected, theirs(load(path("merged"))), 1e-3)
    without = theirs(load(path("base")))
    adapted = peft.PeftModel.from_pretrained(load(path("base")), path("adapter")).eval()
    compare("artifact as base and adapter, peft", expected, theirs(adapted), 1e-3)
    compare("the same, planish --adapter", expected, ours(path("base"), "--adapter", path("adapter")), 1e-3)
    moved = np.abs(expected - without).max()
    print(f"{os.path.basename(model)}: without the adapter the largest difference is {moved:.2e}")
    assert moved > 1e-2
    # The other way: an adapter that peft made, scaled as rank-stabilized ones are.
    config = peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules="all-linear", task_type="CAUSAL_LM",
                             alpha_pattern={"q_proj": 3}, rank_pattern={"v_proj": 2})
    made = peft.get_peft_model(load(path("hf-f32")), config).eval()
    torch.manual_seed(1)
    for name, parameter in made.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    made.save_pretrained(path("made"))
    compare("an adapter that peft made, planish --adapter", ours(path("hf-f32"), "--adapter", path("made")),
            theirs(made), 1e-3)
    if os.path.exists(path("hf-f32/tokenizer.json")):
        AutoTokenizer.from_pretrained(path("hf-f32"))
        print(f"{os.path.basename(model)}: the tokenizer loads")


main()
