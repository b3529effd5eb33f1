"""Where the time of a training step goes, variants side by side.

    python benchmarks/training.py [RECIPE] [--crop 225 289] [--batch 8] [--threads 2] [--rounds 10]

Every round takes one step of every variant, on the same batch, each round beginning with another;
times are medians over the rounds, ratios are medians of the rounds' ratios to the first variant.
On a GPU it also prints peak memory. The share of the machine's own matrix-multiply peak, which it
measures, comes last.
"""

import argparse
import statistics
import time
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from hfgd.cost import measure_cost
from hfgd.data.classes import IGNORE
from hfgd.data.loader import TrainBatches, TrainStream
from hfgd.data.open import open_dataset
from hfgd.data.transforms.pipeline import Augment
from hfgd.losses.terms import loss_terms
from hfgd.model import axial_attention
from hfgd.model.build import build
from hfgd.model.network import SegOutput
from hfgd.parallel.device import multiplies_bf16
from hfgd.recipes import find_recipe
from hfgd.resample import restore
from hfgd.training.module import without_slow_strides
from hfgd.training.optim import make_optimiser

PHASES = ("data", "forward", "losses", "backward", "optimiser")


def obvious_terms(output: SegOutput, label, spec):
    """The same losses from full-size logits."""
    small = output._replace(guide_logits=None, aux_logits=None)
    terms = loss_terms(small, label, spec)
    for name in ("fine", "guide"):
        logits = output.logits if name == "fine" else output.guide_logits
        if logits is not None:
            full = restore(logits.float(), output.frame)
            terms[name] = F.cross_entropy(full, label.long(), ignore_index=IGNORE)
    return terms


