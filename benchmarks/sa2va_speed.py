"""How much faster a whole action table of Sa2VA is than the loop of `predict_forward` calls that it replaces.

    python -m benchmarks.sa2va_speed --code FOLDER [--sizes 1B 4B 8B] [--stream 20 200 2000]

Runs on one CUDA device. FOLDER holds the model's own code: `projects/sa2va/hf/models` of bytedance/Sa2VA, or
the *.py of a checkpoint with a Qwen2 language model. Checkpoints of the released geometries are made on the
spot with random weights, images are made too. All figures are of this run: `predict_forward` is timed over
`--calls` calls (after two to warm up), and the loop of 2,048 calls is their mean times 2,048: extrapolated,
nothing else is. The table is 20 images x 12 prompts, from pictures in host memory to logits there: the median
of 3.

`TFLOP` is what PyTorch's counter says of the table's matrix products, convolutions and attention; `limit` is
the time of that at half of `--rate`, the card's dense bfloat16 rate by its datasheet. `busy` is the time in
which a kernel or a copy ran (CUPTI, by torch.profiler, in a run of its own) over that run's wall time.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PARTS = ("table", "stage", "batches", "stream")


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for one in rows:
        cells = (f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in one.values())
        print("| " + " | ".join(cells) + " |", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--code", type=Path, required=True, help="folder of the model's own *.py")
    parser.add_argument("--sizes", nargs="+", default=["1B", "4B", "8B"])
    parser.add_argument("--detail", default="4B", help="the geometry whose batches and streams are measured")
    parser.add_argument(
        "--calls", type=int, default=12, help="of predict_forward, a geometry and picture size"
    )
    parser.add_argument("--stream", type=int, nargs="*", default=[20, 200, 2000], help="images of 565x584")
    parser.add_argument("--stream-large", type=int, nargs="*", default=[20, 200], help="images of 999x960")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured")
    parser.add_argument(
        "--stage", type=int, nargs=2, default=[400, 100], help="images of a whole table stage, of either size"
    )
    parser.add_argument(
        "--rate", type=float, default=990.0, help="dense bfloat16 TFLOP/s (H100 and H200: 990)"
    )
    parser.add_argument("--work", type=Path, help="where checkpoints are made, up to 17 GB")
    parser.add_argument("--json", type=Path, help="where the figures are written, too")
    asked = parser.parse_args(arguments)
    from benchmarks import sa2va_figures  # not above: processes that score masks import this module

    print(sa2va_figures.device(), flush=True)
    found: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for size in asked.sizes:
        work = Path(tempfile.mkdtemp(dir=asked.work))
        try:
            for part in sa2va_figures.measure(size, work / size, asked, found):
                show(found[part][-1:])
                if asked.json:
                    asked.json.write_text(json.dumps(found, indent=1))
        finally:
            shutil.rmtree(work)
    for part, rows in found.items():
        if rows:
            print(f"\n{part}")
            show(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
