"""Tokenizers built from GGUF metadata: the ids that the model was trained with, and text that comes back whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import MERGES, TOKENS, write_tiny_gguf
from tokenizers import Tokenizer

from edgespec.bundle import Bundle
from edgespec.graph import convert_gguf
from edgespec.graph.gguf_reader import GGUFFile
from edgespec.graph.tokenizer import build_tokenizer, end_of_text_ids

SPECBENCH = Path(__file__).parents[3] / "shared" / "data" / "specbench_dev.jsonl"
TEXTS = [
    "",
    " ",
    "The lighthouse keeper counted seven ships before breakfast.",
    "  two before,   three between,\t\ttabs\r\n\r\nand blanks at the end   ",
    "\n\n\n",
    "zero\u200bwidth, no\xa0break, \ufeffbyte order mark, \x00 nul",
    "def area(r):\n    return math.pi * r ** 2  # πr²\n\tif x != y: pass\n",
    "In 2024 it cost 3.50, or 1234567890; ٣٤٥ ½ Ⅷ ² x2y",
    "naïve café, U\u0308bergröße (both forms of Ü), спасибо, مرحبا بالعالم, שלום",
    "漢字とかな。中文，标点！한국어도",
    "😀👩‍👩‍👧‍👦🇫🇷👍🏽 \U0001f9d1\u200d\U0001f680",
    "I'll we've it's DON'T 'quoted'",
    "<|im_start|>user\nHello<|im_end|>\n",
]


@pytest.fixture(scope="module")
def tokenizer(tiny_float32: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_float32 / "tokenizer.json"))


@pytest.fixture(scope="module")
def default_tokenizer(default_bundle: Bundle) -> Tokenizer:
    return Tokenizer.from_file(str(default_bundle.tokenizer))


def specbench_lines() -> list[str]:
    if not SPECBENCH.is_file():
        pytest.skip("there is no shared/data/specbench_dev.jsonl beside the checkout")
    questions = [json.loads(line) for line in SPECBENCH.read_text(encoding="utf-8").splitlines()]
    return [turn for question in questions for turn in question["turns"]]


def built(tmp_path: Path, **metadata: Any) -> Tokenizer:
    entries = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    file = GGUFFile(write_tiny_gguf(tmp_path / "other.gguf", metadata=entries))
    return build_tokenizer(file, len(file.texts("tokenizer.ggml.tokens")))


def round_trip(tokenizer: Tokenizer, text: str) -> str:
    return tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False)


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_whole(tokenizer: Tokenizer, text: str) -> None:
    assert round_trip(tokenizer, text) == text


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_whole_from_the_default_model(default_tokenizer: Tokenizer, text: str) -> None:
    assert round_trip(default_tokenizer, text) == text


def test_every_specbench_prompt_comes_back_whole(tokenizer: Tokenizer) -> None:
    for prompt in specbench_lines():
        assert round_trip(tokenizer, prompt) == prompt


def test_every_specbench_prompt_comes_back_whole_from_the_default_model(default_tokenizer: Tokenizer) -> None:
    for prompt in specbench_lines():
        assert round_trip(default_tokenizer, prompt) == prompt


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("The lighthouse keeper counted seven ships before breakfast.",
         [504, 33059, 40061, 17288, 4962, 7761, 1092, 13848, 30]),
        ("Don't worry, we've time; they'll wait.", [8084, 982, 5321, 28, 392, 3543, 655, 43, 502, 3060, 5847, 30]),
        ("def area(r):\n    return math.pi * r ** 2\n",
         [1604, 1557, 24, 98, 727, 472, 1003, 4119, 30, 9020, 1672, 412, 1903, 216, 34, 198]),
        ("naïve café, Übergröße, спасибо",
         [3546, 46494, 37366, 28, 5549, 246, 5799, 98, 7466, 34878, 85, 28, 21986, 21339, 6511, 9382, 7872, 27714,
          6485]),
        ("漢字とかな。", [177, 137, 112, 36518, 7365, 118, 7365, 229, 7365, 120, 19076]),
        ("😀👩‍🚀!", [10813, 242, 218, 10813, 235, 119, 321, 231, 10813, 244, 218, 17]),
        ("tabs\t\tand   spaces \n\n end ", [100, 7366, 197, 197, 397, 256, 5600, 38028, 1112, 216]),
        ("In 2024 it cost 3.50", [788, 216, 34, 32, 34, 36, 357, 1708, 216, 35, 30, 37, 32]),
        # Each of these two differs from what transformers makes of this file: it does not set numbers apart first.
        ("x   17", [104, 333, 33, 39]),
        ("½ ٤", [16738, 216, 164, 114]),
        ("<|im_start|>user\nHello<|im_end|>\n", [1, 4093, 198, 19556, 2, 198]),
    ],
)  # fmt: skip
def test_golden_ids_of_the_default_model(default_tokenizer: Tokenizer, text: str, ids: list[int]) -> None:
    """Computed with transformers 4.57.6 from the same GGUF file, except where a comment says why not."""
    assert default_tokenizer.encode(text, add_special_tokens=False).ids == ids


@pytest.mark.parametrize(
    ("pre", "tokens"),
    [
        ("smollm", ["Ġwh", "at", "ĠĠ", "1", "2", "3", "4", "Ġthe", "Ġ", "Ġto", "\u010a", "\u010a"]),
        ("gpt-2", ["Ġwh", "at", "Ġ", "Ġ", "1", "2", "3", "4", "Ġthe", "Ġ", "Ġto", "\u010a", "\u010a"]),
        ("default", ["Ġwh", "at", "Ġ", "Ġ", "1", "2", "3", "4", "Ġthe", "Ġ", "Ġto", "\u010a", "\u010a"]),
    ],
)
def test_the_pre_tokenizer_is_the_one_named(tmp_path: Path, pre: str, tokens: list[str]) -> None:
    """With a merge of two spaces: only where digits are cut off first can both of them meet it."""
    merged = built(tmp_path, pre=pre, **with_merges("Ġ Ġ"))
    assert merged.encode(" what  1234 the  to\n\n").tokens == tokens


def test_llama_3_takes_digits_by_three_and_whole_words_first(tmp_path: Path) -> None:
    merges = with_merges("1 2", "12 3", "3 4", "4 5")
    words = {"tokens": [*merges["tokens"], "Hello"], "token_type": [*merges["token_type"], 1]}
    llama = built(tmp_path, pre="llama-bpe", **{**merges, **words})
    assert llama.encode("12345").tokens == ["123", "45"]
    assert llama.encode("Hello").tokens == ["Hello"]
    assert llama.encode("WE'LL the").tokens == ["W", "E", "'", "L", "L", "Ġthe"]


def test_qwen_takes_digits_one_by_one_and_composes_characters(tmp_path: Path) -> None:
    qwen = built(tmp_path, pre="qwen2", **with_merges("1 2"))
    assert qwen.encode("12").tokens == ["1", "2"]
    assert qwen.decode(qwen.encode("e\u0301").ids) == "\xe9"


@pytest.mark.parametrize(
    ("pre", "text", "pieces"),
    [
        ("tekken", "camelCase HTTPServer 12", ["camel", "Case", " HTTPServer", " ", "1", "2"]),
        ("tekken", "it's a/b", ["it", "'s", " a", "/b"]),
        ("gpt-4o", "camelCase it's 12345", ["camel", "Case", " it's", " ", "123", "45"]),
        ("dbrx", "camelCase IT'S 12345", ["camelCase", " IT", "'S", " ", "123", "45"]),
        ("smaug-bpe", "x//\n y", ["x", "//\n", " y"]),
        ("gpt-4o", "x//\n/ y", ["x", "//\n/", " y"]),
        ("refact", "a 12", ["a", " ", "1", "2"]),
    ],
)
def test_text_is_cut_as_the_pre_tokenizer_s_models_learned_it(
    tmp_path: Path, pre: str, text: str, pieces: list[str]
) -> None:
    cut = built(tmp_path, pre=pre).pre_tokenizer.pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in cut] == pieces


def with_merges(*merges: str) -> dict[str, Any]:
    tokens = [*TOKENS, *(merge.replace(" ", "") for merge in merges)]
    return {"merges": [*MERGES, *merges], "tokens": tokens, "token_type": [3, 3, 3] + [1] * (len(tokens) - 3)}


def test_control_tokens_are_special_and_user_defined_ones_are_not(tmp_path: Path) -> None:
    types = [3, 3, 4] + [1] * (len(TOKENS) - 3)
    tokenizer = built(tmp_path, token_type=types)
    ids = tokenizer.encode("<|im_start|>a<|im_end|>").ids
    assert ids == [1, TOKENS.index("a"), 2]
    assert tokenizer.decode(ids) == "a<|im_end|>"


def test_control_tokens_in_plain_text_can_be_encoded_as_text(tokenizer: Tokenizer) -> None:
    """What a user types must not open a turn: the library's switch for that works with these tokenizers."""
    tokenizer.encode_special_tokens = True
    ids = tokenizer.encode("<|im_start|>").ids
    tokenizer.encode_special_tokens = False
    assert 1 not in ids
    assert tokenizer.decode(ids) == "<|im_start|>"


