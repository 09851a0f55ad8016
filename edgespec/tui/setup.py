"""What the chat runs with: the config's values, and what was changed since."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgespec.config import OPTIONS, Value
from edgespec.config.file import set_value, unset_value
from edgespec.errors import UsageError
from edgespec.tui.engine import Load, Progress

if TYPE_CHECKING:
    from edgespec.choices import Choice

Kind = Literal["model", "draft"]


@dataclass(frozen=True, slots=True)
class Choosing:
    """find: the choices, which takes a moment. pull: fetches one that is not here, and the draft that goes with it.
    predict: times graphs of a choice's shape, and says in a sentence whether it could be faster with its draft."""

    find: Callable[[], Sequence[Choice]]
    pull: Callable[[str, Progress], object]
    predict: Callable[[Choice], str]


Fits = Callable[[Mapping[str, Value]], bool]
"""Whether the model that such values name fits into memory beside the one that is open."""


def always_fits(_values: Mapping[str, Value]) -> bool:
    return True


def fits_here(values: Mapping[str, Value]) -> bool:
    from edgespec.choices import fits_beside  # what it needs is not there before a model is

    return fits_beside(values)


def choose_here(kind: Kind, model: str) -> Choosing:
    """The models of this machine and of the catalog, or the drafts for `model`."""

    def find() -> Sequence[Choice]:
        from edgespec.bundle import default_store
        from edgespec.choices import draft_choices, model_choices

        return model_choices(default_store()) if kind == "model" else draft_choices(model, default_store())

    def fetch(name: str, progress: Progress) -> object:
        from edgespec.bundle import default_store
        from edgespec.pull import pull

        return pull(name, default_store(), progress=progress)

    def predict(choice: Choice) -> str:
        from edgespec.choices import predict_here

        return predict_here(choice)

    return Choosing(find, fetch, predict)


def keymap(values: Mapping[str, Value]) -> dict[str, str]:
    """Keys by the ids of the bindings that they were chosen for, as Textual takes them."""
    return {name.removeprefix("keys."): str(keys) for name, keys in values.items() if name.startswith("keys.")}


@dataclass(slots=True)
class Setup:
    """values: by the options' names. path: the file that `keep` writes, None where nothing is kept. opener: from values
    to what opens a chat as they say."""

    opener: Callable[[Mapping[str, Value]], Load]
    fits: Fits = always_fits
    choosing: Callable[[Kind, str], Choosing] = choose_here
    values: dict[str, Value] = field(default_factory=dict[str, Value])
    path: Path | None = None

    def keep(self, name: str, value: Value | None) -> str | None:
        """Write an option to the config, or take it out; what kept it from being written, or None."""
        self.values = self.changed({name: value})
        if self.path is None:
            return None
        try:
            if value is None:
                unset_value(self.path, name)
            else:
                set_value(self.path, OPTIONS[name], value)
        except UsageError as error:
            return str(error)
        return None

    def changed(self, changes: Mapping[str, Value | None]) -> dict[str, Value]:
        """The values with `changes` made; None takes one out."""
        return {name: value for name, value in {**self.values, **changes}.items() if value is not None}
