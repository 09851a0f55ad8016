"""From the config's values to what the engine takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from edgespec.chat.session import Chat, Settings
from edgespec.config import Value
from edgespec.engine import Notice, Progress, Resources, open_chat
from edgespec.runtime.device import DeviceChoice

_SAMPLING = "sampling."


def settings_from(values: Mapping[str, Value], base: Settings | None = None) -> Settings:
    """`base`, or the usual settings, changed to what `values` say; the empty system message is none."""
    base = base or Settings()
    changes: dict[str, Any] = {
        name.removeprefix(_SAMPLING).replace("-", "_"): value
        for name, value in values.items()
        if name.startswith(_SAMPLING)
    }
    return replace(
        base,
        sampling=replace(base.sampling, **changes),
        max_tokens=cast(int, values.get("max-tokens", base.max_tokens)),
        system=cast("str | None", values.get("system", base.system)) or None,
    )


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
        ),
        history=history,
        progress=progress,
        notice=notice,
    )
