"""Axial attention's kernels, forward and backward, on four axes.

    python benchmarks/attention.py [--threads 2]

Sequences of 57 and 73 (a crop of 225×289 at stride 4), batch 8, 4 heads of 32; the best of four.
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

BATCH, HEIGHT, WIDTH, HEADS, DEPTH = 8, 57, 73, 4, 32


def fused(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


def unfused(q, k, v):
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v)


def products(q, k, v):
    return (q @ k.transpose(-2, -1) * DEPTH**-0.5).softmax(-1) @ v


def seconds(way, shape, dtype):
    maps = [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3)]
    times = []
    for _ in range(4):
        began = time.perf_counter()
        out = way(*(x.transpose(1, 2) for x in maps))
        out.backward(torch.ones_like(out))
        times.append(time.perf_counter() - began)
    return min(times)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    columns = (BATCH, HEIGHT, WIDTH * HEADS, DEPTH)
    rows = (BATCH * HEIGHT, WIDTH, HEADS, DEPTH)
    print("| ms | fused | unfused | two products and a softmax |\n| --- | ---: | ---: | ---: |")
    for dtype in (torch.float32, torch.bfloat16):
        cells = [
            f"{1000 * (seconds(way, columns, dtype) + seconds(way, rows, dtype)):.0f}"
            for way in (fused, unfused, products)
        ]
        print(f"| {dtype} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
