"""A JSON object of a checkpoint, whose values are taken out with their types checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgespec.errors import ModelError
from edgespec.graph.gguf_reader import shown


class Settings:
    """A value of null is as good as none. Every accessor raises ModelError, naming `where` and the key."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = {key: value for key, value in values.items() if value is not None}
        self.where = where

    def error(self, cause: str) -> ModelError:
        """What to raise when a value cannot be used."""
        return ModelError(f"{self.where} cannot be used: {cause}; use another model.")

    def integer(self, key: str, default: int | None = None) -> int:
        return self._get(key, int, "an integer", default)

    def number(self, key: str, default: float | None = None) -> float:
        value = float(self._get(key, (int, float), "a number", default))
        if not math.isfinite(value):
            raise self.error(f"{key} is no figure")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        return self._get(key, str, "text", default)

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise self.error(f"{key} is neither true nor false")
        return value

    def section(self, key: str) -> Settings | None:
        """The object at `key`, if there is one."""
        if key not in self.values:
            return None
        return Settings(self._get(key, dict, "an object", None), f"{key} in {self.where}")

    def numbers(self, key: str, count: int) -> list[float]:
        """Raises also unless there are `count` of them."""
        values: list[Any] = self._get(key, list, "a list", None)
        if len(values) != count or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            raise self.error(f"{key} is not a list of {count} numbers")
        return [float(value) for value in values]

    def texts(self, key: str, count: int) -> list[str]:
        """Raises also unless there are `count` of them."""
        values: list[Any] = self._get(key, list, "a list", None)
        if len(values) != count or not all(isinstance(v, str) for v in values):
            raise self.error(f"{key} is not a list of {count} texts")
        return values

    def refuse(self, key: str, value: object) -> ModelError:
        """What to raise for a value that is not understood."""
        return self.error(f"its {key} is {shown(str(value))}, which is not supported")

    def _get(self, key: str, kind: Any, what: str, default: Any) -> Any:
        value = self.values.get(key, default)
        if value is None:
            raise self.error(f"{key} is missing")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.error(f"{key} is not {what}")
        return value
