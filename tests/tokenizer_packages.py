"""Trains tokenizers of every kind with the packages `tokenizers` and `sentencepiece` on a mixed text, and writes their
files and what they make of the text: for formats_test (TokenizerPackagesSlow), in a virtual environment of its own.

usage: tokenizer_packages.py OUT
"""
import collections
import io
import itertools
import json
import os
import random
import sys
import unicodedata

import sentencepiece
from tokenizers import (Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers)

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")


def mixed_bytes(size):
    """Code, English, CJK, emoji, bytes that are not UTF-8, long white space, combining marks."""
    rng = random.Random(7)
    folder = os.path.dirname(os.__file__)
    sources = sorted(name for name in os.listdir(folder) if name.endswith(".py"))
    code = b"".join(open(os.path.join(folder, name), "rb").read() for name in sources[:60])
    words = "the of and model tensor naïve café Straße über Ångström ĲSSEL ﬁne ½ ² Ⅷ №".split()

    def characters(low, high, count):
        # Those whose category no version of Unicode changed: the packages and we were made for different ones.
        found = (chr(rng.randrange(low, high)) for _ in range(count))
        return "".join(c for c in found if unicodedata.ucd_3_2_0.category(c) == unicodedata.category(c) != "Cn")

    emoji = ["🙂", "👩‍👩‍👧🏽", "🇫🇷", "❤️", "👍🏿", "🤷‍♀️"]
    makers = [
        lambda: code[(at := rng.randrange(len(code) - 600)):at + rng.randrange(20, 600)],
        lambda: " ".join(rng.choices(words, k=20)).encode(),
        lambda: characters(0x4E00, 0x9FA5, rng.randrange(1, 60)).encode(),
        lambda: (characters(0x3041, 0x30FF, 12) + characters(0xAC00, 0xD7A3, 12)).encode(),
        lambda: "".join(rng.choices(emoji, k=rng.randrange(1, 8))).encode(),
        lambda: bytes(rng.randrange(256) for _ in range(rng.randrange(1, 30))),
        lambda: (rng.choice(" \t\n\u00a0\u3000") * rng.randrange(1, 200)).encode(),
        lambda: "".join(rng.choice("aeiouAEIOUn") + characters(0x300, 0x370, rng.randrange(1, 4))
                        for _ in range(10)).encode(),
        lambda: characters(0x20, 0xD800, 20).encode(),
        lambda: str(rng.randrange(10**12)).encode(),
        lambda: b"<tool_call> <s> \xe2\x96\x81\xe2\x96\x81 ##x <0x41>",
    ]
    out = bytearray()
    while len(out) < size:
        out += rng.choice(makers)() + rng.choice([b" ", b"\n", b"", b"\r\n"])
    return bytes(out[:size])


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + bytes([value]))


def fields(message):
    """The fields of a protocol buffer: (number, bytes or number)."""
    at, out = 0, []

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        tag = number()
        if tag & 7 == 0:
            out.append((tag >> 3, number()))
            continue
        size = number() if tag & 7 == 2 else {1: 8, 5: 4}[tag & 7]
        out.append((tag >> 3, message[at:at + size]))
        at += size
    return out


def write(folder, chunks, whole, encode, decode):
    ids = [encode(chunk) for chunk in chunks]
    whole_ids = encode(whole)
    rng = random.Random(3)
    cuts = []
    for _ in range(200):
        at = rng.randrange(max(1, len(whole_ids) - 12))
        cut = whole_ids[at:at + 12]
        cuts.append({"ids": cut, "decoded": decode(cut)})
    with open(os.path.join(folder, "expected.json"), "w", encoding="utf-8") as file:
        json.dump({"ids": ids, "whole": whole_ids, "decoded": [decode(i) for i in ids], "cuts": cuts}, file)


def frequent(text):
    """Lines of only the frequent characters: some trainers want all of them in the vocabulary."""
    known = {c for c, _ in collections.Counter(text).most_common(700)} - {"\0"}
    return ["".join(c for c in line if c in known) for line in text.splitlines()[:4000]]


