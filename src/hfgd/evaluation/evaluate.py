"""Running a model over a data set."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from hfgd.data.dataset import Batch, Part, SegDataset
from hfgd.data.loader import EvalBatches
from hfgd.errors import HfgdError
from hfgd.evaluation.scores import ConfusionMatrix, Scores
from hfgd.model.segmenter import Branch, Segmenter

# how an image reaches its labels; written into every result
SINGLE_SCALE = "whole image, one scale, no flip; against the label file at its own size"


@contextmanager
def evaluating(model: Segmenter) -> Iterator[Segmenter]:
    """The model in evaluation mode without gradients; afterwards in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield model
    finally:
        model.train(was_training)


def evaluate(
    model: Segmenter,
    dataset: SegDataset,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
    branch: Branch = "fine",
) -> Scores:
    """Score a branch of a model on every image of a data set, each whole and at its own size.

    Raises HfgdError where the data set's classes are not the model's.
    """
    check_classes(model, dataset)
    device = model.hfgm.tokens.weight.device
    confusion = ConfusionMatrix(len(model.classes), sync_on_compute=False).to(device)
    batches = EvalBatches(dataset, workers)
    with evaluating(model):
        for done, batch in enumerate(batches, start=1):
            image, label = batch.image.to(device), batch.label.to(device)
            output = model(image, all_branches=branch != "fine")
            confusion.update(output.full_size(branch).argmax(1), label)
            if progress is not None:
                progress(done, len(batches))
    return Scores(model.classes, confusion.compute().cpu().numpy())


def check_classes(model: Segmenter, dataset: SegDataset) -> None:
    """Refuse a data set whose class names are not the model's, in their order."""
    mine, theirs = model.classes.names, dataset.classes.names
    if mine == theirs:
        return
    if len(mine) != len(theirs):
        raise HfgdError(
            f"the model knows {len(mine)} classes and '{dataset.title}' has {len(theirs)}; "
            "evaluate it on data with the classes it was trained on."
        )
    i = next(i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b)
    raise HfgdError(
        f"class {i} is '{mine[i]}' for the model and '{theirs[i]}' in '{dataset.title}'; "
        "the names must agree, in the same order."
    )


def pick(dataset: SegDataset, count: int) -> list[Batch]:
    """``count`` images spread evenly over a data set, as batches of one."""
    part = Part(dataset, min(count, len(dataset)))
    samples = [part[i] for i in range(len(part))]
    return [Batch(i[None].float() / 255, label[None].long(), [name]) for i, label, name in samples]
