"""Reads what planish wrote with other people's readers and compares with planish's own decoding.

    judge_files.py PROGRAM SOURCE_DIR WORK_DIR      (called by judge_files.sh)
"""
import json
import os
import subprocess
import sys

import gguf
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

program, source, work = sys.argv[1:]
text = os.path.join(source, "models/text/sample.txt")
TYPES = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k",
         "iq4_nl", "iq4_xs", "mxfp4"]


def run(*args):
    subprocess.run([program, *args, "--quiet"], check=True, stdout=subprocess.DEVNULL)


def path(name):
    return os.path.join(work, name)


def folder(name):
    """All tensors of a folder as float32, through the package safetensors."""
    tensors = {}
    for file in sorted(os.listdir(path(name))):
        if not file.endswith(".safetensors"):
            continue
        with safe_open(path(name + "/" + file), "np") as f:
            for key in f.keys():
                assert key not in tensors, key
                tensors[key] = f.get_tensor(key).astype(np.float32)
    return tensors


def gguf_name(key):
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
             "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
             "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    stem, suffix = key.rsplit(".", 1)
    if not stem.startswith("model.layers."):
        return names[stem] + "." + suffix
    number, rest = stem[len("model.layers."):].split(".", 1)
    return f"blk.{number}.{names[rest]}.{suffix}"


def permute(w, heads):
    """As llama.cpp's converter orders the rows of q and k."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def order(key, w, config):
    if "q_proj" in key:
        return permute(w, config["num_attention_heads"])
    if "k_proj" in key:
        return permute(w, config["num_key_value_heads"])
    return w


def judge_gguf(kind, config):
    run("convert", "demo", "-o", path(kind + ".gguf"), "--to", "gguf:" + kind)
    run("convert", path(kind + ".gguf"), "-o", path(kind), "--to", "hf-f32", "--shard-size", "4MB")
    ours = folder(kind)
    theirs = {t.name: t for t in gguf.GGUFReader(path(kind + ".gguf")).tensors}
    assert len(theirs) == len(ours), (len(theirs), len(ours))
    types = set()
    for key, w in ours.items():
        tensor = theirs[gguf_name(key)]
        types.add(tensor.tensor_type.name)
        decoded = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(w.shape)
        expected = order(key, w, config)
        # One product, one sum: the order of roundings may differ, so the last bits may.
        assert np.allclose(decoded, expected, rtol=3e-7, atol=1e-7), (key, np.abs(decoded - expected).max())
    print(f"gguf:{kind}: {len(ours)} tensors of {', '.join(sorted(types))} agree")
    return types


def judge_split():
    """Parts as gguf-split makes them: read one by one, they are the whole file's tensors in their order."""
    run("convert", "demo", "-o", path("parts.gguf"), "--to", "gguf:q4_k", "--shard-size", "1MB")
    files = sorted(f for f in os.listdir(work) if f.startswith("parts-"))
    assert files == [f"parts-{i + 1:05}-of-{len(files):05}.gguf" for i in range(len(files))] and len(files) > 2, files
    whole = gguf.GGUFReader(path("q4_k.gguf"))
    expected, found = whole.tensors, []
    for number, file in enumerate(files):
        reader = gguf.GGUFReader(path(file))
        for key, value, kind in (("split.no", number, "UINT16"), ("split.count", len(files), "UINT16"),
                                 ("split.tensors.count", len(expected), "INT32")):
            field = reader.get_field(key)
            assert field.contents() == value and field.types[0].name == kind, (file, key)
        keys = {k for k in reader.fields if not k.startswith("GGUF.") and not k.startswith("split.")}
        own = {k for k in whole.fields if not k.startswith("GGUF.")}
        assert keys == (own if number == 0 else set()), (file, keys)
        found += reader.tensors
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert a.name == b.name and a.tensor_type == b.tensor_type and list(a.shape) == list(b.shape), a.name
        assert np.array_equal(a.data, b.data), a.name
    run("convert", path(files[0]), "-o", path("joined"), "--to", "hf-f32")
    ours, joined = folder("q4_k"), folder("joined")
    assert ours.keys() == joined.keys() and all(np.array_equal(w, joined[k]) for k, w in ours.items())
    print(f"gguf in {len(files)} parts: {len(found)} tensors are those of the whole file, both ways")


