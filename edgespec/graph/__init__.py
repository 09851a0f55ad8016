"""Weights on disk -> ONNX graph, tokenizer and chat template. Needed once per model, never to chat; no torch.

gguf_reader.py   what a GGUF file holds, checked
config.py        its metadata as the sizes of a llama model
quantize.py      its weights as float32 or int8
rotary.py        how fast the pairs of a head turn
equalize.py      evening out the channels that int8 products read
formats.py       embedding and linear layers in either
builder.py       an ONNX graph whose weights are streamed to disk
llama.py         the llama family's graph
tokenizer.py     its tokenizer
convert.py       all of it together
"""

from __future__ import annotations

from edgespec.graph.convert import Converted, convert_gguf

__all__ = ["Converted", "convert_gguf"]
