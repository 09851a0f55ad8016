"""Text to token ids and back. What a user wrote never becomes a control token; what the template wrote may."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from tokenizers import AddedToken, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from edgespec.errors import ModelError

# No thread pool for batches of one. With one, the library prints a warning when this process starts another.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_CONTROL_LOOK = re.compile(r"<[|｜].*[|｜]>", re.DOTALL)
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_UNENCODABLE = re.compile("[\0\ud800-\udfff]")


class Tokenizer:
    """A tokenizer.json, for use from any thread.

    *Control tokens* are those that the file marks as special, and those that look like it (`<|…|>`): some models forget
    the mark. They stand for structure, not for text, so `encode` never gives one and `decode` never shows one.

    Raises: ModelError if `data` is no tokenizer, or one that splits text in a way that is not known here.
    """

    def __init__(self, data: bytes) -> None:
        try:
            self._backend = Backend.from_buffer(data)
        except Exception as error:
            raise ModelError(f"The model's tokenizer.json cannot be read ({error}): pull the model again.") from error
        self.sha256 = hashlib.sha256(data).hexdigest()
        # Its decoder tells the family: byte-level BPE (GPT-2 and most since), or SentencePiece with byte fallback.
        kinds = _decoder_kinds(self._backend)
        self._byte_level = "ByteLevel" in kinds
        if not kinds & {"ByteLevel", "ByteFallback"}:
            raise ModelError("The model's tokenizer is neither byte-level nor byte-fallback BPE: choose another model.")
        added: dict[int, AddedToken] = self._backend.get_added_tokens_decoder()
        unmarked = [t.content for t in added.values() if not t.special and _CONTROL_LOOK.fullmatch(t.content)]
        self._backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in unmarked])
        self._added = {id_: token.content for id_, token in added.items()}
        self._control = {id_ for id_, token in added.items() if token.special or token.content in unmarked}
        self._bytes: dict[int, bytes] = {}
        self._lock = Lock()  # how special tokens and the beginning of a text are encoded is a state of the backend
        self._prefix = _Prefix.of(self._backend)
        marks = sorted((re.escape(self._added[id_]) for id_ in self._control), key=len, reverse=True)
        self._mark = re.compile("|".join(marks) or r"(?!)")

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Raises: ModelError if the file is missing or is no tokenizer."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(f"The model's {path.name} cannot be read ({error.strerror}): pull it again.") from error
        return cls(data)

    @property
    def vocab_size(self) -> int:
        """How many tokens there are; a model's logits may be padded beyond it."""
        return self._backend.get_vocab_size()

    def vocabulary(self) -> dict[str, int]:
        """Every token's id. Two models whose tokenizers have the same mean the same by an id."""
        return self._backend.get_vocab()

    def encode(self, text: str, after: int | None = None) -> list[int]:
        """The ids of plain text: `<|im_end|>` written out is ten characters. No token is added before or after.

        `after` is the token that it stands behind: text that goes on gets no space that nobody wrote, as a tokenizer
        may put before a beginning. NUL and lone surrogates, which no vocabulary has, become U+FFFD.
        """
        return self._encode(text, plain=True, begins=self._begins(after))

    def encode_template(self, text: str, after: int | None = None) -> list[int]:
        """The ids of text that the chat template itself wrote: control tokens are recognised."""
        if self._begins(after):
            return self._encode(text, plain=False, begins=True)
        if self._prefix is None or not self._prefix.after_control:
            return self._encode(text, plain=False, begins=False)
        mark = self._mark.search(text)
        end = mark.start() if mark else len(text)
        going_on = self._encode(text[:end], plain=False, begins=False) if end else []
        return going_on + (self._encode(text[end:], plain=False, begins=True) if mark else [])

    def _begins(self, after: int | None) -> bool:
        """Whether text behind a token is a beginning, which may get a space before it."""
        if after is None or self._prefix is None:
            return True
        return self._prefix.after_control and after in self._control

    def _encode(self, text: str, *, plain: bool, begins: bool) -> list[int]:
        encodable = _UNENCODABLE.sub("\ufffd", text)
        with self._lock:
            self._backend.encode_special_tokens = plain
            if self._prefix is not None:
                self._prefix.set(self._backend, begins)
            # A batch of one: unlike `encode`, it lets other threads run meanwhile (1 MB takes most of a second).
            return self._backend.encode_batch_fast([encodable], add_special_tokens=False)[0].ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`: their bytes joined and read as UTF-8, with U+FFFD for what is none."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes that `token` stands for: maybe part of a character; none for a control token or an unknown id."""
        known = self._bytes.get(token)
        if known is None:
            known = self._bytes[token] = self._to_bytes(token)
        return known

    def _to_bytes(self, token: int) -> bytes:
        if token in self._added:
            return b"" if token in self._control else self._added[token].encode()
        with self._lock:
            text = self._backend.id_to_token(token) or ""
        if self._byte_level:
            return bytes(map(_BYTE_OF.__getitem__, text)) if _BYTE_OF.keys() >= set(text) else text.encode()
        byte = _BYTE_TOKEN.fullmatch(text)
        return bytes([int(byte[1], 16)]) if byte else text.replace("▁", " ").encode()

    def is_control(self, token: int) -> bool:
        return token in self._control

    def control_id(self, content: str) -> int | None:
        """The id of the control token written `content`, if there is one."""
        return next((id_ for id_ in self._control if self._added[id_] == content), None)


@dataclass(frozen=True, slots=True)
class _Prefix:
    """How a tokenizer puts a space before a text that begins: by a step of its normalizer, or as it cuts words.

    part: the backend's attribute that does it. used, left_out: with that step and without it. after_control: whether
    text behind a control token begins, too.
    """

    part: str
    used: Any
    left_out: Any
    after_control: bool

    @classmethod
    def of(cls, backend: Backend) -> _Prefix | None:
        """None for a tokenizer that does no such thing."""
        state = _state(backend.normalizer)
        steps: list[dict[str, Any]] = state.get("normalizers", [state] if state else [])
        if any(step["type"] == "Prepend" for step in steps):
            rest = [_normalizer(step) for step in steps if step["type"] != "Prepend"]
            return cls("normalizer", backend.normalizer, normalizers.Sequence(rest), True)
        state = _state(backend.pre_tokenizer)
        scheme = state.get("prepend_scheme") if state.get("type") == "Metaspace" else None
        if scheme not in ("first", "always"):
            return None
        without = pre_tokenizers.Metaspace(state["replacement"], prepend_scheme="never", split=state["split"])
        return cls("pre_tokenizer", backend.pre_tokenizer, without, scheme == "always")

    def set(self, backend: Backend, begins: bool) -> None:
        setattr(backend, self.part, self.used if begins else self.left_out)


def _state(part: Any) -> dict[str, Any]:
    return {} if part is None else json.loads(part.__getstate__())


def _normalizer(state: dict[str, Any]) -> Any:
    """A step of a normalizer from its description, which only a whole tokenizer can read."""
    whole = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}
    return Backend.from_str(json.dumps({**whole, "normalizer": state})).normalizer


def _decoder_kinds(backend: Backend) -> set[str]:
    """The types of the decoder's steps, such as {"Replace", "ByteFallback", "Fuse"}."""
    if not (state := _state(backend.decoder)):
        return set()
    return {step["type"] for step in [state, *state.get("decoders", [])]}


def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes each byte as one visible character: printable Latin-1 as itself, the others, in order, from
    U+0100 on (Radford et al. 2019, GPT-2)."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_of_character()
