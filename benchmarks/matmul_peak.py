"""The matrix-product rate of this machine: a runner of train.py.

The best over shapes of the median over repeats: what a step could reach if it consisted only of products of
the best size. Square products, and those of the model's own layers at `--tokens` tokens.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from flops import read_shape

SECONDS_OF_A_SHAPE = 0.5
SQUARES = {"cpu": (1024, 2048), "cuda": (4096, 8192, 16384)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face directory")
    parser.add_argument("--tokens", type=int, required=True, help="rows of the model's products")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--output", type=Path, required=True, help="file for the result")
    arguments = parser.parse_args()
    shape = read_shape(arguments.model)
    hidden, ffn = shape.hidden_size, shape.ffn_hidden_size
    heads = shape.head_dim * (shape.num_heads + 2 * shape.num_groups)
    layers = [(hidden, heads), (hidden, 2 * ffn), (ffn, hidden)]
    sizes = [(size, size, size) for size in SQUARES[arguments.device]]
    sizes += [(arguments.tokens, inner, columns) for inner, columns in layers]
    dtype = torch.bfloat16 if arguments.bf16 else torch.float32
    rates = {"x".join(map(str, size)): rate(size, arguments.device, dtype) for size in sizes}
    arguments.output.write_text(json.dumps(rates))


def rate(size: tuple[int, int, int], device: str, dtype: torch.dtype) -> float:
    """Operations a second of [rows, inner] x [inner, columns]."""
    rows, inner, columns = size
    left = torch.randn(rows, inner, device=device, dtype=dtype)
    right = torch.randn(inner, columns, device=device, dtype=dtype)
    product = torch.empty(rows, columns, device=device, dtype=dtype)
    # Many products between two looks at the clock where one takes less than that look.
    burst = 10 if device == "cuda" else 1
    seconds = []
    started = time.perf_counter()
    while time.perf_counter() - started < SECONDS_OF_A_SHAPE or len(seconds) < 3:
        before = time.perf_counter()
        for _ in range(burst):
            torch.mm(left, right, out=product)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() - before) / burst)
    return 2 * rows * inner * columns / statistics.median(seconds)


if __name__ == "__main__":
    main()
