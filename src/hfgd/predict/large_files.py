"""What is not read whole: large TIFFs, and films. Each writes its own results."""

from collections.abc import Sequence
from typing import NamedTuple

from hfgd.inference.labeller import Labeller
from hfgd.predict.inputs import TIFFS, VIDEOS, InputImage
from hfgd.predict.tiff import by_windows, label_tiff
from hfgd.predict.video import film_name, label_video
from hfgd.predict.writer import Writer


class LargeFileConfig(NamedTuple):
    """``tile``: the side of the tiles of a TIFF, chosen where None; ``every``: of a film's frames;
    ``overlays``: of images (a film always has one)."""

    tile: int | None = None
    every: int = 1
    overlays: bool = True

    def settings(self) -> dict[str, object]:
        """What differs from the usual: results of other settings are not mixed."""
        usual = LargeFileConfig()._asdict()
        return {key: value for key, value in self._asdict().items() if value != usual[key]}


def named(items: Sequence[InputImage], extent: LargeFileConfig) -> list[InputImage]:
    """The items, where a TIFF that is labelled by tiles gives a TIFF."""
    return [
        item._replace(target=item.target.removesuffix(".png") + ".tif")
        if item.has(TIFFS) and by_windows(str(item.source), extent.tile)
        else item
        for item in items
    ]


def is_large(item: InputImage) -> bool:
    """Whether an item that went through ``named`` is not read whole."""
    return item.target.endswith(".tif") or item.has(VIDEOS)


def label_large(
    labeller: Labeller, item: InputImage, writer: Writer, extent: LargeFileConfig
) -> None:
    """Label it and write everything of it."""
    if item.has(VIDEOS):
        label_video(labeller, item, writer, extent.every)
    else:
        label_tiff(labeller, item, writer, extent.tile)


def results(item: InputImage, overlays: bool) -> list[str]:
    """The files that say that an item is done."""
    if item.has(VIDEOS):
        return [f"overlays/{film_name(item)}"]
    overlay = item.target.removesuffix(".tif") + ".png" if is_large(item) else item.target
    return [f"labels/{item.target}", *([f"overlays/{overlay}"] if overlays else [])]
