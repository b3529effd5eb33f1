"""Images per second and core: decoding, and whole training samples.

OMP_NUM_THREADS=1 python benchmarks/data.py FOLDER [--data-yaml FILE] [--crop 225 289]
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image

from hfgd.data.folder import FolderData, FolderDataset
from hfgd.data.images import read_image
from hfgd.data.loader import TrainStream
from hfgd.data.transforms.pipeline import Augment
from hfgd.data.transforms.spec import AugmentSpec
from hfgd.geometry import Grid


def rate(work, count, repeats=5):
    """Median images/s over repeats, after a warm-up."""
    work(0)
    rates = []
    for _ in range(repeats):
        began = time.perf_counter()
        for i in range(count):
            work(i)
        rates.append(count / (time.perf_counter() - began))
    return float(np.median(rates))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-yaml", type=Path)
    parser.add_argument("--crop", type=int, nargs=2, default=(225, 289))
    parser.add_argument("--count", type=int, default=100)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    dataset = FolderDataset(FolderData(arguments.folder, arguments.data_yaml), "train")
    pairs, count = dataset.pairs, min(arguments.count, len(dataset))

    def plain(i):
        with Image.open(pairs[i].image) as image, Image.open(pairs[i].label) as label:
            np.asarray(image.convert("RGB")), np.asarray(label)

    def torchvision(i):
        decode_image(str(pairs[i].image), ImageReadMode.RGB)
        decode_image(str(pairs[i].label), ImageReadMode.UNCHANGED)

    def augment(colours, **more):
        spec = AugmentSpec(crop=tuple(arguments.crop), colours=colours, **more)
        return Augment(spec, torch.zeros(3), Grid.CORNERS)

    streams = {
        "whole sample, plain colours": TrainStream(dataset, augment("plain"), 0),
        "whole sample, advanced colours": TrainStream(dataset, augment("advanced"), 0),
        "whole sample, no scaling, no colours": TrainStream(
            dataset, augment("none", scales=(1.0,)), 0
        ),
    }
    works = {
        "image and label, plain PIL loop": plain,
        "image and label, torchvision's decoder": torchvision,
        "image only, ours": lambda i: read_image(pairs[i].image),
        "label only with its map, ours": lambda i: dataset.label_map.load(pairs[i].label),
        "image and label, ours (checked, mapped)": lambda i: dataset[i],
        **{name: stream.__getitem__ for name, stream in streams.items()},
    }
    print("| what | images/s on one core | ms |\n| --- | ---: | ---: |")
    for name, work in works.items():
        speed = rate(work, count)
        print(f"| {name} | {speed:.0f} | {1000 / speed:.2f} |", flush=True)


if __name__ == "__main__":
    main()
