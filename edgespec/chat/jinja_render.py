"""The one place that renders a chat template: in this process, or, run as a script, in a process with limits.

As a script it imports nothing of ours, reads one line of JSON {"source", "variables"} and writes one: {"text"} or
{"error"}.
"""

from __future__ import annotations

import contextlib
import json
import sys
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_RENDERED = 1 << 20
"""The most characters a template may write around the messages."""

_MEMORY_BYTES = 192 << 20
_CPU_SECONDS = 2


def render(source: str, variables: dict[str, Any]) -> str:
    """Render a chat template in Jinja's immutable sandbox, with the helpers that Hugging Face's templates count on.

    Raises: jinja2.TemplateError, or whatever else a template manages to raise.
    """
    text = _compile(source).render(variables)
    if len(text) > MAX_RENDERED:
        raise TemplateError(f"it writes {len(text)} characters around the messages")
    return text


@lru_cache(maxsize=4)
def _compile(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    return environment.from_string(source, globals={"raise_exception": _refuse, "strftime_now": _now})


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _limit_resources() -> None:
    """Where the system has no such limits, the parent's clock is the only one."""
    if sys.platform == "win32":
        return
    import resource

    for limit, most in ((resource.RLIMIT_AS, _MEMORY_BYTES), (resource.RLIMIT_CPU, _CPU_SECONDS)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (most, most))


def _work() -> None:
    _limit_resources()
    try:
        reply = {"text": render(**json.loads(sys.stdin.buffer.readline()))}
    except MemoryError:
        reply = {"error": "it needs too much memory"}
    except Exception as error:
        reply = {"error": (str(error) or type(error).__name__)[:300]}
    sys.stdout.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    _work()
