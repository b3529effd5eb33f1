"""review.html and next.html: what was found, to look at in a browser, in one file."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hfgd.data.classes import IGNORE, ClassSet
from hfgd.data.images import Pixels, read_image
from hfgd.errors import HfgdError
from hfgd.evaluation.page import thumbnails
from hfgd.evaluation.page.sections import Gallery, GalleryItem, Layer, Sort, Table
from hfgd.evaluation.page.write_page import write_page
from hfgd.inference.labeller import InferenceConfig, Labeller, open_labeller
from hfgd.progress import Progress
from hfgd.review.lists import Judged
from hfgd.review.quality import Found
from hfgd.review.review_labels import Review

PAIRS = 20  # of label and suggestion are listed
LAYERS = [
    Layer("label", "label", "labels", "as annotated"),
    Layer("prediction", "prediction", "labels", "the model's answer"),
    Layer(
        "suggested", "suggested", "labels", "where the model is sure and differs; black elsewhere"
    ),
    Layer("doubt", "doubt", "heat", "bright: the annotated class is improbable"),
]
ORDERS = [
    Sort("quality", "quality, worst first"),
    Sort("suspect", "share of suspect pixels", descending=True),
    Sort("class", "suspect pixels of a class"),
]


def review_page(review: Review, how: InferenceConfig, top: int, out: Path) -> Path:
    """Write ``out/review.html`` with the ``top`` images; returns it."""
    shown = review.judged.first(top)
    suspect = sum(bool(one.found.regions) for one in review.judged)
    counts = {"labels judged": len(review.judged), "with suspect regions": suspect}
    facts = {"data": review.pool.title, "judged by": _judges(review)}
    facts["sure from"] = f"{review.terms.sure:g}, temperature {review.terms.temperature:.3f}"
    gallery = Gallery(
        f"the {len(shown)} most doubtful labels",
        review.pool.classes,
        LAYERS,
        _items(review, shown, how),
        ORDERS,
        note="Quality: the soft minimum over the pixels of the annotated class's probability. "
        "Class and kind choose by what is suspect.",
    )
    page = out / "review.html"
    numbers = {name: f"{count:,}" for name, count in counts.items()}
    write_page(page, "Labels that look wrong", [gallery, _pairs(review)], numbers, facts)
    return page


def _judges(review: Review) -> str:
    if len(review.models) > 1:
        return f"{len(review.models)} networks, each trained on the other folds"
    return review.models[0]


def _pairs(review: Review) -> Table:
    """What is suspected to be labelled as what, over all images."""
    regions, pixels = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for one in review.judged:
        for region in one.found.regions:
            pair = region.labelled, region.suggested
            regions[pair] += 1
            pixels[pair] += region.pixels
    rows: list[list[str | float | int | None]] = [
        [*pair, regions[pair], count] for pair, count in pixels.most_common(PAIRS)
    ]
    classes = review.pool.classes
    colours = dict(zip(classes.names, classes.palette, strict=True))
    columns = ("labelled as", "suggested", "regions", "pixels")
    return Table("What is taken for what", columns, rows, colours=colours)


def _items(review: Review, shown: Sequence[Judged], how: InferenceConfig) -> Iterator[GalleryItem]:
    """One image at a time; each fold's network is loaded once."""
    places = {key: place for place, key in enumerate(review.pool.keys)}
    in_folds = sorted(shown, key=lambda one: one.fold or 0)
    labeller, fold = open_labeller(review.models[in_folds[0].fold or 0], how), in_folds[0].fold
    with Progress("drawing", len(shown)) as progress:
        for done, one in enumerate(in_folds, start=1):
            if one.fold != fold:
                labeller, fold = open_labeller(review.models[one.fold or 0], how), one.fold
            image, label, _ = review.pool[places[one.key]]
            yield _item(labeller, one, image, label, review.terms.temperature)
            progress.update(done)


