"""Every error a user can meet: one sentence with the cause, the next step, and the process's exit code."""

from __future__ import annotations

from typing import ClassVar


class EdgespecError(Exception):
    """An error whose text is meant for the user: the cause, then what to do next. Never shown with a traceback."""

    exit_code: ClassVar[int] = 1


class GenerationError(EdgespecError):
    """The model produced something unusable (NaN logits, say) or a pass failed."""

    exit_code = 1


class UsageError(EdgespecError):
    """A flag, a setting, a file or a prompt cannot be used as given."""

    exit_code = 2


class ContextFullError(UsageError):
    """The prompt does not fit the context; the text says by how many tokens."""


class ModelError(EdgespecError):
    """A model is missing, incomplete, or cannot run here."""

    exit_code = 3


class DownloadError(EdgespecError):
    """A model's source could not be fetched."""

    exit_code = 4


class ChecksumError(EdgespecError):
    """A file is not the one that was recorded; it was not opened."""

    exit_code = 5


class OutOfMemoryError(EdgespecError):
    """Weights and KV cache do not fit into memory."""

    exit_code = 6


class CancelledError(EdgespecError):
    """The user stopped it."""

    exit_code = 130
