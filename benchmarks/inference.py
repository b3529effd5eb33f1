"""One image → its label map: variants of ours and peers side by side, growth, and predict's overlap.

    python benchmarks/inference.py [--recipe hfgd_resnet50] [--size 513 513] [--classes 59] [--rounds 5]
    python benchmarks/inference.py --growth
    python benchmarks/inference.py --predict FOLDER [--recipe hfgd_mobilenetv2] [--limits 20 101]

Comparison: every round runs every variant once, each round beginning with another; times are medians,
ratios are medians of the rounds' ratios to the first variant. Peers are
segmentation_models_pytorch's, where it is installed. Growth and predict: each point in a process of
its own, whose peak resident memory the operating system counts. Weights are random, which times are
not sensitive to. Markdown goes to stdout.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import hfgd
from hfgd.data.images import images_below, read_image
from hfgd.inference.labeller import NetworkLabeller
from hfgd.inference.open import How, open_labeller
from hfgd.parallel.device import multiplies_bf16, pick_device
from hfgd.predict import predict_files

SIZES = ((257, 257), (513, 513), (513, 1025), (1025, 1025), (1025, 2049))
CLASSES = (19, 59, 171)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def eager(network, channels_last):
    """(3, H, W) uint8 → (H, W) uint8 with the network as it is loaded, not copied and not folded."""
    device = next(network.parameters()).device
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def label(image):
        with torch.inference_mode():
            x = (image[None].to(device).float() / 255).contiguous(memory_format=layout)
            return network(x).labels()[0].cpu()

    return label


def smp_peer(name, classes, device, channels_last):
    """A peer with ResNet-50: logits at full size, argmax. None where it is not installed."""
    try:
        import segmentation_models_pytorch as smp
    except ModuleNotFoundError:
        return None
    torch.manual_seed(0)
    model = getattr(smp, name)("resnet50", encoder_weights=None, classes=classes).eval().to(device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(memory_format=layout)
    multiple = 16 if name == "DeepLabV3Plus" else 32  # other sizes are refused
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (MEAN, STD))

    def label(image):
        height, width = image.shape[1:]
        with torch.inference_mode():
            x = (image[None].to(device).float() / 255 - mean) / std
            x = F.pad(x, (0, -width % multiple, 0, -height % multiple))
            logits = model(x.contiguous(memory_format=layout))[..., :height, :width]
            return logits.argmax(1)[0].to(torch.uint8).cpu()

    return label


def make_variants(recipe, classes, device, folder):
    hfgd.create(recipe, num_classes=classes).save(folder)
    loaded = {last: hfgd.load(folder, device).eval() for last in (False, True)}
    loaded[True].to(memory_format=torch.channels_last)
    variants = {
        "ours, as loaded (fp32, NCHW)": eager(loaded[False], False),
        "ours, channels last": eager(loaded[True], True),
    }
    labeller = NetworkLabeller(loaded[False])
    folded = "channels last, folded norms" if device == "cpu" else "channels last"
    variants[f"ours, NetworkLabeller ({folded})"] = lambda x: labeller.labels(x).cpu()
    if multiplies_bf16(torch.device(device)):
        half = NetworkLabeller(loaded[False], precision="bf16")
        variants["ours, NetworkLabeller, bf16"] = lambda x: half.labels(x).cpu()
    for name in ("UPerNet", "DeepLabV3Plus", "FPN"):
        for last in (False, True):
            peer = smp_peer(name, classes, device, last)
            if peer is not None:
                variants[f"smp {name}, {'channels last' if last else 'NCHW'}"] = peer
    return variants


def compare(recipe, size, classes, rounds, device):
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        variants = make_variants(recipe, classes, device, folder)
    names = list(variants)
    times = {name: [] for name in names}
    for i in range(rounds + 1):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            began = time.perf_counter()
            labels = variants[name](image)
            if i:  # the first round warms up
                times[name].append(time.perf_counter() - began)
            assert labels.shape == size
    print(f"{recipe}, {classes} classes, {size[0]}×{size[1]}, {rounds} rounds, on {device}:\n")
    print("| variant | ms | ratio | least | most |\n| --- | ---: | ---: | ---: | ---: |")
    for name in names:
        ratios = [a / b for a, b in zip(times[name], times[names[0]], strict=True)]
        ms, ratio = 1000 * statistics.median(times[name]), statistics.median(ratios)
        print(f"| {name} | {ms:.0f} | {ratio:.2f} | {min(ratios):.2f} | {max(ratios):.2f} |")


# ---- growth -----------------------------------------------------------------------------------------


def grow_one(kind, recipe, size, classes, device):
    """One point: the better of two images, and the peak memory above what the model itself holds."""
    torch.manual_seed(0)
    if kind == "ours":
        network = hfgd.create(recipe, num_classes=classes).eval()
        label = NetworkLabeller(network, device=device).labels
    else:
        label = smp_peer("FPN", classes, device, True)
    label(torch.zeros(3, 65, 65, dtype=torch.uint8))
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    before, seconds = peak_bytes(device), []
    for _ in range(2):
        began = time.perf_counter()
        label(image).cpu()
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": min(seconds), "bytes": peak_bytes(device) - before}))


def peak_bytes(device):
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def grow(recipe, device):
    points = [(size, CLASSES[0]) for size in SIZES] + [(SIZES[1], k) for k in CLASSES[1:]]
    found = {"ours": {}, "smp FPN": {}}
    print("| size | classes |" + "".join(f" {kind} s | {kind} GB |" for kind in found))
    print("| --- | ---: |" + " ---: | ---: |" * len(found))
    for size, classes in points:
        cells = ""
        for kind in found:
            more = ["--size", *map(str, size), "--classes", str(classes), "--recipe", recipe]
            found[kind][size, classes] = result = child("--point", kind, *more)
            cells += f" {result['seconds']:.2f} | {result['bytes'] / 1e9:.2f} |"
        print(f"| {size[0]}×{size[1]} | {classes} |{cells}", flush=True)
    print("\n| exponent of | " + " | ".join(found) + " |\n| --- |" + " ---: |" * len(found))
    for title, part, x in (
        ("pixels", points[: len(SIZES)], [h * w for h, w in SIZES]),
        ("classes", [(SIZES[1], k) for k in CLASSES], CLASSES),
    ):
        for unit in ("seconds", "bytes"):
            slopes = [slope(x, [found[kind][p][unit] for p in part]) for kind in found]
            print(f"| {unit} in {title} | {' | '.join(f'{s:.2f}' for s in slopes)} |")


def slope(x, y):
    """The exponent of y ~ x^a: a least-squares line through the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