def sentencepiece_kinds(out, text, chunks):
    corpus = frequent(text)
    common = dict(byte_fallback=True, user_defined_symbols=["<tool_call>", "##"], vocab_size=2000)
    kinds = {
        "sp_unigram_nmt_nfkc": dict(model_type="unigram", normalization_rule_name="nmt_nfkc", **common),
        "sp_unigram_nfkc_cf": dict(model_type="unigram", normalization_rule_name="nfkc_cf", vocab_size=3000),
        "sp_unigram_spaces": dict(model_type="unigram", normalization_rule_name="identity",
                                  remove_extra_whitespaces=False, **common),
        "sp_bpe_identity": dict(model_type="bpe", normalization_rule_name="identity", remove_extra_whitespaces=False,
                                split_digits=True, allow_whitespace_only_pieces=True, **common),
        "sp_bpe_nmt_nfkc": dict(model_type="bpe", normalization_rule_name="nmt_nfkc_cf", vocab_size=3000),
        "sp_bpe_suffix": dict(model_type="bpe", treat_whitespace_as_suffix=True, add_dummy_prefix=True, **common),
        "sp_bpe_no_prefix": dict(model_type="bpe", add_dummy_prefix=False, **common),
    }
    charsmap = b""
    for name, options in kinds.items():
        folder = os.path.join(out, name)
        os.makedirs(folder)
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(corpus), model_writer=model,
                                                 hard_vocab_limit=False, minloglevel=2, num_threads=2, **options)
        parsed = fields(model.getvalue())
        if name == "sp_unigram_nmt_nfkc":
            charsmap = next(value for number, value in fields(dict(parsed)[3]) if number == 2)
        if name == "sp_bpe_no_prefix":  # some pieces are only steps: type 5, unused
            chosen = [i for i, (number, value) in enumerate(parsed) if number == 1][400:440]
            parsed = [(n, v + b"\x18\x05" if i in chosen else v) for i, (n, v) in enumerate(parsed)]
        data = b"".join(bytes([number << 3 | 2]) + varint(len(value)) + value for number, value in parsed)
        with open(os.path.join(folder, "tokenizer.model"), "wb") as file:
            file.write(data)
        processor = sentencepiece.SentencePieceProcessor(model_proto=data)
        write(folder, chunks, text, processor.encode, processor.decode)
    return charsmap


def byte_level(ignore_merges=False, split=None):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if split:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, trainers.BpeTrainer(vocab_size=3000, show_progress=False,
                                          initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def tokenizers_kinds(charsmap):
    byte_tokens = [f"<0x{b:02X}>" for b in range(256)]
    yield "byte_level", *byte_level()
    yield "byte_level_llama3", *byte_level(True, LLAMA3)
    tokenizer, trainer = byte_level()
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.ByteLevel()])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("Ġ?[A-Za-z]+|."), "isolated")
    yield "byte_level_normalizer", tokenizer, trainer
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    yield "bpe_fallback", tokenizer, trainers.BpeTrainer(
        vocab_size=3000, show_progress=False, special_tokens=["<unk>"] + byte_tokens, limit_alphabet=200)
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    yield "bpe_suffix", tokenizer, trainers.BpeTrainer(vocab_size=3000, show_progress=False, limit_alphabet=300,
                                                       special_tokens=["<unk>"], end_of_word_suffix="</w>")
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap),
                                                 normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    yield "unigram_precompiled", tokenizer, trainers.UnigramTrainer(
        vocab_size=3000, show_progress=False, unk_token="<unk>", special_tokens=["<unk>"])
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    yield "wordpiece", tokenizer, trainers.WordPieceTrainer(vocab_size=3000, show_progress=False, limit_alphabet=300,
                                                            special_tokens=["[UNK]"])
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.CTC("<pad>", "|", True)
    yield "word_level", tokenizer, trainers.WordLevelTrainer(vocab_size=3000, show_progress=False,
                                                             special_tokens=["<unk>", "<pad>", "|"])


