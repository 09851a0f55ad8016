"""Models that others exported, opened where they lie: Optimum's, onnx-community's and onnxruntime-genai's folders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

from edgespec.bundle.files import fingerprint, open_plain, sha256
from edgespec.errors import ChecksumError, ModelError
from edgespec.model_folder import DESCRIPTIONS, ModelFolder, is_count, read_object

_GENAI = "genai_config.json"
_SMALL_ON_CPU = ("q4", "", "q8", "quantized", "int8", "uint8", "q4f16", "fp16")
_SMALL_ON_CUDA = ("q4f16", "fp16", *_SMALL_ON_CPU[:-2])
"""What follows `model_` in the names of onnx-community's files, best first: 4-bit weights with activations of the
device's own type, then whole ones. The 8-bit files come after those: their activations are scaled over all rows of a
pass, so that drafts cannot be verified with them."""


@dataclass(frozen=True, slots=True)
class ForeignBundle:
    """A model in a folder of the user's own, which no manifest describes.

    Nothing but the tokenizer is hashed: nobody recorded what the files ought to be. They are plain files inside the
    folder, though, those that hold the weights included once `require_plain` was told their names. `graph` lies in
    `directory` or one below. `head_size`: of the KV cache, where the graph leaves it open and the settings know it.
    """

    name: str
    directory: Path
    graph: Path
    tokenizer_sha256: str
    chat_template: str | None
    context_length: int
    vocab_size: int
    eos_ids: tuple[int, ...]
    head_size: int | None

    @property
    def tokenizer(self) -> Path:
        return self.directory / "tokenizer.json"

    def require_plain(self, data_files: Iterable[str]) -> None:
        """Refuse weights outside the folder, and links. `data_files`: the names that the graph has for them.

        Raises: ModelError naming the file.
        """
        for name in data_files:
            parts = PurePosixPath(name).parts
            if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name:
                raise ModelError(f"{self.graph} keeps weights outside its folder ({name}), so it was not opened.")
            _require_plain(self.graph.parent, name)


def is_foreign(path: Path) -> bool:
    """Whether there is something for `open_foreign` at `path`: an ONNX file, or a folder without a manifest of ours."""
    return path.suffix == ".onnx" or (path.is_dir() and not (path / "edgespec.json").exists())


def open_foreign(path: Path, device: Literal["cpu", "cuda"]) -> ForeignBundle:
    """Describe the model in a folder, with the best of its graphs for `device`; or that of one ONNX file.

    Raises: ModelError if there is none, a file that belongs to it is missing, malformed or a link, or it is of a kind
    that cannot be driven here.
    """
    directory, chosen = path, None
    if path.suffix == ".onnx":
        chosen = path
        directory = path.parent if (path.parent / "tokenizer.json").exists() else path.parent.parent
    for name in (*DESCRIPTIONS, _GENAI):
        if (directory / name).is_symlink() or (directory / name).exists():
            _require_plain(directory, name)
    genai = _genai_model(directory)
    graph = chosen or _genai_graph(directory, genai) or _best_graph(directory, device)
    _require_plain(directory, str(graph.relative_to(directory)))
    folder = ModelFolder.read(directory)
    folder = replace(folder, config={**folder.config, **_settings(genai)})
    if folder.config.get("is_encoder_decoder") is True:
        raise ModelError(f"{directory} cannot run here: it is an encoder-decoder model; choose one that only decodes.")
    with open_plain(directory / "tokenizer.json") as file:
        digest = sha256(file)
    return ForeignBundle(
        name=directory.resolve().name,
        directory=directory,
        graph=graph,
        tokenizer_sha256=digest,
        chat_template=folder.chat_template(),
        context_length=_context_length(folder),
        vocab_size=folder.shared_vocab_size(),
        eos_ids=folder.end_of_text_ids(),
        head_size=size if is_count(size := folder.config.get("head_dim")) else None,
    )


def _require_plain(directory: Path, name: str) -> None:
    """Raise ModelError unless `directory / name` is a plain file, reached through no link below `directory`."""
    try:
        for parent in list(PurePosixPath(name).parents)[:-1]:
            if (directory / parent).is_symlink():
                raise ChecksumError(f"{directory / parent} is a link, not a plain folder")
        fingerprint(directory / name)
    except ChecksumError as error:
        raise ModelError(f"{error}; copy the whole folder (`cp -rL` replaces links by files).") from error


def _genai_model(directory: Path) -> Mapping[str, Any]:
    """The `model` of genai_config.json; empty without one."""
    model = read_object(directory / _GENAI).get("model", {})
    if not isinstance(model, dict):
        raise ModelError(f"{directory / _GENAI} describes no model; export it again.")
    return cast("dict[str, Any]", model)


def _genai_graph(directory: Path, model: Mapping[str, Any]) -> Path | None:
    """The graph that genai_config.json names. ModelError for models of several graphs, which it can describe too."""
    if not model:
        return None
    decoder: object = model.get("decoder")
    others = sorted({"encoder", "vision", "speech", "embedding"} & model.keys())
    if others:
        raise ModelError(f"{directory} cannot run here: beside its decoder it has a part for {others[0]}.")
    name = cast("dict[str, Any]", decoder).get("filename") if isinstance(decoder, dict) else None
    if not isinstance(decoder, dict) or "pipeline" in decoder or not isinstance(name, str):
        raise ModelError(f"{directory} cannot run here: {_GENAI} names no graph that is a whole decoder.")
    if PurePosixPath(name).name != name:
        raise ModelError(f"{directory / _GENAI} names a graph outside its folder ({name}), so it was not opened.")
    return directory / name


def _best_graph(directory: Path, device: Literal["cpu", "cuda"]) -> Path:
    ranking = _SMALL_ON_CUDA if device == "cuda" else _SMALL_ON_CPU
    found = [
        path
        for suffix in ranking
        for folder in (directory / "onnx", directory)
        if (path := folder / (f"model_{suffix}.onnx" if suffix else "model.onnx")).is_symlink() or path.exists()
    ]
    if found:
        return found[0]
    onnx = sorted(path.name for folder in (directory, directory / "onnx") for path in folder.glob("*.onnx"))
    if any("encoder_model" in name for name in onnx):
        raise ModelError(f"{directory} cannot run here: it is an encoder-decoder model; choose one that only decodes.")
    if "decoder_model_merged.onnx" in onnx:
        raise ModelError(
            f"{directory} cannot run here: its decoder_model_merged.onnx has a branch of its own for the first pass, "
            "as old exports have; export it again with `python -m export`."
        )
    if onnx:
        raise ModelError(f"{directory} has no model.onnx; name one of its files instead: {', '.join(onnx[:5])}.")
    if any(directory.glob("*.safetensors")):
        raise ModelError(f"{directory} holds weights but no graph; `edgespec pull {directory}` converts them.")
    raise ModelError(f"{directory} holds no model: neither edgespec.json nor {_GENAI} nor model.onnx is in it.")


def _settings(genai: Mapping[str, Any]) -> dict[str, Any]:
    """What genai_config.json says, in the words of config.json. The head size is never taken for hidden size by heads,
    which is wrong for some models."""
    decoder = cast("dict[str, Any]", genai.get("decoder", {}))
    said = {
        "max_position_embeddings": genai.get("context_length"),
        "vocab_size": genai.get("vocab_size"),
        "eos_token_id": genai.get("eos_token_id"),
        "head_dim": decoder.get("head_size"),
    }
    return {key: value for key, value in said.items() if value is not None}


def _context_length(folder: ModelFolder) -> int:
    length = folder.context_length()
    if length is None:
        raise ModelError(
            f"nothing in {folder.directory} says how long the model's context is; "
            "give config.json its max_position_embeddings."
        )
    return length
