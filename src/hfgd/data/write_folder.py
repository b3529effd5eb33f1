"""Writing any data set out as an ordinary data folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from PIL import Image

from hfgd.data.classes import IGNORE, ClassSet
from hfgd.data.prediction import palette_image
from hfgd.errors import HfgdError
from hfgd.files import inside, write_text

if TYPE_CHECKING:
    from hfgd.data.dataset import SegDataset


def export(
    splits: "Mapping[str, SegDataset]",
    out: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write PNG images, palette label PNGs and data.yaml; returns the data.yaml.

    Raises HfgdError where ``out`` already holds data, so that nothing is overwritten.
    """
    if (out / "data.yaml").exists() or (out / "images").exists():
        raise HfgdError(f"'{out}' already holds a data set; choose another --out.")
    total, done = sum(len(dataset) for dataset in splits.values()), 0
    for split, dataset in splits.items():
        for kind in ("images", "labels"):
            (out / kind / split).mkdir(parents=True)
        for index in range(len(dataset)):
            image, label, name = dataset[index]
            pixels = Image.fromarray(image.permute(1, 2, 0).numpy())
            _save(pixels, inside(out, f"{name}.png", dataset.title, f"images/{split}"))
            labels = palette_image(label.numpy(), dataset.classes)
            _save(labels, inside(out, f"{name}.png", dataset.title, f"labels/{split}"))
            done += 1
            if progress is not None:
                progress(done, total)
    return write_data_yaml(next(iter(splits.values())).classes, out)


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)  # names may be nested
    picture.save(path)


def data_yaml_text(classes: ClassSet) -> str:
    """The data.yaml of label files that hold class indices and 255 = ignore."""
    content = {
        "classes": list(classes.names),
        "colours": {n: list(c) for n, c in zip(classes.names, classes.palette, strict=True)},
        "label_map": dict(enumerate(classes.names)) | {IGNORE: "ignore"},
    }
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None)


def write_data_yaml(classes: ClassSet, out: Path) -> Path:
    """Write that data.yaml into a data folder; returns its path."""
    path = out / "data.yaml"
    write_text(path, data_yaml_text(classes))
    return path