# ---- predict ----------------------------------------------------------------------------------------


def predict_one(recipe, images, classes, device, rounds=2):
    """Seconds of the network alone and of the whole of predict_files, in turn, and peak bytes."""
    how = How(device=device)
    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder) / "model")
        torch.manual_seed(0)
        hfgd.create(recipe, num_classes=classes).save(model)
        began = time.perf_counter()
        labeller = open_labeller(model, how)
        opening = time.perf_counter() - began
        labeller(read_image(images[0]))  # warms up
        network, whole = [], []
        for i in range(rounds):
            began = time.perf_counter()
            outcome = predict_files(model, images, Path(folder) / f"out{i}", how)
            whole.append(time.perf_counter() - began)
            assert outcome.done == len(images), outcome.failed[:1]
            # decoded one by one outside the clock: all at once would hide predict's peak memory
            spent = 0.0
            for path in images:
                pixels = read_image(path)
                began = time.perf_counter()
                labeller(pixels)
                spent += time.perf_counter() - began
            network.append(spent)
    return {"network": network, "whole": whole, "opening": opening, "bytes": peak_bytes(device)}


def show_predict(folder, limits):
    found = images_below(folder)
    print("| images | network s | predict s | opening the model s | predict / network |", end="")
    print(" without opening | peak GB |\n| ---: |" + " ---: |" * 6)
    for limit in limits:
        images = found[:limit]
        more = [a for a in sys.argv[1:] if a not in ("--limits", *map(str, limits))]
        result = child("--images", str(len(images)), *more)
        print(predict_row(len(images), result), flush=True)


def predict_row(count, result):
    pairs = list(zip(result["whole"], result["network"], strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    bare = statistics.median((a - result["opening"]) / b for a, b in pairs)
    network, whole = (statistics.median(result[key]) for key in ("network", "whole"))
    return (
        f"| {count} | {network:.1f} | {whole:.1f} | {result['opening']:.1f} | {ratio:.2f} "
        f"| {bare:.2f} | {result['bytes'] / 1e9:.2f} |"
    )


def child(*arguments):
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", default="hfgd_resnet50")
    parser.add_argument("--size", type=int, nargs=2, default=(513, 513))
    parser.add_argument("--classes", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--predict", type=Path, metavar="FOLDER")
    parser.add_argument("--limits", type=int, nargs="+", default=[20, 101])
    parser.add_argument("--point", choices=("ours", "smp FPN"), help="one point of --growth")
    parser.add_argument("--images", type=int, help="one row of --predict")
    arguments = parser.parse_args()
    device, size, recipe = pick_device(None), tuple(arguments.size), arguments.recipe
    if arguments.point:
        grow_one(arguments.point, recipe, size, arguments.classes, device)
    elif arguments.images:
        images = images_below(arguments.predict)[: arguments.images]
        rounds = arguments.rounds or 2
        print(json.dumps(predict_one(recipe, images, arguments.classes or 11, device, rounds)))
    elif arguments.growth:
        grow(recipe, device)
    elif arguments.predict:
        show_predict(arguments.predict, arguments.limits)
    else:
        compare(recipe, size, arguments.classes or 59, arguments.rounds or 5, device)


if __name__ == "__main__":
    main()
