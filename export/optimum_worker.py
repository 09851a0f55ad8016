"""Runs Optimum's exporter; a process of its own, started by optimum_export.py. argv: the checkpoint, where to write.

Its sessions have threads of their own, which ONNX Runtime forbids in a process with a shared pool; and the memory that
torch took is free again afterwards. The last line of stderr says why it failed.
"""

from __future__ import annotations

import sys

from optimum.exporters.onnx import main_export


def main() -> None:
    folder, out = sys.argv[1:]
    try:
        main_export(
            folder,
            out,
            task="text-generation-with-past",
            framework="pt",
            trust_remote_code=False,
            no_post_process=True,
            do_validation=False,
        )
    except Exception as error:  # whatever a model's code, torch's tracer or Optimum's table of architectures raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        sys.exit(lines[0])


if __name__ == "__main__":
    main()
