"""From the config's values to what the engine takes, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from edgespec.chat.session import MAX_TOKENS, Chat, Settings
from edgespec.config import Value
from edgespec.decoding.sampling import Sampling
from edgespec.engine import Notice, Progress, Resources, open_chat
from edgespec.runtime.device import DeviceChoice

_SAMPLING = ("temperature", "top-k", "top-p", "min-p", "repeat-penalty")


def settings_from(values: Mapping[str, Value], base: Settings | None = None) -> Settings:
    """The settings that `values` say; what the config has no option for is as in `base`. Raises: UsageError."""
    base = base or Settings()
    named = {name: values.get(f"sampling.{name}") for name in _SAMPLING}
    chosen: dict[str, Any] = {name.replace("-", "_"): value for name, value in named.items() if value is not None}
    return replace(
        base,
        sampling=Sampling(**chosen, seed=base.sampling.seed),
        max_tokens=cast(int, values.get("max-tokens", MAX_TOKENS)),
        system=cast("str | None", values.get("system")),
    )


def values_from(settings: Settings) -> dict[str, Value]:
    """What `settings_from` makes these settings of."""
    found: dict[str, Value] = {f"sampling.{n}": getattr(settings.sampling, n.replace("-", "_")) for n in _SAMPLING}
    found["max-tokens"] = settings.max_tokens
    return found if settings.system is None else {**found, "system": settings.system}


def changed_settings(settings: Settings, changes: Mapping[str, Value | None]) -> Settings:
    """`settings` with options changed, or, where the value is None, as usual again. Raises: UsageError."""
    values = {**values_from(settings), **changes}
    return settings_from({name: value for name, value in values.items() if value is not None}, settings)


def open_configured(values: Mapping[str, Value], *, history: Path | None, progress: Progress, notice: Notice) -> Chat:
    """`open_chat` as the config's `values` say. Raises: as `open_chat`."""
    return open_chat(
        cast("str | None", values.get("model")),
        draft=cast("str | None", values.get("draft")),
        settings=settings_from(values),
        resources=Resources(
            cast("int | None", values.get("context")),
            cast("int | None", values.get("threads")),
            cast(DeviceChoice, values.get("device", "auto")),
            cast("DeviceChoice | None", values.get("draft-device")),
        ),
        history=history,
        progress=progress,
        notice=notice,
    )
