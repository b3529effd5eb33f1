"""The gallery of a report: from scores and the pictures made while scoring to a page's items."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from hfgd.data.dataset import SegDataset
from hfgd.evaluation.page.sections import Gallery, GalleryItem, Layer, Number, Sort
from hfgd.evaluation.page.thumbnails import label_picture, photo, picture_file, pixels_of
from hfgd.evaluation.report import percent
from hfgd.evaluation.scores import Floats, ImageCounts, Scores
from hfgd.progress import Progress

GALLERY = 500  # images that a page holds unless told otherwise


class Shown:
    """Scores by model on one data set, in whose order their images are, and where pictures lie.

    ``count``: images in the gallery at most; 0 leaves it out.
    """

    def __init__(
        self, models: Mapping[str, Scores], dataset: SegDataset, folder: Path, count: int
    ) -> None:
        self.titles, self.dataset, self.folder, self.count = list(models), dataset, folder, count
        self.images: list[ImageCounts] = [s.images for s in models.values() if s.images is not None]

    @cached_property
    def miou(self) -> list[Floats]:
        """Of each model and image (N,)."""
        return [images.miou() for images in self.images]

    @cached_property
    def iou(self) -> list[Floats]:
        """Of each model, image and class (N, K)."""
        return [images.iou() for images in self.images]

    def galleries(self) -> list[Gallery]:
        """The gallery, or none where there are no images to show."""
        total = len(self.dataset)
        there = [i for i in range(total) if self._file(i, "prediction/0").is_file()]
        chosen, note = self._chosen(there) if self.count else ([], "")
        if not chosen:
            return []
        if len(there) < total:
            note += f" {total - len(there)} of {total} images were scored on another machine."
        sure = self._file(chosen[0], "confidence/0").is_file()
        layers, sorts = _layers(self.titles, sure), _sorts(self.titles, sure)
        items, classes = self._items(chosen), self.dataset.classes
        return [Gallery("images", classes, layers, items, sorts, self.titles, note.strip())]

    def _file(self, index: int, layer: str) -> Path:
        return picture_file(self.folder, index, layer)

    def _chosen(self, there: Sequence[int]) -> tuple[Sequence[int], str]:
        """Which images, in their order, and a sentence where that is not all of them."""
        if len(there) <= self.count:
            return there, ""
        first, *others = self.miou
        weight = np.abs(others[-1] - first) if others else -first
        order = sorted(there, key=lambda i: (np.isnan(weight[i]), -weight[i]))
        telling = order[: self.count - self.count // 2]
        rest = order[len(telling) :]
        drawn = np.random.default_rng(0).choice(len(rest), self.count // 2, replace=False)
        kind = "the largest difference in mIoU" if others else "the lowest mIoU"
        return sorted([*telling, *(rest[i] for i in drawn)]), (
            f"{self.count} of {len(there)} images: {len(telling)} with {kind}, and {len(drawn)} drawn "
            "at random from the others."
        )

    def _items(self, chosen: Sequence[int]) -> Iterator[GalleryItem]:
        with Progress("report.html", len(chosen)) as progress:
            for done, index in enumerate(chosen, start=1):
                yield self._item(index)
                progress.update(done)

    def _item(self, index: int) -> GalleryItem:
        layers = self._front(index)
        for model in range(len(self.titles)):
            for name in (f"prediction/{model}", f"confidence/{model}"):
                if self._file(index, name).is_file():
                    layers[name] = self._file(index, name).read_bytes()
        height, width = pixels_of(layers["truth"]).shape
        change = [iou[index] for iou in self.iou]
        values = change[0] if len(change) == 1 else change[-1] - change[0]
        seen = np.flatnonzero(np.isfinite(change).any(0))
        return GalleryItem(
            self.images[0].names[index],
            (height, width),
            layers,
            self._values(index, layers),
            {int(k): float(values[k]) for k in seen},
            facts=self._facts(index),
        )

    def _front(self, index: int) -> dict[str, bytes]:
        """Photograph and truth: made while scoring, or from the data set now."""
        files = {layer: self._file(index, layer) for layer in ("image", "truth")}
        if all(file.is_file() for file in files.values()):
            return {layer: file.read_bytes() for layer, file in files.items()}
        image, label, _ = self.dataset[index]
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        return {"image": photo(pixels), "truth": label_picture(label.numpy())}

    def _values(self, index: int, layers: Mapping[str, bytes]) -> dict[str, Number]:
        """What the image is sorted by; see ``_sorts``."""
        scores = [float(miou[index]) for miou in self.miou]
        values: dict[str, Number] = {}
        if len(scores) == 1:
            hits, labelled, _ = self.images[0].counts[index].sum(1).tolist()
            values["score"] = scores[0]
            values["disagreement"] = 1 - hits / labelled if labelled else None
        else:
            values["gain"] = scores[-1] - scores[0]
            values |= {f"score/{model}": score for model, score in enumerate(scores)}
            maps = [pixels_of(layers[f"prediction/{m}"]) for m in (0, len(scores) - 1)]
            values["disagreement"] = float((maps[0] != maps[1]).mean())
        sure = [pixels_of(layers[k]).mean() / 255 for k in layers if k.startswith("confidence/")]
        return values | ({"confidence": float(np.mean(sure))} if sure else {})

    def _facts(self, index: int) -> dict[str, str]:
        facts: dict[str, str] = {}
        for title, miou, iou in zip(self.titles, self.miou, self.iou, strict=True):
            of = f" of {title}" if len(self.titles) > 1 else ""
            order = [int(k) for k in np.argsort(iou[index], kind="stable")]
            names = self.dataset.classes.names
            listed = [f"{names[k]} {percent(iou[index, k])}" for k in order if iou[index, k] >= 0]
            facts |= {f"mIoU{of}": percent(miou[index]), f"IoU{of}": " · ".join(listed)}
        return facts


def _layers(titles: Sequence[str], sure: bool) -> list[Layer]:
    layers = [
        Layer("truth", "truth", "labels", "black: not labelled"),
        Layer("prediction", "prediction", "labels", by_model=True),
        Layer(
            "error", "error", "error", "red: wrong; dark: not labelled", of=("truth", "prediction")
        ),
    ]
    if sure:
        hint = "bright: the model is unsure (the probability of its best class is low)"
        layers.append(Layer("confidence", "confidence", "heat", hint, by_model=True, invert=True))
    if len(titles) > 1:
        hint = "red: only the left model is right; green: only the right one; grey: both are wrong"
        layers.append(Layer("gain", "difference", "gain", hint, of=("truth", "prediction")))
    return layers


def _sorts(titles: Sequence[str], sure: bool) -> list[Sort]:
    first, last = titles[0], titles[-1]
    if len(titles) == 1:
        sorts = [
            Sort("score", "score (mIoU)"),
            Sort("class", "class (its IoU; the worst one)"),
            Sort("disagreement", "disagreement (wrong pixels)", descending=True),
        ]
    else:
        sorts = [
            Sort("gain", f"gain in mIoU, {first} → {last}", descending=True),
            Sort("class", "class (gain in its IoU; the least one)"),
            Sort("disagreement", "disagreement (pixels that differ)", descending=True),
            *(Sort(f"score/{m}", f"score (mIoU) of {title}") for m, title in enumerate(titles)),
        ]
    return [*sorts, *([Sort("confidence", "mean confidence")] if sure else [])]