def steps(pre_tokenizer, normalizer=None, decoder=None, model=None):
    """A model that takes whatever the steps before it make: what is not in its vocabulary is unknown."""
    tokenizer = Tokenizer(model or models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    if decoder:
        tokenizer.decoder = decoder
    return tokenizer, trainers.BpeTrainer(vocab_size=2000, show_progress=False, limit_alphabet=400,
                                          special_tokens=["<unk>"])


def steps_kinds():
    """The steps of the format that the kinds above leave out."""
    split = pre_tokenizers.Split
    sequence = pre_tokenizers.Sequence
    yield "nfd_strip_accents", *steps(
        sequence([pre_tokenizers.Punctuation("merged_with_previous"), pre_tokenizers.Digits(individual_digits=True)]),
        normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Nmt()]),
        decoders.Sequence([decoders.Replace("er", "#"), decoders.Strip("e", 1, 0), decoders.Fuse()]))
    yield "nfkd_strip", *steps(
        sequence([pre_tokenizers.CharDelimiterSplit("e"), pre_tokenizers.UnicodeScripts()]),
        normalizers.Sequence([normalizers.NFKD(), normalizers.Strip(left=True, right=True)]))
    yield "nfkc_first", *steps(
        pre_tokenizers.Metaspace(prepend_scheme="first"), normalizers.NFKC(),
        decoders.Metaspace(prepend_scheme="first"))
    yield "metaspace_never", *steps(
        sequence([pre_tokenizers.Metaspace(prepend_scheme="never", split=False),
                  pre_tokenizers.Punctuation("removed")]),
        normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), " "), normalizers.Prepend("_")]),
        decoders.Metaspace(prepend_scheme="never"))
    yield "behaviors", *steps(
        sequence([split("the", "removed"), split(Regex("[a-f]+"), "contiguous"),
                  split(Regex("x|y"), "merged_with_previous", invert=True), pre_tokenizers.Punctuation("contiguous"),
                  pre_tokenizers.Punctuation("merged_with_next"), pre_tokenizers.Digits(individual_digits=False)]))
    yield "bert_kept", *steps(
        pre_tokenizers.BertPreTokenizer(),
        normalizers.BertNormalizer(clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False),
        decoders.WordPiece(prefix="##", cleanup=False))
    tokenizer, trainer = byte_level()
    tokenizer.pre_tokenizer = sequence([
        pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Digits(individual_digits=False), split(Regex("[0-9][0-9][0-9]"), "isolated")])
    yield "byte_level_falcon", tokenizer, trainer
    tokenizer, trainer = byte_level()
    tokenizer.pre_tokenizer = sequence([
        pre_tokenizers.ByteLevel(add_prefix_space=True), split("Ġ", "merged_with_next"),
        split(Regex("[A-Z]+"), "contiguous"), pre_tokenizers.UnicodeScripts()])
    yield "byte_level_behind", tokenizer, trainer


def main():
    out = sys.argv[1]
    raw = mixed_bytes(1 << 20)
    text = raw.decode("utf-8", errors="replace")
    with open(os.path.join(out, "raw.bin"), "wb") as file:
        file.write(raw)
    chunks = [text[i:i + 997] for i in range(0, len(text), 997)]
    with open(os.path.join(out, "text.json"), "w", encoding="utf-8") as file:
        json.dump({"whole": text, "chunks": chunks}, file)
    charsmap = sentencepiece_kinds(out, text, chunks)
    for name, tokenizer, trainer in itertools.chain(tokenizers_kinds(charsmap), steps_kinds()):
        folder = os.path.join(out, name)
        os.makedirs(folder)
        tokenizer.train_from_iterator(frequent(text) if name.startswith("unigram") else chunks[:400], trainer)
        tokenizer.save(os.path.join(folder, "tokenizer.json"))
        write(folder, chunks, text, lambda t, k=tokenizer: k.encode(t, add_special_tokens=False).ids,
              lambda i, k=tokenizer: k.decode(i, skip_special_tokens=False))


main()
