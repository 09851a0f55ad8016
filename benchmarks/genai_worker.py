"""Runs inside the peer's own virtual environment: onnxruntime-genai's loop over our graph, one JSON line per prompt.

argv: the model directory, tokens per answer. stdout: its versions. stdin: {"ids": [...]}. stdout: {"tokens": [...],
"ms": decoding time}.
"""

import contextlib
import json
import sys
import time

import onnxruntime  # pyright: ignore[reportMissingTypeStubs]
import onnxruntime_genai as og  # pyright: ignore[reportMissingImports]


def main() -> None:
    with contextlib.redirect_stdout(sys.stderr):  # it prints what it does not find
        onnxruntime.preload_dlls()  # the libraries of CUDA that were installed beside it, if any
    model, count = og.Model(sys.argv[1]), int(sys.argv[2])
    sys.stdout.write(json.dumps(f"{og.__version__}, ONNX Runtime {onnxruntime.__version__}") + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        ids = json.loads(line)["ids"]
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(max_length=len(ids) + count, do_sample=False)
        generator = og.Generator(model, parameters)
        generator.append_tokens(ids)
        tokens: list[int] = []
        first = last = time.perf_counter()
        while not generator.is_done() and len(tokens) < count:
            generator.generate_next_token()
            tokens.append(int(generator.get_next_tokens()[0]))
            last = time.perf_counter()
            first = first if len(tokens) > 1 else last
        sys.stdout.write(json.dumps({"tokens": tokens, "ms": (last - first) * 1e3}) + "\n")
        sys.stdout.flush()


main()
