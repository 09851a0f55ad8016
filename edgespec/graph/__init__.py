"""Weights on disk -> ONNX graph, tokenizer and chat template. Needed once per model, never to chat; no torch.

config.py        a model's description, the same for every family
weights.py       what the graph asks of its weights
gguf_reader.py   what a GGUF file holds, checked
gguf_families.py gguf_model.py   its metadata as a description, its tensors as weights
tokenizer.py     its tokenizer, special tokens and chat template
byte_level.py sentencepiece_bpe.py   the two kinds of BPE
families.py      config.json of a checkpoint as a description
rope_types.py    the ways in which it scales its rotation
settings.py      its values, with their types checked
safetensors_reader.py   where a file's tensors lie, checked
checkpoint.py    the tensors of a folder as weights
quantize.py int4.py   weights as float32, int8 or int4
rotary.py        how fast the pairs of a head turn
forward.py       a model's forward pass in NumPy
equalize.py      evening out the channels that int8 products read
formats.py       embedding and linear layers in either
builder.py       an ONNX graph whose weights are streamed to disk
attention.py     a layer's attention, with lengths and positions
decoder.py       the graph of any family
eagle.py eagle_checkpoint.py   an EAGLE-3 head
reference.py     what the weights say in float32
convert.py       all of it together
"""

from __future__ import annotations

from edgespec.graph.convert import Converted, convert_checkpoint, convert_gguf, formats_to_try
from edgespec.graph.reference import reference_logits

__all__ = ["Converted", "convert_checkpoint", "convert_gguf", "formats_to_try", "reference_logits"]
