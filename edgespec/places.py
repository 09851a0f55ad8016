"""Where edgespec keeps things. EDGESPEC_HOME moves all of it."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path


def models_directory() -> Path:
    """Where bundles live: $EDGESPEC_HOME/models, else models/ of a checkout, else the platform's data directory."""
    if home := _home():
        return home / "models"
    checkout = Path(__file__).resolve().parents[1]
    if _is_checkout(checkout):
        return checkout / "models"
    import platformdirs

    return platformdirs.user_data_path("edgespec", appauthor=False) / "models"


def shipped_directory() -> Path:
    """Where the bundles are that come with the program: in the installed package, else models/ of the checkout."""
    installed = Path(__file__).parent / "shipped"
    return installed if installed.is_dir() else Path(__file__).resolve().parents[1] / "models"


def data_directory() -> Path:
    """Where what was said is kept: $EDGESPEC_HOME/data, else the platform's data directory."""
    if home := _home():
        return home / "data"
    import platformdirs

    return platformdirs.user_data_path("edgespec", appauthor=False)


def conversations_directory() -> Path:
    """Where what is said in the chat is kept, private to the user."""
    return data_directory() / "conversations"


def history_directory() -> Path:
    """Where answers are kept for later drafts, all of them private to the user."""
    return data_directory() / "history"


def config_file() -> Path:
    """What the user has settled on: $EDGESPEC_HOME/config.toml, else in the platform's config directory."""
    if home := _home():
        return home / "config.toml"
    import platformdirs

    return platformdirs.user_config_path("edgespec", appauthor=False) / "config.toml"


def state_directory() -> Path:
    """Where logs live: $EDGESPEC_HOME/state, else the platform's state directory."""
    if home := _home():
        return home / "state"
    import platformdirs

    return platformdirs.user_state_path("edgespec", appauthor=False)


def _home() -> Path | None:
    value = os.environ.get("EDGESPEC_HOME")
    return Path(value).expanduser().absolute() if value else None


def _is_checkout(directory: Path) -> bool:
    if not (directory / "app.py").is_file():
        return False
    try:
        project = tomllib.loads((directory / "pyproject.toml").read_text(encoding="utf-8"))
        return project["project"]["name"] == "edgespec"
    except (OSError, ValueError, KeyError, TypeError):
        return False
