"""What a GPU makes of it: training, loss, evaluation, predict, and what a step waits for.

    python benchmarks/gpu.py [--out benchmarks/gpu.md] [--minutes 8]

``hfgd_resnet50`` with random weights at 513×513, batch 16, 59 classes, on made-up data: no network
access and no data set is needed. Steps are counted for some seconds each, with a wait for the GPU after
every fifth. Writes Markdown; parts that the minutes no longer allow are named in it. Without a GPU it
says so and exits with 2; ``--dry`` runs every part on the CPU with a toy, to test this script:
its numbers mean nothing, and they are written only where --out is given.
"""

import argparse
import datetime
import gc
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch.profiler import ProfilerActivity, profile

from hfgd.cost import measure_cost
from hfgd.data.classes import IGNORE, ClassSet
from hfgd.inference.protocol import PROTOCOLS
from hfgd.inference.torch_labeller import NetworkLabeller
from hfgd.losses.terms import loss_terms
from hfgd.model.build import build
from hfgd.model.network import SegOutput
from hfgd.parallel.device import use_fast_matmuls
from hfgd.recipes import find_recipe
from hfgd.recipes.named import toy
from hfgd.resample import restore
from hfgd.training.optim import make_optimiser
from hfgd.types import Frame
from inference import PREDICT_HEAD, predict_one, predict_row
from training import clock, matmul_peak

WAYS = {  # precision, channels last, compiled
    "fp32 (TF32 products)": (False, False, False),
    "fp32 (TF32 products), channels last": (False, True, False),
    "bf16": (True, False, False),
    "bf16, channels last": (True, True, False),
    "bf16, channels last, compiled": (True, True, True),
}
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