def five_axes(query, key, value, heads):
    """Axial attention as it was: (B, heads, W, H, d), which no fused kernel takes."""
    batch, width, height, columns = value.shape
    q, k, v = (
        x.reshape(batch, heads, width // heads, height, columns).permute(0, 1, 4, 3, 2)
        for x in (query, key, value)
    )
    v = F.scaled_dot_product_attention(q, k, v)
    q, k, v = (x.transpose(2, 3) for x in (q, k, v))
    v = F.scaled_dot_product_attention(q, k, v)
    return v.permute(0, 1, 4, 2, 3).reshape(batch, width, height, columns)


@contextmanager
def attention(function):
    ours = axial_attention.axial_attention
    axial_attention.axial_attention = function or ours
    yield
    axial_attention.axial_attention = ours


class Variant:
    """A training step with its own model and optimiser."""

    def __init__(self, name, recipe, classes, device, **how):
        torch.manual_seed(0)
        self.name, self.recipe, self.how, self.device = name, recipe, how, device
        self.model = build(recipe.model, classes).train().to(device)
        if how.get("channels_last"):
            self.model = self.model.to(memory_format=torch.channels_last)
        if how.get("dense_strides"):
            without_slow_strides(self.model)
        self.run = torch.compile(self.model.forward) if how.get("compile") else self.model
        self.optimiser = make_optimiser(self.model, recipe.optim)
        self.terms = obvious_terms if how.get("obvious_loss") else loss_terms
        self.times = {phase: [] for phase in PHASES}
        self.peak = 0

    def step(self, batch, data_seconds):
        image, label = batch.image.to(self.device), batch.label.to(self.device)
        image = image.float() / 255
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.times["data"].append(data_seconds)
        self.began = clock(self.device)
        bf16 = torch.autocast(self.device, torch.bfloat16, enabled=bool(self.how.get("bf16")))
        with bf16, attention(self.how.get("attention")):
            output = self.run(image)
            self.mark("forward")
            loss = sum(self.terms(output, label, self.recipe.loss).values())
            self.mark("losses")
        loss.backward()
        self.mark("backward")
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.mark("optimiser")
        if self.device == "cuda":
            self.peak = max(self.peak, torch.cuda.max_memory_allocated())

    def mark(self, phase):
        now = clock(self.device)
        self.times[phase].append(now - self.began)
        self.began = now

    def total(self, i):
        return sum(self.times[phase][i] for phase in PHASES if phase != "data")


def clock(device):
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def matmul_peak(device, dtype, n=None):
    """Multiply-adds a second of a large square product."""
    n = n or (8192 if device == "cuda" else 2048)
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(6):
        began = clock(device)
        a @ b
        times.append(clock(device) - began)
    return n**3 / min(times)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", nargs="?", default="hfgd_mobilenetv2")
    parser.add_argument("--data", default="scenes")
    parser.add_argument("--crop", type=int, nargs=2, default=(225, 289))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    recipe = find_recipe(arguments.recipe).with_(
        **{"model.backbone.pretrained": False, "augment.crop": list(arguments.crop)}
    )
    dataset = open_dataset(arguments.data, "train")
    fast = {"bf16": True, "channels_last": True}
    ways = {
        "fp32, full-size loss, five axes": {"obvious_loss": True, "attention": five_axes},
        "fp32, five axes": {"attention": five_axes},
        "fp32": {},
        "fp32, channels last": {"channels_last": True},
        "bf16": {"bf16": True},
        "bf16, channels last, five axes": {"attention": five_axes, **fast},
        "bf16, channels last": fast,
        "bf16, channels last, dense then strided": {"dense_strides": True, **fast},
    }
    types = [torch.float32, torch.bfloat16]
    if not multiplies_bf16(torch.device(device)):  # emulated, a step takes minutes
        ways = {name: how for name, how in ways.items() if not how.get("bf16")}
        types = types[:1]
    if arguments.compile and len(types) == 2:
        ways["bf16, channels last, compiled"] = {"compile": True, **fast}
    variants = [Variant(name, recipe, dataset.classes, device, **how) for name, how in ways.items()]
    model = variants[0].model
    augment = Augment(recipe.augment, model.mean, model.grid)
    stream = TrainStream(dataset, augment, 0)
    batches = iter(TrainBatches(stream, arguments.batch, 0, workers=0, rank=0, world=1))
    for i in range(arguments.rounds + 2):
        began = time.perf_counter()
        batch = next(batches)
        seconds = time.perf_counter() - began
        for variant in variants[i % len(variants) :] + variants[: i % len(variants)]:
            variant.step(batch, seconds)
            if i < 2:  # warm-up
                variant.times = {phase: [] for phase in PHASES}
    macs = measure_cost(recipe.model, len(dataset.classes), tuple(arguments.crop)).macs
    print(f"| variant | {' ms | '.join(PHASES)} ms | step ms | ratio | images/s |")
    print("| --- |" + " ---: |" * (len(PHASES) + 3))
    for variant in variants:
        cells = [f"{1000 * statistics.median(variant.times[phase]):.0f}" for phase in PHASES]
        totals = [variant.total(i) for i in range(arguments.rounds)]
        firsts = [variants[0].total(i) for i in range(arguments.rounds)]
        ratio = statistics.median(a / b for a, b in zip(totals, firsts, strict=True))
        step = statistics.median(totals)
        line = f"| {variant.name} | {' | '.join(cells)} | {1000 * step:.0f} | {ratio:.2f} "
        print(line + f"| {arguments.batch / step:.1f} |")
        if device == "cuda":
            print(f"  peak {variant.peak / 2**30:.1f} GiB with all variants' weights")
    for dtype in types:
        peak = matmul_peak(device, dtype)
        print(f"\nmatrix-multiply peak, {dtype}: {peak / 1e9:.0f} GMAC/s; a step does", end=" ")
        print(f"3 × {macs / 1e9:.2f} GMACs an image (backward counted as twice the forward)")
        for variant in variants:
            if bool(variant.how.get("bf16")) == (dtype == torch.bfloat16):
                step = statistics.median(variant.total(i) for i in range(arguments.rounds))
                share = 3 * macs * arguments.batch / step / peak
                print(f"  {variant.name}: {share:.0%} of it")


if __name__ == "__main__":
    main()
