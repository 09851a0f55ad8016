"""Runs in an environment of onnxruntime-genai's own: builds its model of a checkpoint and generates greedily.

argv: the checkpoint, where to write, the prompt's ids and how many tokens, both as JSON. stdout: the tokens, as JSON.
"""

import json
import subprocess
import sys

import onnxruntime_genai as og  # pyright: ignore[reportMissingImports]


def main() -> None:
    checkpoint, out, prompt, count = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    subprocess.run([*builder, "-i", checkpoint, "-o", out, "-p", "int4", "-e", "cpu", "-c", f"{out}.cache"], check=True)
    model = og.Model(out)
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + count, do_sample=False)
    generator = og.Generator(model, parameters)
    generator.append_tokens(prompt)
    tokens: list[int] = []
    while not generator.is_done():
        generator.generate_next_token()
        tokens.append(int(generator.get_next_tokens()[0]))
    sys.stdout.write("\n" + json.dumps(tokens))


main()
