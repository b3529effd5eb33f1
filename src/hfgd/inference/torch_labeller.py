"""Batch norms folded into the convolutions before them: fewer passes over memory on a CPU."""

import copy
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from hfgd.data.images import Pixels, read_image
from hfgd.data.prediction import Prediction
from hfgd.errors import HfgdError
from hfgd.inference import protocol as protocols
from hfgd.inference.run_protocol import Reduce, best_class, label_image, reduce_image
from hfgd.model.memory import inference_memory
from hfgd.model.network import Network, evaluating, in_channels_last, place_of
from hfgd.parallel.device import TYPES, pick_precision
from hfgd.types import Branch, Memory, Precision

PROBE = (64, 65)  # a small image that goes through the network twice


def fold_norms(network: Network) -> Network:
    """``network``, in evaluation mode, changed in place; as it was where folding would not be exact.

    Which norm follows which convolution is seen while a small image passes, so any network can be
    given; the same image afterwards must give the same logits to rounding.
    """
    device, dtype = place_of(network)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, *PROBE, generator=generator).to(device, dtype)
    before, pairs = _watch(network, image)
    kept = {name: module for name, module in network.named_modules() if module in pairs}
    stored = {conv: (conv.weight, conv.bias) for conv in pairs.values()}
    for name, norm in kept.items():
        conv = pairs[norm]
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight,
            norm.bias,
        )  # fmt: skip
        _put(network, name, _rest_of(norm))
    with torch.inference_mode():
        after = network(image).logits
    if torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max())):
        return network
    for name, norm in kept.items():
        _put(network, name, norm)
    for conv, (weight, bias) in stored.items():
        conv.weight, conv.bias = weight, bias
    return network


def _watch(network: Network, image: Tensor) -> tuple[Tensor, dict[_BatchNorm, nn.Conv2d]]:
    """The logits, and the convolution that stands directly before each batch norm."""
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensors are kept, so that ids stay theirs
    pairs: dict[_BatchNorm, nn.Conv2d] = {}
    calls: dict[nn.Module, int] = {}

    def after_conv(module: nn.Module, inputs: object, output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        assert isinstance(module, nn.Conv2d)
        made[id(output)] = (module, output)

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[module] = calls.get(module, 0) + 1
        if id(inputs[0]) in made and isinstance(module, _BatchNorm) and module.affine:
            pairs[module] = made[id(inputs[0])][0]

    handles = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after_conv))
        elif isinstance(module, _BatchNorm) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(before_norm))
    with torch.inference_mode():
        logits = network(image).logits
    for handle in handles:
        handle.remove()
    once = {norm: conv for norm, conv in pairs.items() if calls[norm] == calls[conv] == 1}
    convs = list(once.values())
    return logits, {norm: conv for norm, conv in once.items() if convs.count(conv) == 1}


def _rest_of(norm: _BatchNorm) -> nn.Module:
    """What a norm does beside normalising: timm's hold an activation."""
    if isinstance(norm, BatchNormAct2d):
        return nn.Sequential(norm.drop, norm.act)
    return nn.Identity()


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


# ---- the labeller --------------------------------------------------------------------------------


class NetworkLabeller:
    """A network as it is now: a copy of its own, in evaluation mode, made fast for its device.

    ``device``: the network's own by default. ``precision``: fp32, bf16, fp16 or 'auto' (see
    ``parallel/device.py``). On every device convolutions run in channels last, on a CPU batch norms
    are folded. Raises HfgdError for a precision that the device does not take.
    """

    def __init__(
        self,
        network: Network,
        protocol: protocols.Protocol = protocols.SINGLE_SCALE,
        branch: Branch = "fine",
        device: str | torch.device | None = None,
        precision: Precision = "fp32",
    ) -> None:
        self.classes, self.protocol, self.branch = network.classes, protocol, branch
        self.calibrated_on: str | None = None
        self.gives_scores = True
        self.grid = network.grid
        own, kind = place_of(network)
        self.device = own if device is None else torch.device(device)
        self.precision: str = pick_precision(precision, self.device)
        if kind != torch.float32:  # the network was cast by whoever gave it
            self.precision = str(kind).removeprefix("torch.")
        # evaluating: copied as it will be used, whatever mode the original is in
        with evaluating(network), torch.inference_mode(False):
            model = copy.deepcopy(network).requires_grad_(False).to(self.device)
            model = in_channels_last(model)
        self._network = fold_norms(model) if self.device.type == "cpu" else model

    def labels(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 RGB, wherever it is → class ids (H, W) uint8 on the labeller's device."""
        return self.reduced(image, best_class)

    def reduced(self, image: Tensor, reduce: Reduce) -> Tensor:
        """The same, but what ``reduce`` makes of every pixel's scores: see Labeller."""
        with torch.inference_mode(), self._precision():
            x = image[None].to(self.device, non_blocking=True).float() / 255
            network = self._network
            return reduce_image(network, x, network.grid, self.protocol, self.branch, reduce)

    def memory(self) -> Memory:
        """What an image needs in one whole pass."""
        return inference_memory(
            self._network, self._forward, self.grid, len(self.classes), fused=True
        )

    def _forward(self, network: torch.nn.Module, image: Tensor) -> Any:
        return network(image.float() / 255, all_branches=self.branch != "fine")

    def high_level_feature(self, image: Tensor, reduce: Reduce) -> Tensor:
        """The mean of the high-level feature over the image, (D,); ``reduce`` sees the scores.

        Raises HfgdError for a network without an encoder.
        """
        encoder = getattr(self._network, "encoder", None)
        if not isinstance(encoder, torch.nn.Module):
            raise HfgdError(
                "this network has no encoder, and thus no high-level feature to see; use another way "
                "than diverse."
            )
        seen: list[Tensor] = []
        handle = encoder.register_forward_hook(
            lambda module, inputs, output: seen.append(output[0].float().mean((2, 3)))
        )
        try:
            self.reduced(image, reduce)
        finally:
            handle.remove()
        return torch.cat(seen).mean(0)

    def __call__(self, pixels: Pixels) -> Pixels:
        """(H, W, 3) uint8 RGB → class ids (H, W) uint8."""
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        labels: Pixels = self.labels(image).cpu().numpy()
        return labels

    def _precision(self) -> AbstractContextManager[Any]:
        if self.precision not in ("bf16", "fp16"):
            return nullcontext()
        return torch.autocast(self.device.type, TYPES[self.precision])


def predict_with(network: Network, image: "str | Path | Any | np.ndarray") -> Prediction:
    """``network.predict``: one image, whole, in fp32, with the network itself and not a copy."""
    pixels = read_image(image)
    device, _ = place_of(network)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(device).float() / 255
    with evaluating(network):
        labels = label_image(network, x, network.grid).cpu().numpy()
    return Prediction(pixels, labels, network.classes)
