"""A bundle: a directory with a manifest and the files that it names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgespec.bundle.files import Fingerprint, Progress, fingerprint, no_progress, open_plain, sha256
from edgespec.bundle.manifest import FileRecord, Manifest, read_manifest
from edgespec.errors import ChecksumError

GUIDE_NAME: Final = "model.onnx"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model on disk: every file that the manifest names is there, a plain file of the recorded size.

    That holds when `Bundle.open` returns; whether the contents are the recorded ones is for `verify`, which
    `Store.get` has done.
    """

    directory: Path
    manifest: Manifest

    @staticmethod
    def open(directory: Path) -> Bundle:
        """Read the manifest and look at every file's kind and size; nothing else is read.

        Raises: ModelError if the manifest is missing or unusable, ChecksumError if a file is not the recorded one.
        """
        bundle = Bundle(directory, read_manifest(directory))
        bundle.fingerprints()
        return bundle

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def graph(self) -> Path:
        return self.directory / self.manifest.graph

    @property
    def tokenizer(self) -> Path:
        """A head has none: its tokens are its target's."""
        return self.directory / "tokenizer.json"

    @property
    def chat_template(self) -> str | None:
        """The chat template's text; None if the model has none."""
        name = "chat_template.jinja"
        return (self.directory / name).read_text(encoding="utf-8") if name in self.manifest.files else None

    @property
    def guide(self) -> Path | None:
        """Of a table: the graph of a head that guides lookup by the target's hidden states, if it has one."""
        return self.directory / GUIDE_NAME if self.manifest.table and GUIDE_NAME in self.manifest.files else None

    @property
    def context_length(self) -> int:
        return self.manifest.context_length

    @property
    def vocab_size(self) -> int:
        return self.manifest.vocab_size

    @property
    def eos_ids(self) -> tuple[int, ...]:
        return self.manifest.eos_ids

    @property
    def tokenizer_sha256(self) -> str:
        return self.manifest.tokenizer_sha256

    def fingerprints(self) -> dict[str, Fingerprint]:
        """Each file's fingerprint. Raises ChecksumError if one is missing, no plain file, or of another size."""
        found: dict[str, Fingerprint] = {}
        for name, record in self.manifest.files.items():
            try:
                found[name] = fingerprint(self.directory / name)
            except ChecksumError as error:
                raise ChecksumError(f"{error}; {self._remedy}") from error
            if (size := found[name][1]) != record.size:
                raise self._damaged(name, f"has {size} bytes instead of {record.size}")
        return found

    def verify(self, progress: Progress = no_progress) -> None:
        """Hash every file. Raises ChecksumError, naming the first file that is not the recorded one."""
        self.fingerprints()
        total, before = max(self.manifest.size, 1), 0
        for name, record in self.manifest.files.items():
            with open_plain(self.directory / name) as file:
                start = before
                digest = sha256(file, lambda done, start=start: progress("Verifying the model", (start + done) / total))
            if digest != record.sha256:
                raise self._damaged(name, "is not the file that was recorded: its SHA-256 differs")
            before += record.size
        progress("Verifying the model", 1.0)

    def _damaged(self, name: str, what: str) -> ChecksumError:
        return ChecksumError(f"{name} of {self.name} {what}; {self._remedy}")

    @property
    def _remedy(self) -> str:
        return f"get it again with `{self.manifest.pull_command}`"


def record_files(directory: Path, names: Sequence[str]) -> dict[str, FileRecord]:
    """Size and SHA-256 of each named file of `directory`."""
    found: dict[str, FileRecord] = {}
    for name in names:
        with open_plain(directory / name) as file:
            digest = sha256(file)
            found[name] = FileRecord(file.tell(), digest)
    return found