class Setting:
    """What is measured: the sizes of a GPU, or a toy's."""

    def __init__(self, dry):
        recipe = find_recipe("hfgd_resnet50").with_(**{"model.backbone.pretrained": False})
        self.recipe = toy(recipe) if dry else recipe
        self.device = "cpu" if dry else "cuda"
        self.size = self.recipe.augment.crop
        self.batch = 2 if dry else 16
        self.classes = 5 if dry else 59
        self.seconds = 0.2 if dry else 8.0  # for each measurement
        self.group = 1 if dry else 5  # steps between two looks at the clock
        self.images = 3 if dry else 96
        self.photo = (64, 96) if dry else (1024, 2048)
        self.dry = dry

    def network(self):
        torch.manual_seed(0)
        return build(self.recipe.model, ClassSet.numbered(self.classes)).to(self.device)

    def example(self):
        """A batch as the loader gives it: bytes, in pinned memory."""
        image = torch.randint(0, 256, (self.batch, 3, *self.size), dtype=torch.uint8)
        label = torch.randint(0, self.classes, (self.batch, *self.size), dtype=torch.uint8)
        label[:, : self.size[0] // 10] = IGNORE
        return (image, label) if self.dry else (image.pin_memory(), label.pin_memory())


def measured(work, setting, images):
    """Images/s and peak GiB of repeating ``work``; a step never waits for the one before."""
    for _ in range(1 if setting.dry else 3):
        work()
    began, count = clock(setting.device), 0
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    while time.perf_counter() - began < setting.seconds:
        for _ in range(setting.group):
            work()
        count += setting.group
        clock(setting.device)  # else the queue of launched steps outlives the seconds
    rate = count * images / (clock(setting.device) - began)
    return rate, torch.cuda.max_memory_allocated() / 2**30 if setting.device == "cuda" else 0.0


def step_of(setting, bf16, channels_last, compiled):
    """A training step as ``hfgd train`` takes it, without Lightning."""
    network = setting.network().train()
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    backend = "eager" if setting.dry else "inductor"  # dry: traced, and no code is made
    run = torch.compile(network.forward, backend=backend) if compiled else network
    optimiser = make_optimiser(network, setting.recipe.optim)
    image, label = setting.example()

    def step():
        x = image.to(setting.device, non_blocking=True).float() / 255
        target = label.to(setting.device, non_blocking=True)
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(setting.device, torch.bfloat16, enabled=bf16):
            terms = loss_terms(run(x), target, setting.recipe.loss)
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def training(setting):
    macs = measure_cost(setting.recipe.model, setting.classes, setting.size).macs
    n = 256 if setting.dry else None
    peaks = {bf16: matmul_peak(setting.device, t, n) for bf16, t in MATMULS.items()}
    yield f"{3 * macs / 1e9:.0f} GMACs an image (backward counted as twice the forward); measured"
    yield f"matrix-multiply peak: fp32 {peaks[False] / 1e12:.1f}, bf16 {peaks[True] / 1e12:.1f}"
    yield "TMAC/s.\n\n| training step | images/s | peak GiB | share of the peak |"
    yield "| --- | ---: | ---: | ---: |"
    for name, (bf16, channels_last, compiled) in WAYS.items():
        step = step_of(setting, bf16, channels_last, compiled)
        rate, memory = measured(step, setting, setting.batch)
        yield f"| {name} | {rate:.1f} | {memory:.1f} | {3 * macs * rate / peaks[bf16]:.0%} |"


MATMULS = {False: torch.float32, True: torch.bfloat16}


def waits(setting):
    """Where the host waits in five steps, and the heaviest kernels."""
    step = step_of(setting, True, True, False)
    for _ in range(3):
        step()
    activities = [ProfilerActivity.CPU]
    activities += [] if setting.dry else [ProfilerActivity.CUDA]
    began = clock(setting.device)
    with profile(activities=activities) as trace:
        for _ in range(5):
            step()
        launched = time.perf_counter() - began
        clock(setting.device)
    events = trace.key_averages()
    whole = clock(setting.device) - began
    yield f"Five steps, bf16, channels last, under the profiler: {1000 * whole:.0f} ms, of which the"
    yield f"host needed {1000 * launched:.0f} ms to launch them.\n"
    yield "| the host waits in | calls | ms |\n| --- | ---: | ---: |"
    for event in sorted(events, key=lambda e: -e.cpu_time_total):
        # the wait that ends the measurement is one cudaDeviceSynchronize
        if event.key.startswith(WAITS):
            yield f"| {event.key} | {event.count} | {event.cpu_time_total / 1000:.2f} |"
    key = "self_cpu_time_total" if setting.dry else "self_device_time_total"
    yield "\n| heaviest operations | calls | ms |\n| --- | ---: | ---: |"
    for event in sorted(events, key=lambda e: -getattr(e, key))[:12]:
        name = event.key[:80].replace("|", "\\|")
        yield f"| `{name}` | {event.count} | {getattr(event, key) / 1000:.2f} |"


def loss(setting):
    """The loss of one branch and its gradient, against full-size logits."""
    padded = setting.network().grid.padded(setting.size)
    frame = Frame(setting.size, padded, setting.network().grid)
    low = tuple((n - 1) // 4 + 1 for n in padded)
    logits = torch.randn(setting.batch, setting.classes, *low, device=setting.device)
    logits.requires_grad_()
    label = setting.example()[1].to(setting.device)

    def ours():
        output = SegOutput(logits, None, None, None, None, frame)
        loss_terms(output, label, setting.recipe.loss)["fine"].backward()

    def obvious():
        F.cross_entropy(restore(logits, frame), label.long(), ignore_index=IGNORE).backward()

    yield "| loss and gradient alone | images/s | peak GiB |\n| --- | ---: | ---: |"
    for name, work in (("ours", ours), ("full-size logits", obvious)):
        rate, memory = measured(work, setting, setting.batch)
        yield f"| {name} | {rate:.0f} | {memory:.2f} |"


def evaluation(setting):
    image = torch.randint(0, 256, (3, *setting.photo), dtype=torch.uint8)
    image = image if setting.dry else image.pin_memory()
    yield f"| evaluation, {setting.photo[0]}×{setting.photo[1]} | images/s | peak GiB |"
    yield "| --- | ---: | ---: |"
    for precision in ("fp32", "bf16"):
        for name in ("ss", "mf"):
            labeller = NetworkLabeller(
                setting.network(), PROTOCOLS[name], device=setting.device, precision=precision
            )
            rate, memory = measured(lambda x=labeller: x.labels(image), setting, 1)
            yield f"| {name}, {precision} | {rate:.2f} | {memory:.2f} |"


def predict(setting):
    """``predict_files`` over JPEG photos of smooth noise, against the network alone."""
    rng, (height, width) = np.random.default_rng(0), setting.photo
    with tempfile.TemporaryDirectory() as folder:
        images = []
        for i in range(setting.images):
            small = Image.fromarray(rng.integers(0, 256, (16, 32, 3), dtype=np.uint8))
            images.append(Path(folder) / f"{i}.jpg")
            small.resize((width, height), Image.Resampling.BICUBIC).save(images[-1])
        recipe = "demo_hfgd" if setting.dry else "hfgd_resnet50"
        result = predict_one(recipe, images, setting.classes, setting.device)
    yield PREDICT_HEAD
    yield predict_row(len(images), result)


PARTS = {"Training": training, "Waits": waits, "Loss": loss, "Evaluation": evaluation}
PARTS["Predict"] = predict


def heading(setting):
    name = "a toy on the CPU: these numbers mean nothing"
    if not setting.dry:
        gpu = torch.cuda.get_device_properties(0)
        name = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"
    yield "# On a GPU\n\n    python benchmarks/gpu.py\n"
    yield f"{name}; torch {torch.__version__}, CUDA {torch.version.cuda}; {setting.recipe.name}, "
    yield f"{setting.size[0]}×{setting.size[1]}, batch {setting.batch}, {setting.classes} classes,"
    yield f"random weights; {datetime.date.today()}."


def report(setting, minutes):
    began = time.monotonic()
    yield from heading(setting)
    for title, part in PARTS.items():
        yield f"\n## {title}\n"
        if time.monotonic() - began > 60 * minutes * 0.85:
            yield "Not measured: the minutes were used up."
            continue
        try:
            yield from part(setting)
        except RuntimeError as error:  # want of memory is one: the other parts still count
            yield f"\nNot measured further: {str(error).splitlines()[0]}"
        gc.collect()
        if not setting.dry:
            torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--dry", action="store_true")
    arguments = parser.parse_args()
    if not arguments.dry and not torch.cuda.is_available():
        print("There is no GPU here that PyTorch can use; --dry tests the script.", file=sys.stderr)
        sys.exit(2)
    use_fast_matmuls()
    lines = []
    for line in report(Setting(arguments.dry), arguments.minutes):
        print(line, flush=True)
        lines.append(line)
    out = arguments.out or Path(__file__).with_suffix(".md")
    if arguments.out or not arguments.dry:
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
