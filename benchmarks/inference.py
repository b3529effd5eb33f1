"""One image → its label map: variants of ours and peers side by side, growth, and predict's overlap.

    python benchmarks/inference.py [--recipe hfgd_resnet50] [--size 513 513] [--classes 59] [--rounds 5]
    python benchmarks/inference.py --growth
    python benchmarks/inference.py --predict FOLDER [--recipe hfgd_mobilenetv2] [--limits 20 101]

Comparison: every round runs every variant once, each round beginning with another; times are medians,
ratios are medians of the rounds' ratios to the first variant. ``--cpu-time`` counts the process's own
seconds (of all its threads: set OMP_NUM_THREADS=1), which other load hardly moves. Peers are
segmentation_models_pytorch's, where it is installed. Growth and predict: each point in a process of
its own, whose peak resident memory the operating system counts. Weights are random, which times are
not sensitive to. Markdown goes to stdout.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F

import hfgd
from hfgd.data.images import images_below, read_image
from hfgd.inference.labeller import InferenceConfig, open_labeller
from hfgd.inference.torch_labeller import NetworkLabeller
from hfgd.parallel.device import multiplies_bf16, pick_device
from hfgd.predict import predict_files
from hfgd.resample import bands

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


def before(network):
    """The way of f2a07e8: NCHW, no folding, bands of rows by matrices, classes first."""

    def label(image):
        with torch.inference_mode():
            output = network(image[None].to(next(network.parameters()).device).float() / 255)
            parts = [z.argmax(1) for *_, z in bands(output.logits, output.frame)]
            return torch.cat(parts, dim=1)[0].to(torch.uint8).cpu()

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
        "ours, as it was (fp32, NCHW, bands)": before(loaded[False]),
        "ours, NCHW": eager(loaded[False], False),
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


def compare(recipe, size, classes, rounds, device, clock):
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        variants = make_variants(recipe, classes, device, folder)
    names = list(variants)
    times = {name: [] for name in names}
    for i in range(rounds + 1):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            began = clock()
            labels = variants[name](image)
            if i:  # the first round warms up
                times[name].append(clock() - began)
            assert labels.shape == size
    print(f"{recipe}, {classes} classes, {size[0]}×{size[1]}, {rounds} rounds, on {device},")
    print(f"{torch.get_num_threads()} threads, {clock.__name__}:\n")
    show(times)


def show(times):
    """A row for each variant: its median, and its rounds' ratios to the first one."""
    first = next(iter(times.values()))
    print("| variant | ms | ratio | least | most |\n| --- | ---: | ---: | ---: | ---: |")
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, first, strict=True)]
        ms, ratio = 1000 * statistics.median(seconds), statistics.median(ratios)
        print(f"| {name} | {ms:.0f} | {ratio:.2f} | {min(ratios):.2f} | {max(ratios):.2f} |")


# ---- growth -----------------------------------------------------------------------------------------


def grow_one(kind, recipe, size, classes, device):
    """One point: seconds (small sizes: the better of two), and peak memory above the model's own."""
    torch.manual_seed(0)
    if kind == "ours":
        network = hfgd.create(recipe, num_classes=classes).eval()
        label = NetworkLabeller(network, device=device).labels
    else:
        label = smp_peer("FPN", classes, device, True)
    label(torch.zeros(3, 65, 65, dtype=torch.uint8))
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    # on a CPU its own seconds: another program's load would bend the curve
    clock = time.process_time if device == "cpu" else time.perf_counter
    before, seconds = held_bytes(device), []
    for _ in range(2 if size[0] * size[1] < 600_000 else 1):
        began = clock()
        label(image).cpu()
        seconds.append(clock() - began)
    return {"seconds": min(seconds), "bytes": peak_bytes(device) - before}


