"""Backward pass of strided depthwise 3×3 convolutions on a CPU, as they are and dense then strided.

    python benchmarks/depthwise.py [--batch 8] [--threads 1] [--rounds 10]

The sizes are MobileNetV2's at crops of 225×289; channels last; gradient of the input alone; medians.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

SIZES = ((96, 113, 145), (144, 57, 73), (192, 29, 37), (576, 15, 19))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| channels × map | bf16 ms | dense then strided ms | fp32 ms | dense then strided ms |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for channels, height, width in SIZES:
        cells = []
        for dtype in (torch.bfloat16, torch.float32):
            x = torch.randn(arguments.batch, channels, height, width, dtype=dtype)
            x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
            weight = torch.randn(channels, 1, 3, 3, dtype=dtype)
            strided = F.conv2d(x, weight, None, 2, 1, 1, channels)
            dense = F.conv2d(x, weight, None, 1, 1, 1, channels)[..., ::2, ::2]
            upstream = torch.randn_like(strided)
            times = {id(strided): [], id(dense): []}
            for _ in range(arguments.rounds + 1):
                for y in (strided, dense):
                    began = time.perf_counter()
                    torch.autograd.grad(y, x, upstream, retain_graph=True)
                    times[id(y)].append(time.perf_counter() - began)
            cells += [f"{1000 * statistics.median(found[1:]):.1f}" for found in times.values()]
        print(f"| {channels} × {height} × {width} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
