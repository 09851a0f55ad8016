"""Starts the chat from a checkout: `python app.py`."""

from __future__ import annotations

from edgespec.cli.main import main

if __name__ == "__main__":
    main()
