#!/usr/bin/env python3
"""A checkpoint of arbitrary weights in the shape of a small Llama 3 model (1.24 G parameters, 2.5 GB), to measure
memory and speed with. Standard library only.

    tools/make_synthetic.py FOLDER [TOKENIZER_JSON]
"""
import json
import os
import random
import shutil
import struct
import sys

HIDDEN, LAYERS, INTER, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 2048, 16, 8192, 32, 8, 64, 128256


def tensors():
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (HIDDEN,)
        yield p + "post_attention_layernorm.weight", (HIDDEN,)
        yield p + "self_attn.q_proj.weight", (HEADS * HEAD_DIM, HIDDEN)
        yield p + "self_attn.k_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
        yield p + "self_attn.v_proj.weight", (KV_HEADS * HEAD_DIM, HIDDEN)
        yield p + "self_attn.o_proj.weight", (HIDDEN, HEADS * HEAD_DIM)
        yield p + "mlp.gate_proj.weight", (INTER, HIDDEN)
        yield p + "mlp.up_proj.weight", (INTER, HIDDEN)
        yield p + "mlp.down_proj.weight", (HIDDEN, INTER)
    yield "model.norm.weight", (HIDDEN,)


def main():
    folder = sys.argv[1]
    os.makedirs(folder)
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": VOCAB, "hidden_size": HIDDEN,
        "intermediate_size": INTER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16"}
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f)
    if len(sys.argv) > 2:
        shutil.copy(sys.argv[2], os.path.join(folder, "tokenizer.json"))
    header, offset = {}, 0
    for name, shape in tensors():
        size = 2
        for n in shape:
            size *= n
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # A megabyte of bfloat16 of either sign between 2^-7 and 2^-5, over and over.
    rng = random.Random(1)
    block = bytearray(rng.randbytes(1 << 20))
    for i in range(1, len(block), 2):
        block[i] = 0x3C | (block[i] & 0x80)
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        while offset > 0:
            offset -= f.write(block[:min(len(block), offset)])


main()
