"""Facts behind a guided run: gradients of each loss, batch-norm statistics, what a stride can show.

    python studies/guidance/guidance_facts.py RUN [RUN ...] --data camvid

RUN: folders of ``hfgd train`` with recipe and last model. Gradients are those of one training batch,
with the run's starting weights and with its last ones. The re-estimated batch-norm statistics are
plain means over ``--batches`` training batches. The last table is what remains of the validation
labels themselves when they are averaged down to a stride and brought back bilinearly.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from hfgd.checkpoint import load_model
from hfgd.data.loader import TrainBatches, TrainStream
from hfgd.data.open import open_dataset
from hfgd.data.transforms.pipeline import Augment
from hfgd.evaluation.scoring import Tally, evaluate
from hfgd.inference.torch_labeller import NetworkLabeller
from hfgd.losses.terms import loss_terms
from hfgd.model.build import build
from hfgd.recipes import find_recipe
from hfgd.resample import restore
from hfgd.types import Frame, Grid

PARTS = ("backbone", "encoder", "class tokens", "upsampler", "axial attention")


def part(name):
    if name.startswith("hfgm."):
        child = name.split(".")[1]
        return {"tokens": "class tokens", "axial": "axial attention"}.get(child, "upsampler")
    return name.split(".")[0]


def training_batches(recipe, model, dataset, size):
    augment = Augment(recipe.augment, model.mean, model.grid)
    stream = TrainStream(dataset, augment, recipe.train.seed)
    return iter(TrainBatches(stream, size, 0, workers=0, rank=0, world=1))


def gradients(model, recipe, batch):
    """Every loss term's gradient, one flat vector for each part of the network."""
    model.train()
    terms = loss_terms(model(batch.image.float() / 255), batch.label, recipe.loss)
    named = list(model.named_parameters())
    found = {}
    for term, value in terms.items():
        parts = {name: [torch.zeros(1)] for name in PARTS}
        tensors = [parameter for _, parameter in named]
        for (name, _), grad in zip(
            named,
            torch.autograd.grad(value, tensors, retain_graph=True, allow_unused=True),
            strict=True,
        ):
            if grad is not None:
                parts.setdefault(part(name), [torch.zeros(1)]).append(grad.flatten())
        found[term] = {name: torch.cat(grads) for name, grads in parts.items()}
    return found


def show_gradients(title, found):
    print(f"\n| {title} | {' | '.join(PARTS)} |")
    print("| --- |" + " ---: |" * len(PARTS))
    for term, parts in found.items():
        print(f"| ‖gradient‖ of {term} | {' | '.join(f'{parts[p].norm():.3g}' for p in PARTS)} |")
    if len(found) == 2:
        one, other = found.values()
        cosines = []
        for name in PARTS:
            both = (
                one[name].shape == other[name].shape and one[name].norm() * other[name].norm() > 0
            )
            cosines.append(f"{F.cosine_similarity(one[name], other[name], 0):.2f}" if both else "–")
        print(f"| cosine between them | {' | '.join(cosines)} |")


def re_estimated(model, recipe, dataset, batches):
    """The model with batch-norm statistics that are plain means over training batches."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    stream = training_batches(recipe, model, dataset, recipe.train.batch_size)
    with torch.no_grad():
        for _ in range(batches):
            model(next(stream).image.float() / 255)
    return model


def ceiling(dataset, stride):
    """Scores of the labels after a way through a grid of this stride."""
    count = len(dataset.classes)
    tally = Tally(count, None)
    for i in range(len(dataset)):
        label = dataset[i].label.long()
        size = (label.shape[0], label.shape[1])
        padded = Grid.CORNERS.padded(size)
        shares = torch.zeros(count + 1, *size)
        shares.scatter_(0, label.clamp(max=count)[None], 1.0)
        shares = F.pad(shares[None, :count], (0, padded[1] - size[1], 0, padded[0] - size[0]))
        grid = ((padded[0] - 1) // stride + 1, (padded[1] - 1) // stride + 1)
        # box means around the grid's samples, which lie on the corners
        coarse = F.avg_pool2d(shares, stride + 1, stride, stride // 2, count_include_pad=False)
        assert coarse.shape[-2:] == grid
        frame = Frame(size, padded, Grid.CORNERS)
        tally.update(restore(coarse, frame).argmax(1)[0], label, dataset[i].name)
    return tally.scores(dataset.classes, len(dataset))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--batches", type=int, default=46)
    arguments = parser.parse_args()
    train, val = (open_dataset(arguments.data, split) for split in ("train", "val"))
    for run in arguments.runs:
        recipe = find_recipe(str(run / "recipe.yaml"))
        torch.manual_seed(recipe.train.seed)
        fresh, trained = build(recipe.model, train.classes), load_model(run)
        batch = next(training_batches(recipe, fresh, train, recipe.train.batch_size))
        show_gradients(f"{recipe.name}, before training", gradients(fresh, recipe, batch))
        show_gradients(f"{recipe.name}, after training", gradients(trained, recipe, batch))
        trained = load_model(run)
        before = evaluate(NetworkLabeller(trained), val).miou
        trained = re_estimated(trained, recipe, train, arguments.batches)
        after = evaluate(NetworkLabeller(trained), val).miou
        print(f"\nmIoU {100 * before:.2f} with the batch-norm statistics of training,", end=" ")
        print(f"{100 * after:.2f} with re-estimated ones (fp32)")
    print("\n| stride | mIoU |", " | ".join(val.classes.names), "|")
    print("| ---: |" + " ---: |" * (len(val.classes) + 1))
    for stride in (32, 16, 8, 4, 2):
        scores = ceiling(val, stride)
        cells = " | ".join(f"{100 * iou:.1f}" for iou in scores.iou)
        print(f"| {stride} | {100 * scores.miou:.1f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
