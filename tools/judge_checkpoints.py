#!/usr/bin/env python3
"""Lets the libraries that own the formats judge quantized checkpoints, both ways. Called by judge.sh:

    judge_checkpoints.py PROGRAM MODEL TEXT

1. planish compresses the model and converts the artifact to compressed-tensors; transformers loads and
   decompresses that. Every weight must be the same fp32 number as the artifact's parts by the page
   docs/formats/artifact.md, and the logits must agree. The library decompresses to the type of the scales, so
   they are widened from F16 to F32 first; NVFP4 it always decompresses to bfloat16, which holds ours exactly,
   whose units are powers of two.
2. compressed-tensors quantizes the model by presets of its own and saves it; planish loads that. The logits
   must agree with those of the library's decompressed weights.
Prints a line a case; ends with 1 if one failed.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import (QuantizationConfig, QuantizationStatus, apply_quantization_config,
                                             preset_name_to_scheme)
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch
from transformers import AutoModelForCausalLM, CompressedTensorsConfig

IDS = [0, 17, 923, 45, 310, 2, 77, 1500, 8, 33, 4000, 5, 61]
failures = 0


def say(ok, text):
    global failures
    failures += not ok
    print(("ok      " if ok else "FAILED  ") + text, flush=True)


def planish(*args):
    done = subprocess.run([PLANISH, *map(str, args)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"planish {' '.join(map(str, args))}: {done.stderr.strip()}")
    return done.stdout


def planish_logits(folder, work):
    out = work / "logits.npy"
    planish("logits", folder, "--ids", ",".join(map(str, IDS)), "--last", 0, "-o", out, "-q")
    return np.load(out)


def their_logits(model):
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].float().numpy()


# ---- values of an artifact, as docs/formats/artifact.md defines them ----


def unpack(data, count, bits):
    b = np.unpackbits(data, axis=-1, bitorder="little")[..., : count * bits]
    return b.reshape(*b.shape[:-1], count, bits) @ (1 << np.arange(bits))


def decode(p, t):
    if p["kind"] == "dense":
        return t[p["tensor"]].astype(np.float32)
    rows, cols, bits = p["rows"], p["cols"], p["bits"]
    g = p["group"] or cols
    groups = -(-cols // g)
    codes = unpack(t[p["tensor"] + ".codes"], cols, bits)
    k = t[p["tensor"] + ".group_index"] if p.get("group_index") else np.arange(cols) // g
    if p.get("scale", "f16") == "f16":
        scales = t[p["tensor"] + ".scales"].astype(np.float32)
    elif p["scale"] == "e4m3":
        byte = t[p["tensor"] + ".scales"].astype(int)
        e, m = byte >> 3, byte & 7
        fp8 = np.where(e > 0, np.ldexp(np.float32(8 + m), e - 10), np.ldexp(m.astype(np.float32), -9))
        scales = fp8.astype(np.float32) * t[p["tensor"] + ".units"][0]
    else:
        assert p["scale"] == "e8m0"
        scales = np.ldexp(np.float32(1), t[p["tensor"] + ".scales"].astype(int) - 127)
    if p["kind"] == "levels":
        return t[p["tensor"] + ".levels"].astype(np.float32)[0][codes] * scales[:, k]
    if p["symmetric"]:
        zeros = np.full((rows, groups), 1 << (bits - 1))
    else:
        zeros = unpack(t[p["tensor"] + ".zeros"], rows * groups, bits).reshape(rows, groups)
    return (codes - zeros[:, k]).astype(np.float32) * scales[:, k]


def widen(folder):
    tensors = load_torch(folder / "model.safetensors")
    wide = {n: t.float() if n.endswith(".weight_scale") and t.dtype == torch.float16 else t
            for n, t in tensors.items()}
    save_torch(wide, folder / "model.safetensors", metadata={"format": "pt"})


def load_theirs(folder):
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=CompressedTensorsConfig(run_compressed=False))


def limit(scheme):  # 2^-9 of every weight is lost to bfloat16
    return 0.2 if scheme.lower().startswith("nvfp4") else 1e-3


def ours_by_them(model, text, work):
    cases = [("int4 in groups of 32", ["--bits", 4, "--group", 32, "--symmetric"], "auto"),
             ("int4 in groups of 32, zero points", ["--bits", 4, "--group", 32], "auto"),
             ("int8 in groups of 64", ["--bits", 8, "--group", 64, "--symmetric"], "auto"),
             ("int4 a channel", ["--bits", 4, "--group", 0, "--symmetric"], "auto"),
             ("int8 a channel, W8A8", ["--bits", 8, "--group", 0, "--symmetric"], "w8a8"),
             ("e4m3 a channel", ["--grid", "e4m3", "--group", 0], "auto"),
             ("mxfp4", ["--grid", "mxfp4"], "auto"),
             ("nvfp4", ["--grid", "nvfp4"], "auto")]
    for number, (name, options, scheme) in enumerate(cases):
        art, out = work / f"art{number}", work / f"out{number}"
        try:
            planish("compress", model, "-o", art, "--method", "rtn", "-q", "--calibration", text, "--windows", 2,
                    "--context", 64, *options)
            planish("convert", art, "-o", out, "--to", f"compressed-tensors:{scheme}", "-q")
            widen(out)
            theirs = load_theirs(out)
            tensors = load_arrays(art)
            parts = json.loads((art / "config.json").read_text())["quantization_config"]["tensors"]
            state = theirs.state_dict()
            same = sum(np.array_equal(decode(p, tensors), state[n].float().numpy()) for n, p in parts.items())
            say(same == len(parts), f"ours, {name}: {same} of {len(parts)} matrices are the same numbers")
            if scheme == "auto":  # their forward pass would quantize the inputs too
                difference = np.abs(planish_logits(out, work) - their_logits(theirs)).max()
                say(difference < 1e-3, f"ours, {name}: logits differ by at most {difference:.2g}")
        except Exception as error:  # one case must not hide the others
            say(False, f"ours, {name}: {type(error).__name__}: {str(error)[:300]}")
    for scheme in ["nvfp4a16", "mxfp4a16", "w4a16"]:
        out = work / f"plain-{scheme}"
        try:
            planish("convert", model, "-o", out, "--to", f"compressed-tensors:{scheme}", "-q")
            widen(out)
            difference = np.abs(planish_logits(out, work) - their_logits(load_theirs(out))).max()
            say(difference < limit(scheme),
                f"ours, {scheme} of a plain model: logits differ by at most {difference:.2g}")
        except Exception as error:
            say(False, f"ours, {scheme}: {type(error).__name__}: {str(error)[:300]}")


def load_arrays(folder):  # numpy has no bfloat16
    tensors = load_torch(folder / "model.safetensors")
    return {n: (t.float() if t.dtype == torch.bfloat16 else t).numpy() for n, t in tensors.items()}


def quantize_theirs(model_folder, preset, out):
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    scheme = preset_name_to_scheme(preset, ["Linear"])
    if scheme.weights.group_size == 128:  # 704 inputs are no multiple of 128
        scheme.weights.group_size = 64
    config = QuantizationConfig(config_groups={"group_0": scheme}, ignore=["lm_head"],
                                quantization_status=QuantizationStatus.INITIALIZED)
    apply_quantization_config(model, config)
    for module in model.modules():
        args = getattr(getattr(module, "quantization_scheme", None), "weights", None)
        if args is None:
            continue
        w = module.weight.data
        size = args.group_size if args.group_size and args.group_size > 0 else None
        if size:
            grouped = w.reshape(w.shape[0], -1, size)
            low, high = grouped.amin(-1), grouped.amax(-1)
        elif str(getattr(args.strategy, "value", args.strategy)) == "channel":
            low, high = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
        else:
            low, high = w.amin().reshape(1), w.amax().reshape(1)
        extra = {}
        if hasattr(module, "weight_global_scale"):
            module.weight_global_scale.data.copy_(448.0 * 6.0 / w.abs().max())
            extra["global_scale"] = module.weight_global_scale.data
        scale, zero = calculate_qparams(low, high, args, **extra)
        module.weight_scale.data.copy_(scale.to(module.weight_scale.dtype))
        if hasattr(module, "weight_zero_point"):
            module.weight_zero_point.data.copy_(zero)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(out)
    compressor.update_config(out)


def theirs_by_us(model, work):
    for preset in ["W4A16", "W4A16_ASYM", "W8A16", "W8A8", "FP8_DYNAMIC", "NVFP4A16", "MXFP4A16"]:
        out = work / f"theirs-{preset}"
        try:
            quantize_theirs(model, preset, out)
            loaded = load_theirs(out)
            for module in loaded.modules():  # inputs stay floats, as in planish
                if hasattr(module, "quantization_enabled"):
                    module.quantization_enabled = False
            ours, theirs = planish_logits(out, work), their_logits(loaded)
            difference = np.abs(ours - theirs).max()
            say(difference < limit(preset), f"theirs, {preset}: logits differ by at most {difference:.2g}")
        except Exception as error:
            say(False, f"theirs, {preset}: {type(error).__name__}: {str(error)[:300]}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    PLANISH, MODEL, TEXT = str(pathlib.Path(sys.argv[1]).resolve()), sys.argv[2], sys.argv[3]
    with tempfile.TemporaryDirectory() as folder:
        ours_by_them(MODEL, TEXT, pathlib.Path(folder))
        theirs_by_us(MODEL, pathlib.Path(folder))
    sys.exit(failures > 0)