def judge_original(config):
    """bf16 widened: the folder holds the demo's very values."""
    run("convert", "demo", "-o", path("original"), "--to", "hf-f32")
    with open(os.path.join(source, "models/demo/model.safetensors"), "rb") as f:
        size = int.from_bytes(f.read(8), "little")
        header, data = json.loads(f.read(size)), f.read()
    ours = folder("original")
    for key, w in ours.items():
        begin, end = header[key]["data_offsets"]
        wide = (np.frombuffer(data[begin:end], np.uint16).astype(np.uint32) << 16).view(np.float32)
        assert np.array_equal(wide.reshape(w.shape), w), key
    assert len(ours) == len(header) - ("__metadata__" in header)
    print(f"hf-f32: {len(ours)} tensors are the original's")
    return ours


def judge_lora(config):
    run("compress", "demo", "-o", path("small"), "--bits", "3", "--rank", "8", "--calibration", text, "--windows", "4",
        "--context", "64")
    run("convert", path("small"), "-o", path("merged"), "--to", "hf-f32")
    run("convert", path("small"), "-o", path("base"), "--to", "hf-f32", "--drop", "paths")
    run("convert", path("small"), "-o", path("adapter"), "--to", "lora")
    run("convert", path("small"), "-o", path("adapter.gguf"), "--to", "lora:gguf")
    with open(path("adapter/adapter_config.json")) as f:
        adapter = json.load(f)
    merged, base = folder("merged"), folder("base")
    pairs = {}
    with safe_open(path("adapter/adapter_model.safetensors"), "np") as f:
        for key in f.keys():
            pairs[key] = f.get_tensor(key)
    scale, count = adapter["lora_alpha"] / adapter["r"], 0
    theirs = {t.name: t.data for t in gguf.GGUFReader(path("adapter.gguf")).tensors}
    for key, w in merged.items():
        a = pairs.get("base_model.model." + key.replace(".weight", ".lora_A.weight"))
        if a is None:
            assert np.array_equal(w, base[key]), key
            continue
        b = pairs["base_model.model." + key.replace(".weight", ".lora_B.weight")]
        assert np.allclose(base[key] + scale * (b @ a), w, atol=1e-6), key
        ga, gb = theirs[gguf_name(key) + ".lora_a"], theirs[gguf_name(key) + ".lora_b"]
        assert np.allclose(order(key, b @ a, config), gb @ ga, atol=1e-6), key
        count += 1
    assert 2 * count == len(pairs) == len(theirs)
    print(f"lora, lora:gguf: {count} paths make the merged matrices")


def judge_imatrix():
    run("calibrate", "demo", "--text", text, "--windows", "3", "--context", "64", "-o", path("statistics"), "--imatrix",
        path("imatrix.gguf"))
    reader = gguf.GGUFReader(path("imatrix.gguf"))
    assert reader.get_field("general.type").contents() == "imatrix"
    assert reader.get_field("imatrix.chunk_count").contents() == 3
    assert reader.get_field("imatrix.chunk_size").contents() == 64
    assert reader.get_field("imatrix.datasets").contents() == ["sample.txt"]
    tensors = {t.name: t for t in reader.tensors}
    names = [t.name for t in reader.tensors]
    count = 0
    with safe_open(path("statistics"), "np") as f:
        for key in f.keys():
            if not key.endswith(".square_sum"):
                continue
            name = gguf_name(key[:-len(".square_sum")])
            assert np.array_equal(tensors[name + ".in_sum2"].data.ravel(), np.diag(f.get_tensor(key))), key
            assert tensors[name + ".counts"].data.ravel() == [192]
            assert names.index(name + ".in_sum2") + 1 == names.index(name + ".counts")
            count += 1
    assert np.array_equal(tensors["blk.0.attn_q.weight.in_sum2"].data, tensors["blk.0.attn_v.weight.in_sum2"].data)
    print(f"imatrix: {count} sites, {len(tensors) // 2} weights agree")


