"""Peak memory and time of one image under multi-scale + flip, against the obvious ways.

    python benchmarks/evaluation.py [--classes 171] [--size 1024 2048] [--width 128]

Each way runs in a process of its own, whose peak resident memory the operating system counts.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

from hfgd.data.classes import ClassSet
from hfgd.inference.passes import label_image
from hfgd.inference.protocol import PROTOCOLS
from hfgd.model import BackboneSpec, ModelSpec
from hfgd.model.build import build
from hfgd.model.network import evaluating
from hfgd.resample import resize

WAYS = {
    "model alone": "the passes through the network, nothing kept",
    "ours": "one accumulator, strips of rows",
    "running sum": "each pass resized to full size, summed",
    "all kept": "each pass resized to full size, all kept, then averaged",
}


def passes(model, image, protocol):
    for scale, flip in protocol.passes():
        scaled_size = protocol.scaled(tuple(image.shape[-2:]), scale, model.grid)
        scaled = resize(image, scaled_size, model.grid)
        yield (scaled.flip(-1) if flip else scaled), flip


def full(model, scaled, flip, size):
    """The pass's logits at the image's size, by two ordinary resizes."""
    logits = resize(model(scaled).full_size(), size, model.grid)
    return logits.flip(-1) if flip else logits


def run(way, classes, size, width):
    torch.manual_seed(0)
    spec = ModelSpec(backbone=BackboneSpec(name="mobilenetv2_100"), width=width, upsampler="u_sfpn")
    model = build(spec, ClassSet.numbered(classes)).eval()
    image, protocol = torch.rand(1, 3, *size), PROTOCOLS["mf"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    with evaluating(model):
        if way == "model alone":
            for scaled, _ in passes(model, image, protocol):
                model(scaled)
            labels = torch.zeros(1)
        elif way == "ours":
            labels = label_image(model, image, model.grid, protocol)
        elif way == "running sum":
            total = torch.zeros(1, classes, *size)
            for scaled, flip in passes(model, image, protocol):
                total += full(model, scaled, flip, size)
            labels = total.argmax(1)[0]
        else:
            kept = [
                full(model, scaled, flip, size) for scaled, flip in passes(model, image, protocol)
            ]
            total = kept[0]
            for more in kept[1:]:
                total += more
            labels = total.argmax(1)[0]
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    digest = int((labels.long() * torch.arange(1, labels.numel() + 1).view_as(labels)).sum())
    print(json.dumps({"peak": peak, "before": before, "seconds": seconds, "digest": digest}))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--classes", type=int, default=171)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048))
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--only", nargs="*", default=list(WAYS))
    arguments = parser.parse_args()
    if arguments.way:
        run(arguments.way, arguments.classes, tuple(arguments.size), arguments.width)
        return
    base = None
    print("| way | peak GB | above the model alone, GB | seconds |\n| --- | ---: | ---: | ---: |")
    for way in arguments.only:
        command = [sys.executable, __file__, "--way", way, "--classes", str(arguments.classes)]
        command += ["--size", *map(str, arguments.size), "--width", str(arguments.width)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"| {way}: {WAYS[way]} | out of memory | | |")
            continue
        result = json.loads(done.stdout.splitlines()[-1])
        peak = result["peak"] * 1024 / 1e9
        base = peak if base is None else base
        print(
            f"| {way}: {WAYS[way]} | {peak:.2f} | {peak - base:.2f} | {result['seconds']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
