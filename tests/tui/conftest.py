from __future__ import annotations

import pytest
from scripted import ScriptedChat


@pytest.fixture
def chat() -> ScriptedChat:
    return ScriptedChat()