def _item(
    labeller: Labeller, one: Judged, image: Tensor, label: Tensor, temperature: float
) -> GalleryItem:
    def look(rows: slice, scores: Tensor) -> Tensor:
        log_p = (scores / temperature).log_softmax(-1)
        truth = label[rows].to(scores.device)
        void = truth == IGNORE
        given = log_p.gather(-1, truth.long().masked_fill(void, 0)[..., None])[..., 0].exp()
        doubt = (255 * (1 - given)).round().masked_fill(void, 0)
        return torch.stack([log_p.argmax(-1), doubt], -1).to(torch.uint8)

    prediction, doubt = labeller.reduced(image, look).permute(2, 0, 1).cpu().numpy()
    found, classes = one.found, labeller.classes
    layers = {
        "image": thumbnails.photo(np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())),
        "label": thumbnails.label_picture(label.cpu().numpy()),
        "prediction": thumbnails.label_picture(prediction),
        "suggested": thumbnails.label_picture(_suggested(found, one.size, classes)),
        "doubt": thumbnails.heat(doubt),
    }
    suspect = Counter[str]()
    for region in found.regions:
        suspect[region.labelled] += region.pixels
        suspect[region.suggested] += region.pixels
    total = one.size[0] * one.size[1]
    facts = {"file": one.file} | ({} if one.fold is None else {"fold": f"{one.fold + 1}"})
    for number, region in enumerate(found.regions, start=1):
        facts[f"region {number}"] = (
            f"{region.labelled} → {region.suggested}, {region.pixels:,} pixels at "
            f"({region.box[0]}, {region.box[1]}), {100 * region.confidence:.0f} % sure"
        )
    return GalleryItem(
        one.key,
        thumbnails.small_size(*one.size),
        layers,
        {"quality": found.quality, "suspect": found.suspect},
        {classes.names.index(name): count / total for name, count in suspect.items()},
        sorted({f"{region.labelled} → {region.suggested}" for region in found.regions}),
        facts,
    )


def _suggested(found: Found, size: tuple[int, int], classes: ClassSet) -> Pixels:
    """The suspect regions under the classes that are suggested; void elsewhere."""
    whole = np.full(size, IGNORE, dtype=np.uint8)
    for region in found.regions:
        left, top, width, height = region.box
        part = whole[top : top + height, left : left + width]
        part[region.patch()] = classes.names.index(region.suggested)
    return whole


@dataclass(frozen=True)
class Picked:
    """An image to label next: where it lies, its name, and what speaks for it in [0, 1] or more."""

    path: Path
    key: str
    score: float | None


def next_page(picked: Sequence[Picked], by: str, run: str, how: InferenceConfig, out: Path) -> Path:
    """Write ``out/next.html``: the chosen images with what the model says of them; returns it."""
    labeller = open_labeller(run, how)
    layers = [
        Layer("prediction", "prediction", "labels", "the model's answer"),
        Layer("doubt", "doubt", "heat", "bright: the model is unsure"),
    ]
    highest = max((one.score or 0 for one in picked), default=0) or 1
    title = "distance, of the largest" if by == "diverse" else by
    sorts = [] if by == "random" else [Sort("score", title, descending=True)]
    with Progress("drawing", len(picked)) as progress:

        def items() -> Iterator[GalleryItem]:
            for rank, one in enumerate(picked, start=1):
                progress.update(rank)
                try:
                    pixels = read_image(one.path)
                except HfgdError:  # 'random' chose without looking
                    continue
                score = highest if one.score is None else one.score
                score = score / highest if by == "diverse" else score
                values = {} if by == "random" else {"score": score}
                yield _candidate(labeller, pixels, one.key, rank, values)

        gallery = Gallery("chosen images", labeller.classes, layers, items(), sorts)
        numbers = {"images": f"{len(picked):,}"}
        write_page(out / "next.html", "What to label next", [gallery], numbers, {"chosen by": by})
    return out / "next.html"


def _candidate(
    labeller: Labeller, pixels: Pixels, key: str, rank: int, values: dict[str, float]
) -> GalleryItem:
    def look(rows: slice, scores: Tensor) -> Tensor:
        p = scores.softmax(-1)
        two = p.topk(min(2, p.shape[-1]), -1)
        doubt = 1 - (two.values[..., 0] - two.values[..., -1] * (p.shape[-1] > 1))
        return torch.stack([two.indices[..., 0], (255 * doubt).round()], -1).to(torch.uint8)

    image = torch.from_numpy(pixels).permute(2, 0, 1)
    prediction, doubt = labeller.reduced(image, look).permute(2, 0, 1).cpu().numpy()
    counts = np.bincount(prediction.ravel(), minlength=len(labeller.classes)) / prediction.size
    layers = {
        "image": thumbnails.photo(pixels),
        "prediction": thumbnails.label_picture(prediction),
        "doubt": thumbnails.heat(doubt),
    }
    shares = {int(i): float(counts[i]) for i in np.flatnonzero(counts)}
    size = thumbnails.small_size(*pixels.shape[:2])
    return GalleryItem(key, size, layers, values, shares, (), {"rank": str(rank)})
