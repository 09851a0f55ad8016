"""One model gives way to another, in a thread: whatever goes wrong, there is a chat afterwards as there was before."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from threading import Event as Flag

from edgespec.errors import EdgespecError
from edgespec.tui.engine import Engine, Load
from edgespec.tui.messages import Loaded, LoadFailed
from edgespec.tui.workers import Post, explain, give_way, progress_for


@dataclass(slots=True)
class Switch:
    """old: the chat that is open, until it is closed. load, reload: open the new one, and the old one again. beside:
    whether both fit into memory. cancelled: set to keep the old one."""

    old: Engine | None
    load: Load
    reload: Load
    beside: bool
    cancelled: Flag

    def run(self, post: Post) -> None:
        """Open the new chat; posts Loaded, with the problem if it is the old one again, or LoadFailed."""
        give_way()
        progress = progress_for(self.cancelled, post)
        if not self.beside:
            self._let_go()
        try:
            chat = self.load(progress)
        except Exception as error:
            self._go_back(explain(error, "The model did not load"), post)
        else:
            self._let_go()
            post(Loaded(chat))

    def _go_back(self, problem: EdgespecError, post: Post) -> None:
        if self.old is not None:
            post(Loaded(self.old, problem))
            return
        self.cancelled.clear()
        try:
            chat = self.reload(progress_for(self.cancelled, post))
        except Exception as error:
            post(LoadFailed(explain(error, "The model did not load")))
        else:
            post(Loaded(chat, problem))

    def _let_go(self) -> None:
        """Close the old chat and give its memory back before more is taken."""
        if self.old is not None:
            self.old.close()
            self.old = None
            gc.collect()


def introduction(chat: Engine) -> str:
    """Who answers from now on."""
    return f"(now {chat.model}, draft {chat.draft or 'none'}, on {chat.device})"
