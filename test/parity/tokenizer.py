"""A small CLIP tokenizer in both file forms, and what transformers makes of awkward strings."""

import json
from collections import Counter
from pathlib import Path

from transformers import CLIPTokenizer

from fixture import fresh, write_json

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
MERGES = 320
CORPUS = """
a golden lion with a top hat under a night sky. a photo of a cat on a beach at sunset, highly detailed
pixel art of a red car in a city. a small robot dog runs through the snow; the robot slides to the left
turn the apple into a banana, make it snow, add a hat to the dog, remove the hat, change the background to the ocean
an icy bicycle bounces in a meadow, it's the cat's toy, they're here, we've seen them,
i'm sure she'll say he'd go, don't
a painting of the moon in the style of a woodcut, 4k, 8 frames, 64 pixels, the year 2024, masterpiece, best quality
ein großer bär über den straßen, el niño pequeño, où est la forêt, naïve café, señor, kočka, łódź, ångström, façade
привет мир, красная машина на снегу, ελληνικά γράμματα, 日本の猫, 猫と犬, 東京の夜, 한국어 고양이, नमस्ते दुनिया
مرحبا بالعالم, the quick brown fox jumps over the lazy dog and the other animals in the forest are watching them with interest
"""

TEXTS = [
    "",
    " ",
    "a",
    "A",
    "a golden lion with a top hat",
    "A Golden LION",
    "  leading and trailing  ",
    "two  spaces\tand\ttabs",
    "line\nbreaks\r\nhere",
    "non\u00a0breaking\u3000ideographic\u2003em",
    "next\u0085line",
    "byte\ufefforder",
    "zero\u200bwidth",
    "it's the cat's toy",
    "they're we've i'm she'll he'd don't",
    "IT'S THEY'RE WE'VE I'M SHE'LL HE'D",
    "rock 'n' roll 'tis",
    "it’s curly ‘quoted’ “text”",
    "'s 't 're",
    "''s",
    "a 'd",
    "4k 8k 1024x768",
    "3.14159",
    "2024-11-23",
    "room101b",
    "½ cup, x² + Ⅷ ①",
    "hello, world!",
    "wait... what?!",
    "(masterpiece:1.2), [best quality]",
    "a--b __init__ ###",
    "!!!???...",
    "$5.00 & 50% off @home #tag",
    "C++ / C# \\ path",
    "<lora:look:0.7>",
    "a <|endoftext|> b",
    "<|startoftext|>a cat",
    "<|endoftext|",
    "|| <> ^~`",
    "naïve café",
    "cafe\u0301",
    "ﬁne ligature",
    "Straße GROẞ",
    "ΟΔΟΣ ΣΊΣΥΦΟΣ",
    "İstanbul ISPARTA ı",
    "kočka Łódź ÅNGSTRÖM",
    "Ǆ ǅ ǆ",
    "Привет, МИР",
    "日本の猫",
    "東京の夜、猫と犬。",
    "한국어 고양이",
    "\u1112\u1161\u11ab",
    "नमस्ते दुनिया",
    "مرحبا بالعالم",
    "ไทย แมว",
    "שלום",
    "🐱",
    "a 🐱 on 🏖️",
    "👩‍🚀👨‍👩‍👧",
    "🇩🇪🇯🇵",
    "e\u0301\u0323 a\u0308",
    "\u0301a",
    "𝒶 𝔸 𝟙",
    "tab\x00nul\x07bell",
    "…—–·•",
    "x" * 40,
    "supercalifragilisticexpialidocious",
    "word " * 90,
    "a golden lion, " * 30,
    "🐱" * 40,
    "!" * 100,
]


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in CLIP's order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(hidden))]


def train() -> tuple[dict, list]:
    """Plain byte-pair merging; ties go to the alphabetically first pair, so the result never changes."""
    blank = CLIPTokenizer(vocab={BOS: 0, EOS: 1}, merges=[]).backend_tokenizer
    pieces = blank.pre_tokenizer.pre_tokenize_str(blank.normalizer.normalize_str(CORPUS))
    words = Counter(tuple(word[:-1]) + (word[-1] + "</w>",) for word, _ in pieces)
    merges = []
    while len(merges) < MERGES:
        pairs = Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = Counter({merge(word, best): count for word, count in words.items()})
    letters = byte_alphabet()
    tokens = [*letters, *(c + "</w>" for c in letters), *("".join(m) for m in merges), BOS, EOS]
    return {token: i for i, token in enumerate(tokens)}, merges


def merge(word: tuple, pair: tuple) -> tuple:
    out, i = [], 0
    while i < len(word):
        step = 2 if word[i : i + 2] == pair else 1
        out.append("".join(word[i : i + step]))
        i += step
    return tuple(out)


def build(length: int = 77) -> CLIPTokenizer:
    vocab, merges = train()
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)


def write_files(folder: Path, pad: str) -> None:
    """The older form, as SD-1.5 (pad = end of text) and SD-2 (pad = "!") repositories hold it."""
    folder.mkdir()
    vocab, merges = train()
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))

    def special(token):
        return {"content": token, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}

    names = {"bos_token": special(BOS), "eos_token": special(EOS), "pad_token": pad, "unk_token": special(EOS)}
    write_json(folder / "special_tokens_map.json", names)
    typed = {k: v if isinstance(v, str) else {"__type": "AddedToken"} | v for k, v in names.items()}
    rest = {"add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": 77}
    write_json(folder / "tokenizer_config.json", rest | typed | {"tokenizer_class": "CLIPTokenizer"})


def encode(tokenizer: CLIPTokenizer, text: str) -> list[int]:
    return tokenizer(text, truncation=True, max_length=77).input_ids


def make() -> None:
    folder = fresh("tokenizer")
    build().save_pretrained(folder / "json")
    write_files(folder / "files", EOS)
    write_files(folder / "files_pad", "!")
    forms = {form: CLIPTokenizer.from_pretrained(folder / form) for form in ("json", "files", "files_pad")}
    cases = []
    for text in TEXTS:
        ids = encode(forms["json"], text)
        assert encode(forms["files"], text) == ids, f"the two forms disagree on {text!r}"
        cases.append({"text": text, "tokens": len(forms["json"](text).input_ids), "ids": ids})
        # SD-2's pad token "!" is a special token and so is cut out of prompts before anything else
        if (other := encode(forms["files_pad"], text)) != ids:
            cases[-1]["ids_files_pad"] = other
    padded = {n: t("a cat", padding="max_length", max_length=77, truncation=True).input_ids for n, t in forms.items()}
    assert any("ids_files_pad" in c for c in cases)
    write_json(folder / "cases.json", {"max_length": 77, "padded": {"text": "a cat", **padded}, "cases": cases})
