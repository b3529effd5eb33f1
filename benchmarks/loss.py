"""Peak memory and time of a loss and its gradient, from logits at stride 4.

    python benchmarks/loss.py [--batch 4] [--size 513] [--device cuda]
    python benchmarks/loss.py --criteria --classes 171 --batch 2

Each way runs in a process of its own. On a CPU the operating system counts its peak resident memory
above what it held before the loss; on a GPU PyTorch's allocator does. Time: the best of three.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from hfgd import resample
from hfgd.data.classes import IGNORE
from hfgd.losses.terms import LossSpec, loss_terms
from hfgd.model.network import SegOutput
from hfgd.types import Frame, Grid


def ours(logits, label, frame):
    return loss_terms(SegOutput(logits, *[None] * 4, frame), label, LossSpec())["fine"]


def obvious(logits, label, frame):
    return F.cross_entropy(resample.restore(logits, frame), label, ignore_index=IGNORE)


def mmseg(logits, label, frame):
    """MMSegmentation 1.2: resize, cross-entropy of every pixel, mean; and the accuracy it logs."""
    full = resample.restore(logits, frame)
    loss = F.cross_entropy(full, label, reduction="none", ignore_index=IGNORE).mean()
    _, best = full.topk(1, dim=1)
    correct = best.transpose(0, 1).eq(label[None].expand_as(best.transpose(0, 1)))
    correct[:, label != IGNORE].float().sum().item()
    return loss


def criterion(name):
    """Ours."""

    def way(logits, label, frame):
        spec = LossSpec(criterion=name)
        return loss_terms(SegOutput(logits, *[None] * 4, frame), label, spec)["fine"]

    return way


def full_ohem(logits, label, frame):
    """The same pixels as ours: below 0.7, and the hardest sixteenth in any case."""
    losses = F.cross_entropy(
        resample.restore(logits, frame), label, ignore_index=IGNORE, reduction="none"
    )[label != IGNORE]
    hardest = losses.detach().topk(math.ceil(len(losses) / 16)).values[-1]
    return losses[losses >= hardest.clamp(max=-math.log(0.7))].mean()


def full_focal(logits, label, frame):
    losses = F.cross_entropy(
        resample.restore(logits, frame), label, ignore_index=IGNORE, reduction="none"
    )[label != IGNORE]
    return ((1 - (-losses).exp()) ** 2 * losses).mean()


def smp(name):
    """segmentation-models-pytorch's, on full-size logits."""

    def way(logits, label, frame):
        import segmentation_models_pytorch.losses as losses

        loss = getattr(losses, name)("multiclass", ignore_index=IGNORE)
        return loss(resample.restore(logits, frame), label)

    return way


WAYS = {"obvious": obvious, "MMSegmentation's": mmseg, "ours": ours}
CRITERIA = {
    "cross_entropy, ours": ours,
    "cross_entropy, full size": obvious,
    "ohem, ours": criterion("ohem"),
    "ohem, full size": full_ohem,
    "focal, ours": criterion("focal"),
    "focal, full size": full_focal,
    "dice, ours": criterion("dice"),
    "dice, smp": smp("DiceLoss"),
    "tversky, ours": criterion("tversky"),
    "tversky, smp": smp("TverskyLoss"),
    "lovasz, ours": criterion("lovasz"),
    "lovasz, smp": smp("LovaszLoss"),
}


def side_by_side(ways, classes, batch, size, rounds=3):
    """CPU seconds of each way, the best of some rounds in which all take their turns, in one process.

    CPU time of one thread: other work on the machine does not count.
    """
    torch.set_num_threads(1)
    logits, label, frame = inputs(classes, batch, size, "cpu")
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for way in ways:
            began = time.process_time()
            CRITERIA[way](logits, label, frame).backward()
            seconds[way] = min(seconds[way], time.process_time() - began)
            logits.grad = None
    return seconds


def inputs(classes, batch, size, device):
    torch.manual_seed(0)
    frame = Frame((size, size), (size, size), Grid.CORNERS)
    low = (size - 1) // 4 + 1
    logits = torch.randn(batch, classes, low, low, device=device, requires_grad=True)
    label = torch.randint(0, classes, (batch, size, size), device=device)
    label[:, : size // 10] = IGNORE
    return logits, label, frame


def run(way, classes, batch, size, device):
    logits, label, frame = inputs(classes, batch, size, device)
    tiny = Frame((33, 33), (33, 33), Grid.CORNERS)  # loads the code, warms the threads
    loss = (WAYS | CRITERIA)[way]
    loss(logits[:1, :, :9, :9], label[:1, -33:, :33], tiny).backward()
    logits.grad = None
    seconds, before = [], peak(device)
    for _ in range(3):
        synchronise(device)
        began = time.perf_counter()
        loss(logits, label, frame).backward()
        synchronise(device)
        seconds.append(time.perf_counter() - began)
        logits.grad = None
    print(json.dumps({"bytes": peak(device) - before, "seconds": min(seconds)}))


def synchronise(device):
    if device == "cuda":
        torch.cuda.synchronize()


def peak(device):
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def criteria_table(classes, batch, size, only):
    """Memory of each way in a process of its own, then the times side by side."""
    ways = [way for way in CRITERIA if way.split(",")[0] in only]
    peaks = {}
    for way in ways:
        command = [sys.executable, __file__, "--way", way, "--classes", str(classes)]
        command += ["--batch", str(batch), "--size", str(size)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[way] = json.loads(done.stdout)["bytes"]
    seconds = side_by_side(ways, classes, batch, size)
    print("| classes | criterion | peak GB | share | CPU s | × cross_entropy, ours | × full size |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for way in ways:
        # the same criterion the obvious way stands below ours
        name = way.split(",")[0]
        other = next(w for w in ways if w.startswith(name) and not w.endswith("ours"))
        print(
            f"| {classes} | {way} | {peaks[way] / 1e9:.2f} | {peaks[way] / peaks[other]:.2f} "
            f"| {seconds[way]:.2f} | {seconds[way] / seconds['cross_entropy, ours']:.2f} "
            f"| {seconds[way] / seconds[other]:.2f} |",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--classes", type=int, nargs="+", default=[59, 150, 171])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=513)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--band", type=int, default=resample.BAND_CPU, help="values, on a CPU")
    parser.add_argument("--way", choices=WAYS | CRITERIA)
    parser.add_argument("--criteria", action="store_true", help="every criterion")
    names = list(dict.fromkeys(way.split(",")[0] for way in CRITERIA))
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    arguments = parser.parse_args()
    resample.BAND_CPU = arguments.band
    if arguments.way:
        run(arguments.way, arguments.classes[0], arguments.batch, arguments.size, arguments.device)
        return
    if arguments.criteria:
        for classes in arguments.classes:
            criteria_table(classes, arguments.batch, arguments.size, arguments.only)
        return
    print("| classes | way | peak GB | share | seconds | ratio |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    common = ["--batch", str(arguments.batch), "--size", str(arguments.size)]
    common += ["--device", arguments.device, "--band", str(arguments.band)]
    for classes in arguments.classes:
        first = None
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--classes", str(classes), *common]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            result = json.loads(done.stdout)
            first = first or result
            print(
                f"| {classes} | {way} | {result['bytes'] / 1e9:.2f} "
                f"| {result['bytes'] / first['bytes']:.2f} | {result['seconds']:.3f} "
                f"| {result['seconds'] / first['seconds']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
