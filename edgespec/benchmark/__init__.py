"""Is speculation worth it here, and is it lossless? What `edgespec bench` measures, compares and draws."""

from edgespec.benchmark.measure import Row, converse, measure
from edgespec.benchmark.prompts import BUILT_IN, Prompt, read_prompts
from edgespec.benchmark.summary import Summary, summarize

__all__ = ["BUILT_IN", "Prompt", "Row", "Summary", "converse", "measure", "read_prompts", "summarize"]
