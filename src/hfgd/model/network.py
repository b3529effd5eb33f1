"""What a network gives: the value that losses, inference and export read."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from hfgd.data.classes import ClassSet
from hfgd.errors import HfgdError
from hfgd.model.config import ModelConfig
from hfgd.resample import image_axis, restore, strips
from hfgd.types import Branch, Frame, Grid, Size

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from hfgd.data.prediction import Prediction
    from hfgd.export.check import Checked


class SegOutput(NamedTuple):
    """What the network gives; every map lies over the padded image (see ``frame``).

    ``logits`` (B, K, H'/s, W'/s): the fine branch's, the model's answer.
    ``guide_logits`` (B, K, h, w): the guiding branch's; None at inference and without guidance.
    ``aux_logits`` (B, K, h, w): the auxiliary FCN's; None without one.
    ``region_logits`` (B, K, h, w): OCR's object regions; None without OCR.
    ``regularised`` (B, 512, h, w): what CAR's losses act on; None without CAR.
    """

    logits: Tensor
    guide_logits: Tensor | None
    aux_logits: Tensor | None
    region_logits: Tensor | None
    regularised: Tensor | None
    frame: Frame

    def branch(self, branch: Branch) -> Tensor:
        """The logits of a branch as the network gives them; raises HfgdError without it."""
        logits = {"fine": self.logits, "guide": self.guide_logits, "aux": self.aux_logits}[branch]
        if logits is None:
            raise HfgdError(f"this model has no {branch} branch to score; use the fine one.")
        return logits

    def full_size(self, branch: Branch = "fine") -> Tensor:
        """The logits of a branch at the image's own size: (B, K, H, W)."""
        return restore(self.branch(branch), self.frame)

    def labels(self, branch: Branch = "fine") -> Tensor:
        """The best class of every pixel: (B, H, W) uint8; full-size logits are never made."""
        logits = self.branch(branch)
        y, x = (image_axis(self.frame, i, logits.shape[2 + i], logits.device) for i in (0, 1))
        with torch.no_grad():
            maps = [torch.cat([best(s) for _, s in strips(each, y, x)]) for each in logits]
        return torch.stack(maps)


def check_output(output: object, classes: int) -> None:
    """Refuse what is no SegOutput with a logit for each class. Looks at shapes, never at values."""
    if not isinstance(output, SegOutput):
        raise HfgdError(
            f"the network's forward must return a SegOutput, not {type(output).__name__}."
        )
    for name in ("logits", "guide_logits", "aux_logits", "region_logits"):
        logits = getattr(output, name)
        if logits is None and name != "logits":
            continue
        shape: tuple[int, ...] = tuple(getattr(logits, "shape", ()))
        if len(shape) != 4 or shape[1] != classes:
            found = "none" if logits is None else f"shape {shape}"
            raise HfgdError(
                f"the network's {name} must be (B, {classes}, h, w), one for each of its {classes} "
                f"classes; got {found}."
            )


def best(logits: Tensor) -> Tensor:
    """(H, W, K) → the best class of every pixel, (H, W) uint8; the first one of equals."""
    return logits.argmax(-1).to(torch.uint8)


# ---- networks ------------------------------------------------------------------------------------


N = TypeVar("N", bound=nn.Module)


class Network(nn.Module):
    """A semantic-segmentation network with its classes; takes any height and width.

    ``Segmenter`` is the paper's; a network of one's own is a subclass that sets ``classes``, ``grid``
    (how its logits lie over the image) and ``mean`` (3 values of [0, 1], what training pads with),
    and returns a SegOutput. ``config`` says how to build it again, see ``builder`` in model/build.py.
    """

    classes: ClassSet
    grid: Grid
    mean: Tensor
    config: ModelConfig | None = None

    def forward(self, image: Tensor, all_branches: bool | None = None) -> SegOutput:
        """(B, 3, H, W) RGB in [0, 1] → SegOutput.

        ``all_branches``: whether guide and aux logits are computed too; by default while training.
        """
        raise NotImplementedError

    def freeze_backbone(self) -> list[nn.Module]:
        """Stop the backbone's gradients; returns the modules whose statistics stay as they are."""
        raise HfgdError("train.freeze: this network does not say what its backbone is.")

    def checkpoint_activations(self) -> None:
        """Compute the backbone's activations again in the backward pass rather than keep them."""
        raise HfgdError("train.checkpoint_activations: this network cannot do that; leave it out.")

    # Doors for users; nothing in here needs what stands behind them.

    def predict(self, image: "str | Path | Image.Image | np.ndarray") -> "Prediction":
        """Label one image, whole and at its own size.

        ``image``: a path, a PIL image, or an array (H, W, 3) uint8 RGB. EXIF orientation is
        applied. The model is used in evaluation mode and left in the mode it was in.
        Raises HfgdError for a file that is no readable image.
        """
        from hfgd.inference.torch_labeller import predict_with

        return predict_with(self, image)

    def save(self, folder: str | Path, **facts: Any) -> Path:
        """Write ``model.safetensors`` and ``config.json``; ``hfgd.load(folder)`` reads them.

        ``facts``: JSON values that go along. Returns the folder.
        """
        from hfgd.checkpoint import save_model

        return save_model(self, Path(folder), facts)

    def export(
        self,
        path: str | Path,
        *,
        size: Size | None = None,
        logits: bool = False,
        input: Literal["uint8", "float"] = "uint8",
    ) -> "list[Checked]":
        """Write a file that runs without this network, checked against it: .onnx, .xml or .pt2.

        A ``path`` that ends in .html becomes a page for a browser, with an ONNX file in it. See
        ``hfgd.export.write.export_model``; ``hfgd.export.runtime.ExportedModel`` runs the others.
        """
        from hfgd.export.write import export_model

        return export_model(self, path, size=size, logits=logits, input=input)


def check_forward(network: Network) -> None:
    """Refuse a network whose forward takes no ``all_branches``: scoring gives it."""
    parameters = inspect.signature(network.forward).parameters.values()
    if not any(p.name == "all_branches" or p.kind is p.VAR_KEYWORD for p in parameters):
        raise HfgdError(
            f"{type(network).__name__}.forward must take all_branches: "
            "def forward(self, image, all_branches=None)."
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode without gradients; afterwards every part in the mode it was in."""
    trained = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            yield model
    finally:
        for module in trained:  # one by one: parts that are kept in evaluation mode stay so
            module.training = True


def in_channels_last(model: N) -> N:
    """The model with its four-axis weights in channels last, in place.

    ``Module.to`` also tries weights of five axes, of 3-D convolutions, for which the format does not
    exist.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return model


def place_of(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and type of a model's weights; a model without any is on the CPU in fp32."""
    for parameter in model.parameters():
        return parameter.device, parameter.dtype
    return torch.device("cpu"), torch.float32
