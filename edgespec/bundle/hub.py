"""What a Hugging Face repository holds, which of it a bundle is made of, and why it cannot be had."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from edgespec.errors import DownloadError, EdgespecError, ModelError, UsageError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

_REFERENCE = re.compile(
    r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[^@:]+))?(:(?P<file>[^@:]+\.gguf))?", re.ASCII
)
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_TEXTS = (".json", ".jinja", ".model")
_TEXT_FILES = ("merges.txt", "vocab.txt")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class HubReference:
    """OWNER/NAME[@REVISION][:FILE.gguf]: a repository, a branch, tag or commit of it, and one GGUF file of it."""

    repository: str
    revision: str = "main"
    file: str | None = None

    @staticmethod
    def parse(text: str) -> HubReference | None:
        """None if `text` is no such reference."""
        match = _REFERENCE.fullmatch(text)
        if match is None or (match["file"] is None and text.endswith(".gguf")):
            return None
        return HubReference(match["repository"], match["revision"] or "main", match["file"])


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file at `path` of a repository. `digest`: a large file's SHA-256, a small one's SHA-1 as git computes it."""

    path: str
    size: int
    digest: str

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name


@dataclass(frozen=True, slots=True)
class HubModel:
    """The files of one commit of a repository that a bundle is made of."""

    repository: str
    revision: str
    license: str | None
    files: tuple[HubFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def is_gguf(self) -> bool:
        """Whether it is one GGUF file, not a checkpoint."""
        return self.files[0].name.endswith(".gguf")

    @property
    def sha256(self) -> str:
        """A GGUF file's own SHA-256; of a checkpoint, that of its files' names and digests."""
        if self.is_gguf and len(self.files[0].digest) == 64:
            return self.files[0].digest
        return hashlib.sha256("".join(f"{file.digest} {file.path}\n" for file in self.files).encode()).hexdigest()


def look_up(reference: HubReference) -> HubModel:
    """Ask the Hub which commit the revision is now, and what it holds.

    HF_ENDPOINT, HF_HOME and HF_TOKEN count as they do for huggingface_hub. Raises: DownloadError if the Hub cannot be
    reached or refuses, ModelError if nothing in the repository can become a bundle.
    """
    with hub_errors(reference.repository):
        from huggingface_hub import HfApi

        api = HfApi(endpoint=endpoint(), library_name="edgespec")
        info = api.model_info(reference.repository, revision=reference.revision, files_metadata=True)
    if info.sha is None or not _COMMIT.fullmatch(info.sha):
        raise DownloadError(f"the Hub did not say which commit {reference.revision} of {reference.repository} is")
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    paths = [reference.file] if reference.file else _checkpoint(reference.repository, list(siblings))
    if reference.file and reference.file not in siblings:
        raise ModelError(f"{reference.repository} has no {reference.file}; {_offer(list(siblings))}")
    files = tuple(_file(reference.repository, siblings[path]) for path in sorted(paths))
    return HubModel(reference.repository, info.sha, _license(info), files)


def endpoint() -> str:
    """The Hub's address: HF_ENDPOINT as it is now, else the library's own."""
    from huggingface_hub import constants

    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


@contextlib.contextmanager
def hub_errors(repository: str) -> Generator[None]:
    """Within, huggingface_hub is quiet, and what it raises becomes a DownloadError that says what to do."""
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import disable_progress_bars, logging  # pyright: ignore[reportPrivateImportUsage]

    # Not its environment variables: they count only until somebody first imports the library.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    disable_progress_bars()
    logging.set_verbosity_error()
    try:
        yield
    except EdgespecError:
        raise
    except errors.OfflineModeIsEnabled as error:
        raise DownloadError(f"{repository} cannot be fetched while HF_HUB_OFFLINE is set; unset it") from error
    except errors.HFValidationError as error:
        raise UsageError(f"{repository} cannot be the name of a repository; write OWNER/NAME") from error
    # Not every version's connection errors are OSErrors.
    except (OSError, errors.HTTPError) as error:  # pyright: ignore[reportPrivateImportUsage]
        if getattr(error, "errno", None) is not None and getattr(error, "response", None) is None:
            raise  # the disk's, not the network's
        raise DownloadError(_sentence(repository, error)) from error


def _sentence(repository: str, error: Exception) -> str:
    from huggingface_hub import errors, get_token

    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    token = get_token() is not None
    if isinstance(error, errors.GatedRepoError):
        page = f"{endpoint()}/{repository}"
        if token and status == 403:
            return f"{repository} is gated and your token may not read it; ask for access on {page}, then try again"
        return f"{repository} is gated; accept its terms on {page}, set HF_TOKEN to a token of yours, and try again"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} has no such revision; leave @REVISION out, or name a branch, tag or commit that it has"
    if status == 401 and token:
        return f"the Hub refused your token for {repository}; check HF_TOKEN, or make a new token on {endpoint()}"
    if status == 401:
        return f"the Hub has no {repository} that anybody may read; check the name, or set HF_TOKEN if it is private"
    if status == 403:
        return f"your token may not read {repository}; give it that right on {endpoint()}, or use another in HF_TOKEN"
    if status == 404:
        return f"the Hub has no {repository}; check the name on {endpoint()}"
    if status is not None:
        return f"the Hub answered with HTTP {status} for {repository}; try again later: what was fetched is kept"
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"{endpoint()} could not be reached ({reason}); check the network and HF_ENDPOINT, then try again: "
        "what was fetched is kept"
    )


def _checkpoint(repository: str, paths: Sequence[str]) -> list[str]:
    """Weights, configuration, tokenizer and template at the repository's top; never code, pickles or other formats."""
    plain = [path for path in paths if _PLAIN.fullmatch(path)]
    weights = [path for path in plain if _WEIGHTS.fullmatch(path)]
    if not weights or "config.json" not in plain:
        raise ModelError(f"{repository} has no config.json with model.safetensors; {_offer(paths)}")
    sharded = [path for path in weights if path != "model.safetensors"]
    if "model.safetensors" in weights and sharded:
        weights = ["model.safetensors"]
    texts = [path for path in plain if path.endswith(_TEXTS) or path in _TEXT_FILES]
    return weights + [path for path in texts if not path.endswith(".safetensors.index.json") or sharded]


def _offer(paths: Sequence[str]) -> str:
    ggufs = sorted(path for path in paths if path.endswith(".gguf"))
    if not ggufs:
        return "choose a repository with a model in safetensors or GGUF"
    return f"name one of its GGUF files as OWNER/NAME:FILE.gguf: {', '.join(ggufs[:8])}"


def _file(repository: str, sibling: RepoSibling) -> HubFile:
    digest = sibling.lfs.sha256 if sibling.lfs is not None else sibling.blob_id
    file = HubFile(sibling.rfilename, sibling.size or 0, digest or "")
    sized = sibling.size is not None and sibling.size >= 0
    if not sized or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", file.digest) or not _PLAIN.fullmatch(file.name):
        raise DownloadError(f"the Hub did not say the size and hash of {file.path} in {repository}; try again later")
    return file


def _license(info: ModelInfo) -> str | None:
    card: Any = info.card_data
    found: object = card.get("license") if card is not None else None
    return found if isinstance(found, str) else None
