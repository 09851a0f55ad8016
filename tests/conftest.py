"""Makes tests/fakes.py importable from every test folder, and settles how Hypothesis runs."""

from __future__ import annotations

from hypothesis import settings

# No deadline: these machines are shared. Derandomized: what passes today passes tomorrow.
settings.register_profile("edgespec", deadline=None, derandomize=True)
settings.load_profile("edgespec")