def numbers(words, bits):
    """[n, words] of int32, each row one little-endian string of bits -> [n, codes]."""
    string = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")
    return string.reshape(words.shape[0], -1, bits) @ (1 << np.arange(bits))


def words(codes, bits):
    """The inverse."""
    string = (codes[..., None] >> np.arange(bits) & 1).astype(np.uint8).reshape(codes.shape[0], -1)
    return np.packbits(string, axis=1, bitorder="little").view(np.int32)


AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # column of each nibble of a word


def dequantize(tensors, module, method, bits, less):
    """[out, in] by the definition of the format; `less`: what is added to stored zeros."""
    qweight, qzeros = tensors[module + ".qweight"], tensors[module + ".qzeros"]
    scales = tensors[module + ".scales"].astype(np.float32)
    zeros = numbers(qzeros, bits)
    if method == "gptq":
        codes = numbers(qweight.T, bits)
        group = tensors[module + ".g_idx"]
        zeros = zeros + less
    else:
        undo = np.argsort(AWQ_ORDER)
        codes = numbers(qweight, 4).reshape(qweight.shape[0], -1, 8)[..., undo].reshape(qweight.shape[0], -1).T
        zeros = zeros.reshape(zeros.shape[0], -1, 8)[..., undo].reshape(zeros.shape[0], -1)
        group = np.arange(codes.shape[1]) // (codes.shape[1] // zeros.shape[0])
    return (codes - zeros.T[:, group]).astype(np.float32) * scales.T[:, group]


def stored(name):
    with safe_open(path(name + "/model.safetensors"), "np") as f:
        return {key: f.get_tensor(key) for key in f.keys() if key.rsplit(".", 1)[1] not in ("weight", "bias")}


def judge_quantized():
    cases = [("gptq", 4, ["--group", "64"]), ("gptq", 3, ["--group", "32"]), ("gptq", 8, ["--group", "0"]),
             ("gptq-v1", 4, ["--group", "64", "--symmetric"]), ("awq", 4, ["--group", "64"])]
    for number, (target, bits, options) in enumerate(cases):
        name = f"q{number}"
        run("compress", "demo", "-o", path(name), "--bits", str(bits), "--method", "rtn", "--calibration", text,
            "--windows", "2", "--context", "64", *options)
        run("convert", path(name), "-o", path(name + "-ours"), "--to", "hf-f32")
        run("convert", path(name), "-o", path(name + "-out"), "--to", target)
        ours, theirs = folder(name + "-ours"), stored(name + "-out")
        modules = [key[:-len(".qweight")] for key in theirs if key.endswith(".qweight")]
        assert len(modules) == 42, len(modules)
        for module in modules:
            decoded = dequantize(theirs, module, target.split("-")[0], bits, target == "gptq-v1")
            assert np.array_equal(decoded, ours[module + ".weight"]), (target, bits, module)
        print(f"{target}, {bits} bits {' '.join(options)}: {len(modules)} matrices are the same numbers")


