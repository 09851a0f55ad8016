"""The prompts of a benchmark, in Spec-Bench's format (Xia et al. 2024)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from edgespec.errors import UsageError

BUILT_IN = Path(__file__).with_name("prompts.jsonl")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation's user turns."""

    question_id: str
    category: str
    turns: tuple[str, ...]


def read_prompts(path: Path = BUILT_IN, limit: int | None = None) -> list[Prompt]:
    """Read JSON lines with question_id, category and turns; at most `limit` of a category. Raises: UsageError."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # a JSON string may hold what else splitlines splits at
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}); --prompts takes a file of JSON lines.") from error
    found: list[Prompt] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            prompt = _prompt(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"line {number} of {path} is no prompt; it needs question_id, category and a list of turns."
            ) from error
        seen[prompt.category] = seen.get(prompt.category, 0) + 1
        if limit is None or seen[prompt.category] <= limit:
            found.append(prompt)
    if not found:
        raise UsageError(f"{path} holds no prompts.")
    return found


def _prompt(entry: dict[str, Any]) -> Prompt:
    turns: Any = entry["turns"]
    if not isinstance(turns, list) or not turns:
        raise TypeError("turns must be a list")
    return Prompt(str(entry["question_id"]), str(entry["category"]), tuple(map(str, turns)))


def fingerprint(prompts: Sequence[Prompt]) -> str:
    """The same for the same prompts in the same order, and for no others: 16 hex digits of SHA-256."""
    return hashlib.sha256(json.dumps([astuple(prompt) for prompt in prompts]).encode()).hexdigest()[:16]
