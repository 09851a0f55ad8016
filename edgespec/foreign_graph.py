"""What a graph that somebody else made can be trusted with: verifying drafts, and exact mode."""

from __future__ import annotations

from edgespec.bundle import Bundle, ForeignBundle
from edgespec.decoding.exactness import splits_agree
from edgespec.errors import GenerationError, ModelError
from edgespec.runtime.model import OnnxCausalLM
from edgespec.runtime.onnx_nodes import operators_and_files

_SCALED_OVER_ROWS = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul"}
_SPLITS, _TAIL = (1, 3), 8
"""A short probe, since it precedes every start: ten passes."""


def draft_obstacle(bundle: ForeignBundle) -> str | None:
    """Why drafts cannot be verified with the graph, as the beginning of a sentence; None if they can.

    ONNX Runtime's dynamic quantization scales activations over a whole tensor, all rows of the pass together, so the
    logits of a row are others with a draft behind it than without.
    """
    if operators_and_files(bundle.graph)[0] & _SCALED_OVER_ROWS:
        return f"{bundle.graph.name} quantizes its activations over all rows of a pass, so it cannot verify drafts"
    return None


def exact_mode_holds(bundle: Bundle | ForeignBundle, model: OnnxCausalLM) -> bool:
    """Whether splits of a text into passes agree, as far as a short probe tells; `doctor` has a longer one.

    Raises: ModelError if the graph does not give what its description promises.
    """
    try:
        return splits_agree(model, _SPLITS, _TAIL)
    except GenerationError as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"{bundle.graph} cannot run here: it gives no row of logits for each token ({reason})"
        ) from error
