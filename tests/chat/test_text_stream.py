from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from edgespec.chat.text_stream import TextStream
from edgespec.chat.tokenizer import Tokenizer
from edgespec.errors import UsageError

MakeTokenizer = Callable[[Sequence[bytes]], Tokenizer]

SMALL_TEXT = st.text(st.sampled_from("abé鷺🦆\u200d"), max_size=12)
ANY_BYTES = st.lists(st.sampled_from([b"a", b"b", b"\xc3", b"\xa9", b"\xe9", b"\xb7", b"\xf0", b"\x9f", b"\xff"]))
STOPS = st.lists(st.text(st.sampled_from("abé🦆"), min_size=1, max_size=4), max_size=3)


@st.composite
def answers(draw: st.DrawFn) -> list[bytes]:
    """Text, or bytes that are none, cut anywhere into tokens."""
    data = draw(st.one_of(SMALL_TEXT.map(str.encode), ANY_BYTES.map(b"".join), st.binary(max_size=12)))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(data) - 1)))))
    return [piece for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if (piece := data[a:b])]


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The definition: read on character by character until the text ends with a stop string; take the longest off."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


def held_back(text: str, stops: Sequence[str]) -> int:
    """How much of the end of `text` begins a stop string."""
    return max((n for n in range(1, len(text) + 1) for stop in stops if stop.startswith(text[-n:])), default=0)


def whole_characters(data: bytes) -> str:
    """`data` as text, without a character that is still incomplete at its end."""
    for size in range(4):
        if data[len(data) - size :].decode("utf-8", "replace") == "\ufffd" and any(
            is_text(data[len(data) - size :] + more)
            for more in (b"\x80", b"\x80\x80", b"\x80\x80\x80", b"\xa0\x80", b"\x90\x80\x80")
        ):
            return data[: len(data) - size].decode("utf-8", "replace")
    return data.decode("utf-8", "replace")


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def run(tokenizer: Tokenizer, tokens: Sequence[int], stops: Sequence[str] = (), eos: Sequence[int] = ()) -> list[str]:
    """What is taken after each token, up to the one that ends the answer, then the rest."""
    stream = TextStream(tokenizer, stops, eos)
    taken: list[str] = []
    for token in tokens:
        ended = stream.push(token)
        taken.append(stream.take())
        if ended:
            break
    return [*taken, stream.finish()]


@given(pieces=answers(), stops=STOPS)
@example(pieces=[b"aa", b"ab"], stops=["aab"])
@example(pieces=[b"ab", b"\xf0\x9f", b"\xa6\x86a"], stops=["b\U0001f986"])
@example(pieces=[b"abba"], stops=["bba", "b"])
@example(pieces=[b"abba"], stops=["abba", "bb"])
@example(pieces=[b"a", b"bb", b"a"], stops=["abba", "bb"])
@example(pieces=[b"a\xf0", b"\x9f"], stops=["a\ufffd"])
def test_what_is_shown_is_the_one_shot_text_up_to_the_first_stop_string(
    tokenizer_of: MakeTokenizer, pieces: list[bytes], stops: list[str]
) -> None:
    vocabulary = sorted(set(pieces))
    tokenizer = tokenizer_of(vocabulary)
    stream = TextStream(tokenizer, stops)
    taken, ended = "", False
    for i, piece in enumerate(pieces):
        ended = stream.push(vocabulary.index(piece))
        taken += stream.take()
        so_far = whole_characters(b"".join(pieces[: i + 1]))
        text, stopped = cut_at_stop(so_far, stops)
        assert ended == stopped
        # All that is certain is shown, and nothing else.
        assert taken == (text if stopped else so_far[: len(so_far) - held_back(so_far, stops)])
        if ended:
            break
    taken += stream.finish()
    assert taken == cut_at_stop(b"".join(pieces).decode("utf-8", "replace"), stops)[0]
    assert stream.finish() == ""


def test_real_text_token_by_token_is_the_librarys_one_shot_text(
    tokenizer: Tokenizer, backend: Backend, sentences: list[str]
) -> None:
    for sentence in [*sentences, "  two spaces", "\n", " "]:
        ids = tokenizer.encode(sentence)
        assert "".join(run(tokenizer, ids)) == backend.decode(ids) == sentence
        for end in range(len(ids)):
            assert "".join(run(tokenizer, ids[:end])) == backend.decode(ids[:end])


def test_a_character_over_several_tokens_is_shown_once_and_whole(tokenizer_of: MakeTokenizer) -> None:
    duck = "🦆".encode()
    tokenizer = tokenizer_of([bytes([byte]) for byte in duck])
    assert run(tokenizer, range(4)) == ["", "", "", "🦆", ""]
    assert run(tokenizer, range(3)) == ["", "", "", "\ufffd"]


def test_a_stop_string_may_span_tokens_and_begin_inside_one(tokenizer_of: MakeTokenizer) -> None:
    tokenizer = tokenizer_of([b"Hello", b" wor", b"ld", b"k", b"!"])
    assert run(tokenizer, [0, 1, 2, 4], ["world"]) == ["Hello", " ", "", ""]
    assert run(tokenizer, [0, 1, 3, 4], ["world"]) == ["Hello", " ", "work", "!", ""]
    assert run(tokenizer, [0, 1], ["world"]) == ["Hello", " ", "wor"]


def test_what_follows_the_end_is_ignored(tokenizer_of: MakeTokenizer) -> None:
    tokenizer = tokenizer_of([b"a", b".", b"z"])
    for stream in (TextStream(tokenizer, ["."]), TextStream(tokenizer, eos_ids={1})):
        assert [stream.push(token) for token in (0, 1, 2)] == [False, True, True]
        assert stream.finish() == "a"


def test_the_end_of_text_has_no_text_and_releases_what_was_held(tokenizer: Tokenizer) -> None:
    end = tokenizer.control_id("<|im_end|>")
    assert end is not None
    assert "".join(run(tokenizer, [*tokenizer.encode("fish ST"), end], ["STOP"], [end])) == "fish ST"
    start = tokenizer.control_id("<|im_start|>")
    assert start is not None
    assert "".join(run(tokenizer, [*tokenizer.encode("a"), start, *tokenizer.encode("b")])) == "ab"


def test_an_empty_stop_string_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match="empty"):
        TextStream(tokenizer, ["x", ""])
