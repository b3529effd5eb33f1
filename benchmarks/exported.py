"""Exported files beside the network they come from, and peers exported in the same way.

    python benchmarks/exported.py [--recipe hfgd_resnet50] [--size 513 513] [--classes 59] [--rounds 7]

Every round runs every variant once, each round beginning with another; times are medians, ratios are
medians of the rounds' ratios to the first variant, the eager network in fp32. Ours are exported as
``hfgd export`` does it, for any size and for the one size; the peers, segmentation_models_pytorch's
with ResNet-50, for the one size, with normalisation, padding and argmax inside. All take uint8 images
and give uint8 labels. Weights are random, which times are not sensitive to. Markdown goes to stdout.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import nn

import hfgd
from hfgd.export.runtime import ExportedModel
from hfgd.export.sessions import open_session
from hfgd.export.write import export_model
from hfgd.inference.torch_labeller import NetworkLabeller
from hfgd.parallel.device import multiplies_bf16
from inference import MEAN, STD, eager, show

PEERS = ("FPN", "UPerNet", "DeepLabV3Plus")


class Peer(nn.Module):
    """(N, 3, H, W) uint8 → (N, H, W) uint8 with a model of segmentation_models_pytorch."""

    def __init__(self, name, classes):
        super().__init__()
        torch.manual_seed(0)
        self.model = getattr(smp, name)("resnet50", encoder_weights=None, classes=classes)
        self.multiple = 16 if name == "DeepLabV3Plus" else 32  # other sizes are refused
        for key, value in (("mean", MEAN), ("std", STD)):
            self.register_buffer(key, torch.tensor(value).view(3, 1, 1))

    def forward(self, image):
        height, width = image.shape[2:]
        x = (image.float() / 255 - self.mean) / self.std
        x = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))
        return self.model(x)[..., :height, :width].argmax(1).to(torch.uint8)


def peer_files(name, classes, size, folder):
    """The peer as ONNX and, converted from it, for OpenVINO."""
    import openvino

    peer, image = Peer(name, classes).eval(), torch.zeros(1, 3, *size, dtype=torch.uint8)
    path = folder / f"{name}.onnx"
    with torch.no_grad():
        program = torch.onnx.export(
            peer,
            (image,),
            input_names=["image"],
            output_names=["labels"],
            dynamo=True,
            verbose=False,
        )
    program.save(path, external_data=False)
    openvino.save_model(
        openvino.convert_model(path), path.with_suffix(".xml"), compress_to_fp16=False
    )
    return path


def peer_variant(path, precision="fp32"):
    """A peer's file in the session that ours are run in."""
    session = open_session(path, precision=precision, code=path.parent)
    return lambda image: session(image[None].numpy())["labels"][0]


def our_variant(path, precision):
    exported = ExportedModel(path, precision=precision, code=path.parent)
    return lambda image: exported(image.permute(1, 2, 0).contiguous().numpy())


def make_variants(recipe, classes, size, folder, bf16):
    torch.manual_seed(0)
    network = hfgd.create(recipe, num_classes=classes).eval()
    labeller = NetworkLabeller(network)
    variants = {
        "ours, eager": eager(network, False),
        "ours, NetworkLabeller": lambda x: labeller.labels(x).cpu(),
    }
    for title, fixed in (("any size", None), (f"{size[0]}×{size[1]}", size)):
        for suffix, runtime in ((".onnx", "ONNX Runtime"), (".xml", "OpenVINO")):
            path = folder / f"ours-{'fixed' if fixed else 'any'}{suffix}"
            export_model(network, path, size=fixed)
            variants[f"ours, {runtime}, {title}"] = our_variant(path, "fp32")
            if bf16 and suffix == ".xml":
                variants[f"ours, {runtime} bf16, {title}"] = our_variant(path, "bf16")
    for name in PEERS:
        peer = Peer(name, classes).eval()
        variants[f"smp {name}, eager"] = lambda x, peer=peer: infer(peer, x)
        path = peer_files(name, classes, size, folder)
        variants[f"smp {name}, ONNX Runtime"] = peer_variant(path)
        variants[f"smp {name}, OpenVINO"] = peer_variant(path.with_suffix(".xml"))
        if bf16:
            variants[f"smp {name}, OpenVINO bf16"] = peer_variant(path.with_suffix(".xml"), "bf16")
    return variants


def infer(network, image):
    with torch.inference_mode():
        return network(image[None])[0]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", default="hfgd_resnet50")
    parser.add_argument("--size", type=int, nargs=2, default=(513, 513))
    parser.add_argument("--classes", type=int, default=59)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    size = tuple(arguments.size)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        bf16 = multiplies_bf16(torch.device("cpu"))
        variants = make_variants(arguments.recipe, arguments.classes, size, Path(folder), bf16)
        names, times = list(variants), {name: [] for name in variants}
        for i in range(arguments.rounds + 1):
            for name in names[i % len(names) :] + names[: i % len(names)]:
                began = time.perf_counter()
                labels = variants[name](image)
                if i:  # the first round warms up
                    times[name].append(time.perf_counter() - began)
                assert labels.shape == size
    what = f"{arguments.recipe}, {arguments.classes} classes, {size[0]}×{size[1]}"
    cores = f"{os.cpu_count()} cores{'' if bf16 else ', no bf16 instructions'}"
    print(f"{what}, {arguments.rounds} rounds, {cores}\n")
    show(times)


if __name__ == "__main__":
    main()
