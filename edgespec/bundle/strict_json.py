"""JSON that somebody else may have written, taken apart with every type and range checked."""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields
from typing import Any, TypeVar, cast

_SHA256 = re.compile(r"[0-9a-f]{64}")
_T = TypeVar("_T")


class MalformedError(Exception):
    """What is wrong with it, as the end of a sentence."""


def load_strict(data: bytes) -> object:
    """The value in `data`. Raises: MalformedError if it is not JSON, a key occurs twice, or a number is none."""
    try:
        return json.loads(data, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise MalformedError("it is not JSON") from error


def _refuse_constant(name: str) -> float:
    raise MalformedError(f"{name} is no figure")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise MalformedError("a key occurs twice")
    return found


class JsonObject:
    """A JSON object whose values are taken out with their types checked."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise MalformedError(f"{where} is not an object")
        self.values = cast(dict[str, Any], value)
        self._where = where

    def only(self, kind: type[Any], *extra: str) -> None:
        """Refuse keys that are not fields of the dataclass `kind`, and fields without a key."""
        expected = {field.name for field in fields(kind)} | set(extra)
        if missing := expected - self.values.keys():
            raise MalformedError(f"{self._where} lacks {min(missing)!r}")
        if unknown := self.values.keys() - expected:
            raise MalformedError(f"{self._where} has an unknown key {min(unknown)!r}")

    def take(self, key: str, kind: type[_T]) -> _T:
        value = self.values.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise MalformedError(f"{key!r} of {self._where} is missing or of the wrong type")
        return value

    def take_optional(self, key: str) -> str | None:
        return None if self.values[key] is None else self.take(key, str)

    def count(self, key: str, minimum: int = 0) -> int:
        value = self.take(key, int)
        if not minimum <= value < 1 << 53:
            raise MalformedError(f"{key!r} of {self._where} is out of range")
        return value

    def number(self, key: str) -> float:
        value = self.take(key, float)
        if not math.isfinite(value):
            raise MalformedError(f"{key!r} of {self._where} is out of range")
        return value

    def counts(self, key: str) -> tuple[int, ...]:
        items = JsonObject({str(i): item for i, item in enumerate(cast(list[Any], self.take(key, list)))}, key)
        return tuple(items.count(i) for i in items.values)

    def numbers(self, key: str) -> tuple[float, ...]:
        items = JsonObject({str(i): item for i, item in enumerate(cast(list[Any], self.take(key, list)))}, key)
        return tuple(items.number(i) for i in items.values)

    def digest(self, key: str) -> str:
        value = self.take(key, str)
        if not _SHA256.fullmatch(value):
            raise MalformedError(f"{key!r} of {self._where} is no SHA-256")
        return value
