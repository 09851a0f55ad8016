"""config.toml: read strictly, written with its comments and its order kept."""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgespec.config.keymap import check_clashes
from edgespec.config.options import OPTIONS, Option, Value, find_option
from edgespec.errors import UsageError
from edgespec.places import config_file

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Config:
    """What the file at `path` says: `values` by the options' names, with nothing for what it leaves out."""

    path: Path
    values: Mapping[str, Value] = field(default_factory=dict[str, Value])

    def flags(self) -> dict[str, Value]:
        """The values by the parameters of the commands that they stand in for."""
        return {flag: value for name, value in self.values.items() if (flag := OPTIONS[name].flag) is not None}

    def keys(self) -> dict[str, str]:
        """Keys by the actions of the chat that they were chosen for: the ids of its bindings."""
        return {n.removeprefix("keys."): str(v) for n, v in self.values.items() if n.startswith("keys.")}


def read_config(path: Path | None = None) -> Config:
    """The user's config, or that at `path`; no file is an empty one.

    Raises: UsageError, naming file and option, for whatever in it is not understood.
    """
    path = config_file() if path is None else path
    with _blamed(path):
        values = {name: _known(name).check(value) for name, value in _flat(_parse(path)).items()}
        config = Config(path, values)
        check_clashes(config.keys())
    return config


def set_value(path: Path, option: Option, value: Value) -> None:
    """Write the option into the file, whole or not at all; whatever else is in it stays.

    Raises: UsageError if the file is no TOML, cannot be written, or its keys would clash.
    """
    import tomlkit

    with _blamed(path):
        document = _document(path)
        table, _, key = option.name.rpartition(".")
        if table and not isinstance(document.setdefault(table, tomlkit.table()), dict):
            raise UsageError(f"{table} must be a table, [{table}], not a value.")
        place: Any = document[table] if table else document
        place[key] = value
        if table == "keys":
            check_clashes({name: str(keys) for name, keys in place.unwrap().items()})
        _write(path, tomlkit.dumps(document))


def unset_value(path: Path, name: str) -> bool:
    """Take an option out of the file, also one that is not known; False if it is not there. Raises: as `set_value`."""
    import tomlkit

    with _blamed(path):
        document = _document(path)
        table, _, key = name.rpartition(".")
        place: Any = document.get(table, {}) if table else document
        if not isinstance(place, dict) or key not in place:
            return False
        del place[key]
        if table and not place:
            del document[table]
        _write(path, tomlkit.dumps(document))
    return True


def _document(path: Path) -> TOMLDocument:
    import tomlkit

    _parse(path)  # with tomllib's messages
    return tomlkit.parse(path.read_text(encoding="utf-8")) if path.exists() else tomlkit.document()


def _parse(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UsageError("it is too large to be a config; move it away.")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UsageError(f"it cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"it is no TOML ({error}); `edgespec config edit` opens it.") from error


def _flat(document: dict[str, Any]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            found |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            found[name] = value
    return found


def _known(name: str) -> Option:
    """Strictly: in the file, names are written in full."""
    if name not in OPTIONS:
        raise UsageError(f"there is no option {name}; did you mean {find_option(name).name}?")
    return OPTIONS[name]


@contextmanager
def _blamed(path: Path) -> Generator[None]:
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error


def _write(path: Path, text: str) -> None:
    path = path.resolve()  # people keep such files behind links
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".config-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