def test_no_begin_or_end_token_is_added(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("a", add_special_tokens=True).ids == [TOKENS.index("a")]


def test_each_end_of_text_is_listed_once(tmp_path: Path) -> None:
    ends = {"tokenizer.ggml.eot_token_id": 2, "tokenizer.ggml.eom_token_id": 0}
    file = GGUFFile(write_tiny_gguf(tmp_path / "ends.gguf", metadata=ends))
    assert end_of_text_ids(file, len(TOKENS)) == (2, 0)


@pytest.mark.filterwarnings("ignore")
def test_ids_are_those_of_transformers(tiny_gguf: Path, tokenizer: Tokenizer) -> None:
    """Where transformers is right: it does not set numbers apart from the spaces before them."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("torch", reason="transformers reads GGUF files only where torch is installed")
    theirs = transformers.AutoTokenizer.from_pretrained(tiny_gguf.parent, gguf_file=tiny_gguf.name)
    for text in TEXTS:
        if not any(character.isnumeric() for character in text):
            ids = theirs.encode(text, add_special_tokens=False)
            assert tokenizer.encode(text, add_special_tokens=False).ids == ids, text


def test_a_template_that_names_the_begin_token_is_told_its_text(tmp_path: Path) -> None:
    source = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    path = write_tiny_gguf(tmp_path / "tiny.gguf", metadata={"tokenizer.chat_template": source})
    convert_gguf(path, tmp_path / "out", weights="float32")
    written = (tmp_path / "out" / "chat_template.jinja").read_text(encoding="utf-8")
    assert written == '{% set bos_token = "<|im_start|>" %}' + source
