"""Conversations that outlive the program: a tree of messages each, kept in one SQLite file of the user's own."""

from typing import Final

FILE: Final = "conversations.sqlite3"