def write_quantized(name, original, method, bits, group, settings, less):
    """A folder with random codes, packed here; returns the values."""
    rng = np.random.default_rng(bits)
    tensors, values = {}, {}
    for key, w in original.items():
        if "_proj" not in key:
            tensors[key] = w
            continue
        rows, cols = w.shape
        module, groups = key[:-len(".weight")], cols // group
        codes = rng.integers(0, 1 << bits, (cols, rows))
        zeros = rng.integers(less, 1 << bits, (groups, rows))
        scales = (rng.random((groups, rows)) * 0.01 + 1e-4).astype(np.float16)
        index = np.arange(cols) // group
        if method == "gptq":
            # Activation order, the same for linears of one input.
            index = np.random.default_rng(cols).permutation(index)
            tensors[module + ".qweight"] = np.ascontiguousarray(words(codes.T, bits).T)
            tensors[module + ".qzeros"] = words(zeros - less, bits)
            tensors[module + ".g_idx"] = index.astype(np.int32)
        else:
            for part, what in (("qweight", codes), ("qzeros", zeros)):
                slots = what.reshape(what.shape[0], -1, 8)[..., AWQ_ORDER].reshape(what.shape)
                tensors[module + "." + part] = words(slots, 4)
        tensors[module + ".scales"] = scales
        values[key] = ((codes - zeros[index]).astype(np.float32) * scales.astype(np.float32)[index]).T
    os.makedirs(path(name))
    save_file(tensors, path(name + "/model.safetensors"), {"format": "pt"})
    with open(os.path.join(source, "models/demo/config.json")) as f:
        config = json.load(f)
    config["quantization_config"] = {"quant_method": method, "bits": bits, "group_size": group, **settings}
    with open(path(name + "/config.json"), "w") as f:
        json.dump(config, f)
    return values


def judge_read_back(original):
    gptq = {"desc_act": True, "sym": False}
    cases = [("gptq", 4, gptq, 1), ("gptq", 3, gptq, 1), ("gptq", 8, {**gptq, "checkpoint_format": "gptq_v2"}, 0),
             ("gptq", 2, gptq, 1), ("awq", 4, {"zero_point": True, "version": "gemm"}, 0)]
    for number, (method, bits, settings, less) in enumerate(cases):
        name = f"r{number}"
        values = write_quantized(name, original, method, bits, 64, settings, less)
        run("convert", path(name), "-o", path(name + "-read"), "--to", "hf-f32")
        ours = folder(name + "-read")
        for key, w in values.items():
            assert np.array_equal(ours[key], w), (method, bits, key)
        print(f"{method}, {bits} bits packed elsewhere: {len(values)} matrices are the same numbers")
        if method == "gptq":
            judge_order(name, bits, "gptq" if less == 0 else "gptq-v1", values)


def judge_order(name, bits, target, values):
    """Groups in the order of activations, written again: the same tensors; and as compressed-tensors: the same numbers."""
    before = stored(name)
    run("convert", path(name), "-o", path(name + "-again"), "--to", target)
    after = stored(name + "-again")
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert tensor.dtype == after[key].dtype and np.array_equal(tensor, after[key]), key
    with open(path(name + "-again/config.json")) as f:
        assert json.load(f)["quantization_config"]["desc_act"] is True
    run("convert", path(name), "-o", path(name + "-ct"), "--to", "compressed-tensors")
    other = stored(name + "-ct")
    for key, w in values.items():
        module = key[:-len(".weight")]
        group = other[module + ".weight_g_idx"]
        assert np.array_equal(group, before[module + ".g_idx"]), key
        codes = numbers(other[module + ".weight_packed"], bits)[:, :w.shape[1]]
        zeros = numbers(other[module + ".weight_zero_point"].T, bits).T[:w.shape[0]]
        scales = other[module + ".weight_scale"].astype(np.float32)
        assert np.array_equal((codes - zeros[:, group]).astype(np.float32) * scales[:, group], w), key
    print(f"{target}, {bits} bits in activation order, written again and as compressed-tensors: the same")


def main():
    with open(os.path.join(source, "models/demo/config.json")) as f:
        config = json.load(f)
    original = judge_original(config)
    judge_quantized()
    judge_read_back(original)
    seen = set()
    for kind in TYPES:
        seen |= judge_gguf(kind, config)
    assert seen >= {t.upper() for t in TYPES}, seen
    judge_split()
    judge_lora(config)
    judge_imatrix()


main()
