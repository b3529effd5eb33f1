"""8-bit convolutions: scales from a model's own training images, seen as evaluation sees them.

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
from hfgd.export.facts import Facts
from hfgd.export.onnx import quiet, require
from hfgd.export.sessions import open_session, run
from hfgd.export.whole import Whole
from hfgd.progress import Progress

COMPARED = 8  # calibration images on which the share of equal labels is told


class Calibration(NamedTuple):
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
    ) -> "Calibration":
        """``count`` images of a split, spread evenly. Raises HfgdError for the split that is scored."""
        if split == scored:
            raise HfgdError(
                f"int8 is calibrated on images that are not scored, and '{split}' is: its scores "
                "would flatter the model; calibrate on the training split."
            )
        whole = open_dataset(data, split, data_yaml, None)
        limit = min(count, len(whole))
        return cls(whole.title, open_dataset(data, split, data_yaml, limit))


def quantised(path: Path, facts: Facts, calibration: Calibration) -> None:
    """Put an 8-bit file in the place of an fp32 one."""
    target = path.with_name(f"int8-{path.name}")
    if path.suffix == ".onnx":
        _quantise_onnx(path, target, facts, calibration)
        os.replace(target, path)
        return
    _quantise_openvino(path, target, facts, calibration)
    for suffix in (".bin", ".xml"):
        os.replace(target.with_suffix(suffix), path.with_suffix(suffix))


def inputs(facts: Facts, images: SegDataset) -> Iterator[npt.NDArray[Any]]:
    """Each image (1, 3, H, W) as the file takes it; resized where it takes one size alone."""
    with Progress("calibrating", len(images)) as progress:
        for i in range(len(images)):
            pixels = images[i].image.permute(1, 2, 0).numpy()
            if facts.size is not None and pixels.shape[:2] != facts.size:
                image = Image.fromarray(pixels).resize(facts.size[::-1], Image.Resampling.BILINEAR)
                pixels = np.asarray(image)
            x = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
            yield x if facts.input == "uint8" else x.astype(np.float32) / 255
            progress.update(i + 1)


def _quantise_onnx(path: Path, target: Path, facts: Facts, calibration: Calibration) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.images = inputs(facts, calibration.images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.images, None)
            return None if image is None else {"image": image}

    with quiet():
        quantize_static(
            path,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            per_channel=True,
            # 7 bits of weight: without VNNI the sums of 8 overflow, on such CPUs and without a word
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def _quantise_openvino(path: Path, target: Path, facts: Facts, calibration: Calibration) -> None:
    require("nncf", extra="openvino")
    import nncf
    import openvino

    nncf.set_log_level(40)
    model = openvino.Core().read_model(path)
    with quiet():
        small = nncf.quantize(
            model,
            nncf.Dataset(inputs(facts, calibration.images)),
            subset_size=len(calibration.images),
        )
    openvino.save_model(small, target, compress_to_fp16=False)


def compare_int8(whole: Whole, path: Path, final: Path, facts: Facts, by: Calibration) -> Checked:
    """The share of labels that are the network's, on a few of the images it was calibrated with."""
    session = open_session(final)
    equal, size, total = 0, (0, 0), 0
    for _, image in zip(range(COMPARED), inputs(facts, by.images), strict=False):
        with torch.no_grad():
            labels = whole(torch.from_numpy(image))[0].numpy()
        equal += int((run(session, path, image)["labels"] == labels).sum())
        total += labels.size
        size = (labels.shape[1], labels.shape[2])
    return Checked("int8", size, equal / total, None)