def held_bytes(device):
    """What is held now, and the peak begins here (Linux counts it anew when asked to)."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmRSS")


def peak_bytes(device):
    return torch.cuda.max_memory_allocated() if device == "cuda" else status_bytes("VmHWM")


def status_bytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def grow(recipe, device):
    points = [(size, CLASSES[0]) for size in SIZES] + [(SIZES[1], k) for k in CLASSES[1:]]
    found = {"ours": {}, "smp FPN": {}}
    print(
        f"Seconds {'of CPU time' if device == 'cpu' else ''}, {torch.get_num_threads()} threads:\n"
    )
    print("| size | classes |" + "".join(f" {kind} s | {kind} GB |" for kind in found))
    print("| --- | ---: |" + " ---: | ---: |" * len(found))
    for size, classes in points:
        cells = ""
        for kind in found:
            result = apart(device, grow_one, kind, recipe, size, classes, device)
            found[kind][size, classes] = result
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


class Timed:
    """A labeller that counts the seconds spent in it."""

    def __init__(self, labeller):
        self.labeller, self.seconds = labeller, 0.0

    def __getattr__(self, name):
        return getattr(self.labeller, name)

    def __call__(self, pixels):
        began = time.perf_counter()
        labels = self.labeller(pixels)
        self.seconds += time.perf_counter() - began
        return labels

    def reduced(self, image, reduce):
        began = time.perf_counter()
        result = self.labeller.reduced(image, reduce)
        self.seconds += time.perf_counter() - began
        return result


def predict_one(recipe, images, classes, device, rounds=2):
    """Seconds of the network alone, of the whole of predict_files and of the network within it, and
    peak bytes. Alone and whole take turns, so that a load on the machine meets both."""
    torch.manual_seed(0)
    seconds = {"alone": [], "whole": [], "within": []}
    with tempfile.TemporaryDirectory() as folder:
        model = str(hfgd.create(recipe, num_classes=classes).save(Path(folder) / "model"))
        began = time.perf_counter()
        opened = open_labeller(model, InferenceConfig(device=device))
        opening = time.perf_counter() - began
        opened(read_image(images[0]))  # warms up
        for i in range(rounds):
            inside, alone = Timed(opened), Timed(opened)
            with mock.patch("hfgd.predict.run.open_labeller", lambda path, how, x=inside: x):
                began = time.perf_counter()
                outcome = predict_files(
                    model, images, Path(folder) / str(i), InferenceConfig(device=device)
                )
                seconds["whole"].append(time.perf_counter() - began)
            assert outcome.done == len(images), outcome.failed[:1]
            for path in images:  # decoded one by one: all at once would hide predict's peak memory
                alone(read_image(path))
            seconds["alone"].append(alone.seconds)
            seconds["within"].append(inside.seconds)
    return seconds | {"opening": opening, "bytes": peak_bytes(device)}


def show_predict(folder, limits, recipe, classes, rounds, device):
    found = images_below(folder)
    print(PREDICT_HEAD)
    for limit in limits:
        images = found[:limit]
        result = apart(device, predict_one, recipe, images, classes, device, rounds)
        print(predict_row(len(images), result), flush=True)


PREDICT_HEAD = (
    "| images | network alone s | predict s | of it in the network s | predict / alone "
    "| predict / in the network | opening the model s | peak GB |\n| ---: |" + " ---: |" * 7
)


def predict_row(count, result):
    alone, whole, within = (result[key] for key in ("alone", "whole", "within"))
    ratios = [
        statistics.median(a / b for a, b in zip(whole, base, strict=True))
        for base in (alone, within)
    ]
    cells = [statistics.median(seconds) for seconds in (alone, whole, within)] + ratios
    shown = " | ".join([f"{s:.1f}" for s in cells[:3]] + [f"{r:.2f}" for r in ratios])
    return f"| {count} | {shown} | {result['opening']:.1f} | {result['bytes'] / 1e9:.2f} |"


def apart(device, work, *arguments):
    """What ``work`` returns in a process of its own, which peak memory is counted for."""
    # a fork has everything imported; CUDA does not survive one
    context = multiprocessing.get_context("fork" if device == "cpu" else "spawn")
    with context.Pool(1) as pool:
        return pool.apply(work, arguments)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", default="hfgd_resnet50")
    parser.add_argument("--size", type=int, nargs=2, default=(513, 513))
    parser.add_argument("--classes", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--predict", type=Path, metavar="FOLDER")
    parser.add_argument("--limits", type=int, nargs="+", default=[20, 101])
    parser.add_argument(
        "--cpu-time", action="store_true", help="for a machine with other load on it"
    )
    arguments = parser.parse_args()
    device, size, recipe = pick_device(None), tuple(arguments.size), arguments.recipe
    if arguments.growth:
        grow(recipe, device)
    elif arguments.predict:
        classes, rounds = arguments.classes or 11, arguments.rounds or 2
        show_predict(arguments.predict, arguments.limits, recipe, classes, rounds, device)
    else:
        clock = time.process_time if arguments.cpu_time else time.perf_counter
        compare(recipe, size, arguments.classes or 59, arguments.rounds or 5, device, clock)


if __name__ == "__main__":
    main()
