#!/usr/bin/env python3
"""GPTQ and AWQ folders as auto-gptq 0.7.1 and autoawq 0.2.9 unpack them, on a CPU, and folders that they packed as
planish reads them: the same fp32 numbers, bit for bit. A few of their files are loaded alone, since the packages as a
whole ask for an older transformers.

    tools/judge_quantized.py PROGRAM MODEL TEXT WORK
"""
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import types

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

program, model, text, work = sys.argv[1:]


def load(distribution, package, path):
    """A file of the package under its own name, without the package's __init__."""
    root = importlib.metadata.distribution(distribution).locate_file(package.split(".")[0])
    spec = importlib.util.spec_from_file_location(package, os.path.join(root, path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[package] = module
    spec.loader.exec_module(module)
    return module


def packages():
    # What the files import from their neighbors and the functions here never call.
    for name, members in (("auto_gptq", []), ("auto_gptq.utils", []), ("auto_gptq.modeling", []),
                          ("auto_gptq.utils.import_utils", ["dynamically_import_QuantLinear"]),
                          ("auto_gptq.utils.modeling_utils", ["recurse_setattr"]),
                          ("auto_gptq.modeling._const",
                           ["CPU", "CUDA_0", "EXLLAMA_DEFAULT_MAX_INPUT_LENGTH", "SUPPORTED_MODELS"]),
                          ("awq", []), ("awq.utils", []), ("awq.modules", []), ("awq.modules.linear", [])):
        module = types.ModuleType(name)
        module.__path__ = []
        for member in members:
            setattr(module, member, None)
        sys.modules[name] = module
    gptq = load("auto-gptq", "auto_gptq.nn_modules.qlinear.qlinear_cuda_old", "nn_modules/qlinear/qlinear_cuda_old.py")
    unpack = load("auto-gptq", "auto_gptq.modeling._utils", "modeling/_utils.py")
    torch.Tensor.cuda = lambda self, *_: self  # unpack_awq asks for a device that is not here
    for name in ("module", "utils", "packing_utils"):
        load("autoawq", "awq.utils." + name, f"utils/{name}.py")
    awq = load("autoawq", "awq.modules.linear.gemm", "modules/linear/gemm.py")
    return gptq.QuantLinear, unpack.unpack_awq, awq


def path(name):
    return os.path.join(work, name)


def run(*arguments):
    subprocess.run([program, *arguments, "-q"], check=True, stdout=subprocess.DEVNULL)


def tensors(name):
    found = {}
    for file in sorted(os.listdir(path(name))):
        if file.endswith(".safetensors"):
            with safe_open(path(name + "/" + file), "pt") as f:
                found |= {key: f.get_tensor(key) for key in f.keys()}
    return found


def gptq_values(QuantLinear, stored, module, bits, group, v2):
    """[out, in]: the layer applied to the identity, with fp32 scales so that nothing is rounded."""
    scales = stored[module + ".scales"].float()
    cols = stored[module + ".g_idx"].shape[0]
    layer = QuantLinear(bits, group if group > 0 else -1, cols, scales.shape[1], False, weight_dtype=torch.float32)
    qzeros = stored[module + ".qzeros"]
    if v2:  # as its successors turn a version 2 file into version 1: one less in every field
        fields = np.unpackbits(qzeros.numpy().view(np.uint8), axis=1, bitorder="little").reshape(len(qzeros), -1, bits)
        less = fields @ (1 << np.arange(bits)) - 1
        assert (less >= 0).all()
        fields = (less[..., None] >> np.arange(bits) & 1).astype(np.uint8).reshape(len(qzeros), -1)
        qzeros = torch.from_numpy(np.packbits(fields, axis=1, bitorder="little").view(np.int32))
    layer.qweight, layer.qzeros, layer.scales = stored[module + ".qweight"], qzeros, scales
    layer.g_idx = stored[module + ".g_idx"]
    return layer(torch.eye(cols)).t()


def awq_values(unpack_awq, stored, module, group):
    """[out, in]: with scales of 1 it returns code - zero, whole numbers; its own scales would be halves."""
    scales = stored[module + ".scales"]
    cols = stored[module + ".qweight"].shape[0]
    size = group if group > 0 else cols
    steps, _ = unpack_awq(stored[module + ".qweight"], stored[module + ".qzeros"],
                          torch.ones_like(scales, dtype=torch.float32), 4, size)
    rows = scales.float()[torch.arange(cols) // size]
    steps = steps.float()
    return (steps if steps.shape == rows.t().shape else steps.t()) * rows.t()


def autoawq_values(awq, stored, module, group):
    """[out, in]: with fp32 scales nothing is rounded."""
    qweight, scales = stored[module + ".qweight"], stored[module + ".scales"].float()
    size = group if group > 0 else len(qweight)
    return awq.dequantize_gemm(qweight, stored[module + ".qzeros"], scales, 4, size).t()


def ours_as_theirs(QuantLinear, unpack_awq, awq):
    cases = [("gptq-v1", 4, 64, ["--symmetric"]), ("gptq-v1", 8, 64, ["--symmetric"]), ("gptq", 4, 64, []),
             ("gptq", 4, 64, ["--symmetric"]), ("gptq", 2, 64, ["--symmetric"]), ("gptq", 3, 64, ["--symmetric"]),
             ("awq", 4, 64, []), ("awq", 4, 64, ["--symmetric"])]
    for number, (target, bits, group, options) in enumerate(cases):
        name = f"q{number}"
        run("compress", model, "-o", path(name), "--bits", str(bits), "--group", str(group), "--method", "rtn",
            "--calibration", text, "--windows", "2", "--context", "64", *options)
        run("convert", path(name), "-o", path(name + "-ours"), "--to", "hf-f32")
        run("convert", path(name), "-o", path(name + "-out"), "--to", target)
        ours, stored = tensors(name + "-ours"), tensors(name + "-out")
        modules = [key[:-len(".qweight")] for key in stored if key.endswith(".qweight")]
        skipped = 0
        for module in modules:
            zeros = stored[module + ".qzeros"]
            if target == "gptq" and "--symmetric" not in options and (nibbles(zeros) == 0).any():
                skipped += 1  # version 1 has no such zero, and the package knows no other version
                continue
            values = (awq_values(unpack_awq, stored, module, group) if target == "awq" else gptq_values(
                QuantLinear, stored, module, bits, group, target == "gptq"))
            assert torch.equal(values, ours[module + ".weight"]), (target, bits, module)
            if target == "awq":
                values = autoawq_values(awq, stored, module, group)
                assert torch.equal(values, ours[module + ".weight"]), ("autoawq", module)
        print(f"{target}, {bits} bits {' '.join(options)}: {len(modules) - skipped} of {len(modules)} matrices are the "
              f"same numbers" + (f", {skipped} have zero points of 0" if skipped else ""))
        assert skipped < len(modules)


def nibbles(words):
    return np.stack([words.numpy().view(np.uint32) >> (4 * k) & 15 for k in range(8)])


def pack_gptq(QuantLinear, linear, scales, zeros, bits, group):
    """The tensors of a layer, by the end of their names."""
    layer = QuantLinear(bits, group, linear.in_features, linear.out_features, False, weight_dtype=torch.float32)
    layer.pack(linear, scales, zeros.float(), None)
    return {part: getattr(layer, part) for part in ("qweight", "qzeros", "g_idx")} | {"scales": layer.scales.half()}


def pack_awq(awq, linear, scales, zeros, group):
    layer = awq.WQLinear_GEMM.from_linear(linear, 4, group, False, scales.t().contiguous(), zeros.t().contiguous())
    return {part: getattr(layer, part) for part in ("qweight", "qzeros", "scales")}


def theirs_as_ours(QuantLinear, awq):
    """Layers that they pack, beside the model's other tensors."""
    run("convert", model, "-o", path("original"), "--to", "hf-f32")
    group = 64
    for package, bits in (("auto-gptq", 2), ("auto-gptq", 3), ("auto-gptq", 4), ("auto-gptq", 8), ("autoawq", 4)):
        rng, stored, expected = torch.Generator().manual_seed(bits), {}, {}
        for key, w in tensors("original").items():
            if "_proj" not in key:
                stored[key] = w
                continue
            rows, cols = w.shape
            module, groups = key[:-len(".weight")], cols // group
            scales = (torch.rand((rows, groups), generator=rng) * 0.01 + 1e-3).half().float()
            zeros = torch.randint(1, 1 << bits, (rows, groups), generator=rng)
            codes = torch.randint(0, 1 << bits, (rows, cols), generator=rng)
            index = torch.arange(cols) // group
            linear = torch.nn.Linear(cols, rows, bias=False)
            expected[key] = (codes - zeros[:, index]).float() * scales[:, index]
            linear.weight.data = expected[key].clone()
            parts = (pack_awq(awq, linear, scales, zeros, group) if package == "autoawq" else
                     pack_gptq(QuantLinear, linear, scales, zeros, bits, group))
            stored |= {f"{module}.{part}": tensor.contiguous() for part, tensor in parts.items()}
        name = f"{package}{bits}"
        os.makedirs(path(name))
        save_file(stored, path(name + "/model.safetensors"), {"format": "pt"})
        with open(path("original/config.json")) as f:
            config = json.load(f)
        config["quantization_config"] = (
            {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"}
            if package == "autoawq" else
            {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": False, "desc_act": False})
        with open(path(name + "/config.json"), "w") as f:
            json.dump(config, f)
        run("convert", path(name), "-o", path(name + "-read"), "--to", "hf-f32")
        ours = tensors(name + "-read")
        for key, w in expected.items():
            assert torch.equal(ours[key], w), (package, bits, key)
        print(f"packed by {package}, {bits} bits: {len(expected)} matrices are the same numbers")


def main():
    QuantLinear, unpack_awq, awq = packages()
    ours_as_theirs(QuantLinear, unpack_awq, awq)
    theirs_as_ours(QuantLinear, awq)


main()
