"""8-bit files: scales from a model's own training images, seen as evaluation sees them.

Which 8-bit values stand for which numbers is fitted to images; images that are scored later would
flatter the score, so those of the training split are taken.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from hfgd.data.dataset import SegDataset
from hfgd.data.open import open_dataset
from hfgd.errors import HfgdError
from hfgd.export.check import Checked
from hfgd.export.metadata import Facts
from hfgd.export.onnx import quiet
from hfgd.export.sessions import open_session, run
from hfgd.export.wrapper import ExportWrapper
from hfgd.progress import Progress

COMPARED = 8  # calibration images on which the share of equal labels is told


class CalibrationImages(NamedTuple):
    """Images to calibrate with. ``title``: which data and split, without the number of images."""

    title: str
    images: SegDataset

    @classmethod
    def of(
        cls,
        data: str,
        count: int,
        split: str = "train",
        scored: str = "val",
        data_yaml: Path | None = None,
    ) -> "CalibrationImages":
        """``count`` images of a split, spread evenly. Raises HfgdError for the split that is scored."""
        if split == scored:
            raise HfgdError(
                f"int8 is calibrated on images that are not scored, and '{split}' is: its scores "
                "would flatter the model; calibrate on the training split."
            )
        whole = open_dataset(data, split, data_yaml, None)
        limit = min(count, len(whole))
        return cls(whole.title, open_dataset(data, split, data_yaml, limit))


def quantised(path: Path, facts: Facts, calibration: CalibrationImages) -> None:
    """Put an 8-bit file in the place of an fp32 one; for ONNX, nodes of QuantizeLinear and
    DequantizeLinear ("QDQ") around what is 8-bit."""
    target = path.with_name(f"int8-{path.name}")
    if path.suffix == ".onnx":
        import onnx

        onnx.save(_small(onnx.load(path), facts, calibration), target)
        os.replace(target, path)
        return
    import openvino

    small = _small(openvino.Core().read_model(path), facts, calibration)
    openvino.save_model(small, target, compress_to_fp16=False)
    for suffix in (".bin", ".xml"):
        os.replace(target.with_suffix(suffix), path.with_suffix(suffix))


def _small(model: Any, facts: Facts, calibration: CalibrationImages) -> Any:
    """The model of either runtime with 8-bit weights and activations. NNCF also corrects the biases
    for what rounding moves, which networks of depthwise convolutions need (dev/LOG.md)."""
    import nncf

    nncf.set_log_level(40)
    fed = ({"image": image} for image in inputs(facts, calibration.images))
    with quiet():
        return nncf.quantize(model, nncf.Dataset(fed), subset_size=len(calibration.images))


def inputs(
    facts: Facts, images: SegDataset, count: int | None = None
) -> Iterator[npt.NDArray[Any]]:
    """Each image (1, 3, H, W), or ``count`` spread evenly, as the file takes them; resized where it
    takes one size alone."""
    taken = range(0, len(images), max(1, len(images) // (count or len(images))))[:count]
    with Progress("calibrating", len(taken)) as progress:
        for done, i in enumerate(taken, start=1):
            pixels = images[i].image.permute(1, 2, 0).numpy()
            if facts.size is not None and pixels.shape[:2] != facts.size:
                image = Image.fromarray(pixels).resize(facts.size[::-1], Image.Resampling.BILINEAR)
                pixels = np.asarray(image)
            x = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
            yield x if facts.input == "uint8" else x.astype(np.float32) / 255
            progress.update(done)


def compare_int8(
    whole: ExportWrapper, path: Path, final: Path, facts: Facts, by: CalibrationImages
) -> Checked:
    """The share of labels that are the network's, on a few of the images it was calibrated with, spread
    evenly: neighbours are often frames of one scene, and as hard or easy as each other."""
    session = open_session(final)
    equal, size, total = 0, (0, 0), 0
    for image in inputs(facts, by.images, COMPARED):
        with torch.no_grad():
            labels = whole(torch.from_numpy(image))[0].numpy()
        equal += int((run(session, path, image)["labels"] == labels).sum())
        total += labels.size
        size = (labels.shape[1], labels.shape[2])
    return Checked("int8", size, equal / total, None)
