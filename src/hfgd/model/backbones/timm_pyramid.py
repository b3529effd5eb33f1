"""timm's networks with their weights: the cache, the hub, a local file, and what can go wrong."""

import functools
import inspect
import logging
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers.format import Format
from torch import Tensor, nn

from hfgd.errors import HfgdError, unknown
from hfgd.model.backbones.base import Backbone, Colour, find_grid
from hfgd.progress import say

OPEN = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0")
_fetching = ContextVar("fetching", default=True)
RESAMPLED = ("pos_embed",)  # a ViT's, which timm brings to the network's grid


def make_net(
    name: str, pretrained: bool | str, options: dict[str, Any], ours: dict[str, Any]
) -> nn.Module:
    """timm's network of a name, with weights where asked for.

    ``options`` decide what the network is and which weights fit it; ``ours`` are arguments of
    ``timm.create_model`` that only say how it is used. Raises HfgdError.
    """
    if not timm.is_model(name):
        raise unknown("backbone", name, timm.list_models())
    _refuse_loading(options)
    overlay = None
    pretrained = pretrained if _fetching.get() else False
    if pretrained is True:
        terms = licence_in_words(licence_of(name))
        say(f"pre-trained weights of '{name}': from the local cache, or downloaded once ({terms})")
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; see _explain
    if isinstance(pretrained, str):
        overlay = {"state_dict": _read_weights(Path(pretrained), name, options)}
    try:
        with _from_hub() if pretrained is True else nullcontext():
            return timm.create_model(
                name,
                pretrained=bool(pretrained),
                pretrained_cfg_overlay=overlay,
                **{**options, **ours},
            )
    except Exception as error:
        raise _explain(error, name, pretrained, options) from error


def _refuse_loading(options: dict[str, Any]) -> None:
    """Options describe the network; whatever says how timm loads or wraps it is no option."""
    odd = sorted(options.keys() & _loading_options())
    if odd:
        raise HfgdError(
            f"model.backbone.options: '{odd[0]}' says how timm loads a network, not what it is; leave "
            "it out, and give weights by model.backbone.pretrained."
        )


@functools.cache
def _loading_options() -> frozenset[str]:
    """Those of timm's own functions that load: paths, addresses and caches among them."""
    loaders = (timm.create_model, timm.models.build_model_with_cfg)
    names = {name for load in loaders for name in inspect.signature(load).parameters}
    return frozenset(names - {"kwargs"} | {"features_only", "feature_cls", "out_indices"})


@contextmanager
def without_weights() -> Iterator[None]:
    """Networks that are made in here start from random weights: others will replace them."""
    token = _fetching.set(False)
    try:
        yield
    finally:
        _fetching.reset(token)


def licence_of(name: str) -> str | None:
    """The licence of the pre-trained weights of a name, as timm tells it; None where it does not."""
    known = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return None if known is None else known.license


def licence_in_words(licence: str | None) -> str:
    """What it means, where it is none of those that allow nearly everything."""
    if licence in OPEN:
        return f"licence: {licence}"
    if licence is None or licence == "unknown":
        return "licence: unknown; ask their publisher"
    if "noncommercial" in licence or "-nc" in licence:
        return f"licence: {licence}, no commercial use"
    return f"licence: {licence}, terms of their publisher's own; read them before you use the model"


def checkpoint_activations(net: nn.Module, name: str) -> None:
    """Let a network compute activations again in the backward pass; HfgdError where timm cannot."""
    try:
        net.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError) as error:
        raise HfgdError(
            f"timm cannot compute the activations of '{name}' again; "
            "leave train.checkpoint_activations out for it."
        ) from error


@contextmanager
def _from_hub() -> Iterator[None]:
    """Where the hub cannot be reached, ask its cache only; it retries for most of a minute else."""
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = offline or not _reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline


def _reachable(url: str, seconds: float = 3.0) -> bool:
    """Whether a server takes connections; through a proxy that is not for us to say, and it may."""
    if getproxies():
        return True
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=seconds):
            return True
    except OSError:
        return False


def _explain(
    error: Exception, name: str, pretrained: bool | str, options: dict[str, Any]
) -> HfgdError:
    """One sentence for what timm raised."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if pretrained is True and not isinstance(error, TypeError):
        return HfgdError(
            f"the pre-trained weights of '{name}' are not in the local cache and could not be "
            f"downloaded ({type(error).__name__}); connect once, or give a local file with "
            "model.backbone.pretrained=PATH, or start from random weights with "
            "model.backbone.pretrained=false."
        )
    if "output_stride" in options:
        return undilated(name, options["output_stride"])
    return HfgdError(f"backbone '{name}' could not be built as a pyramid: {reason}")


def undilated(name: str, output_stride: int) -> HfgdError:
    """The sentence for a network without dilation."""
    return HfgdError(
        f"backbone '{name}' cannot be dilated to output stride {output_stride}; "
        "use output_stride: 32 with an upsampler, or a ResNet, MobileNet or ConvNeXt."
    )


def _read_weights(path: Path, name: str, options: dict[str, Any]) -> dict[str, Tensor]:
    """A local state dict, checked tensor by tensor against the network (its classifier aside)."""
    if not path.is_file():
        raise HfgdError(f"pre-trained weights: there is no file '{path}'.")
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
            weights = weights.get("state_dict", weights)
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, AttributeError) as error:
        raise HfgdError(
            f"pre-trained weights: '{path}' cannot be read as a safetensors file or a PyTorch "
            f"state dict ({type(error).__name__}); it may be truncated."
        ) from error
    except Exception as error:  # torch raises pickle's errors for anything but plain tensors
        raise HfgdError(
            f"pre-trained weights: '{path}' holds more than tensors and was not loaded; "
            "save the bare state dict, best as safetensors."
        ) from error
    with torch.device("meta"):
        whole = timm.create_model(name, **options)
    config: Any = whole.pretrained_cfg
    classifier = config.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    expected = {
        key: value.shape
        for key, value in whole.state_dict().items()
        if not key.startswith(heads or ("\0",)) and not key.endswith("num_batches_tracked")
    }
    missing = sorted(expected.keys() - weights.keys())
    if missing:
        raise HfgdError(
            f"pre-trained weights: '{path}' lacks {len(missing)} of the {len(expected)} tensors "
            f"of '{name}', '{missing[0]}' first; is it the state dict of another network?"
        )
    for key, shape in expected.items():
        if weights[key].shape != shape and key not in RESAMPLED and "relative_position" not in key:
            raise HfgdError(
                f"pre-trained weights: '{key}' in '{path}' has shape {list(weights[key].shape)}, "
                f"and '{name}' needs {list(shape)}."
            )
    # what the pyramid leaves out (the classifier, the last convolution) is no news
    logging.getLogger("timm.models._builder").setLevel(logging.ERROR)
    return dict(weights)


# ---- pyramids ------------------------------------------------------------------------------------


SWINS = ("swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr")
PYRAMIDS = {32: (4, 8, 16, 32), 16: (4, 8, 16, 16), 8: (4, 8, 8, 8)}


class TimmPyramid(Backbone):
    """A timm network as a pyramid; see Backbone.

    ``pretrained``: False for random weights, True for timm's, a path for a local file.
    ``output_stride``: 8 or 16 replaces the last strides by dilation, where timm offers it.
    ``multi_grid``: dilation factors of the three blocks of a ResNet's stage 4, (1, 2, 4) in the paper.
    ``bn_momentum``: for every batch norm in here, PyTorch's sense; None leaves timm's.
    ``mean``, ``std``: of the weights, where timm does not know them. ``options``: passed to timm's
    constructor as they are (``drop_path_rate``, say).
    Raises HfgdError for an unknown name, a network without the pyramid, unusable weights.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool | str = False,
        output_stride: int = 32,
        multi_grid: tuple[int, int, int] | None = None,
        bn_momentum: float | None = None,
        mean: Colour | None = None,
        std: Colour | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        net = _create(name, pretrained, output_stride, dict(options or {}))
        info: Any = net.feature_info
        strides: tuple[int, ...] = tuple(info.reduction())
        if strides != PYRAMIDS[output_stride]:
            if output_stride != 32:  # older timm leaves the option out of account
                raise undilated(name, output_stride)
            raise HfgdError(
                f"backbone '{name}' gives maps at strides {list(strides)}, and the model needs "
                f"{list(PYRAMIDS[output_stride])}; choose a network with a four-level pyramid, "
                "for example resnet50, mobilenetv2_100, convnext_tiny or swin_tiny_patch4_window7_224."
            )
        nhwc = getattr(net, "output_fmt", Format.NCHW) == Format.NHWC
        grid = find_grid(net, lambda x: _maps(net, x, nhwc), strides, name)
        trained: Any = net.pretrained_cfg  # what timm knows of the weights of this name
        super().__init__(
            tuple(info.channels()), strides, grid, mean or trained["mean"], std or trained["std"]
        )
        self.net, self.nhwc, self.name = net, nhwc, name
        if multi_grid is not None:
            _set_multi_grid(net, name, multi_grid, 32 // output_stride)
        if bn_momentum is not None:
            for module in net.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.momentum = bn_momentum

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H', W') normalised → four maps (B, C_i, H'/s_i, W'/s_i)."""
        return _maps(self.net, image, self.nhwc)

    def checkpoint_activations(self) -> None:
        """Compute activations again in the backward pass; raises HfgdError where timm cannot."""
        checkpoint_activations(self.net, self.name)


def _maps(net: nn.Module, image: Tensor, nhwc: bool) -> list[Tensor]:
    maps: list[Tensor] = net(image)
    return [m.permute(0, 3, 1, 2).contiguous() for m in maps] if nhwc else maps


def _create(
    name: str, pretrained: bool | str, output_stride: int, options: dict[str, Any]
) -> nn.Module:
    if output_stride not in PYRAMIDS:
        raise HfgdError(f"output_stride is 32, 16 or 8, not {output_stride}.")
    if output_stride != 32:
        options["output_stride"] = output_stride
    if any(name.split(".")[0] in timm.list_models(module=module) for module in SWINS):
        # timm's Swin is built for one image size; this makes windows and shifts follow the input
        options = {"strict_img_size": False, "always_partition": True} | options
    maps = {"features_only": True, "out_indices": (-4, -3, -2, -1)}
    return make_net(name, pretrained, options, maps)


def _set_multi_grid(
    net: nn.Module, name: str, factors: tuple[int, int, int], dilation: int
) -> None:
    """Dilate the 3×3 convolutions in a ResNet's stage 4 by ``dilation`` times a factor a block.

    All blocks start from one ``dilation``: timm dilates the first block only half as much.
    """
    blocks = list(getattr(net, "layer4", ()))
    if len(blocks) != len(factors):
        raise HfgdError(
            f"multi_grid sets the three blocks of a ResNet's stage 4, and backbone '{name}' has "
            "no such stage; use model.backbone.multi_grid=null."
        )
    for block, factor in zip(blocks, factors, strict=True):
        for conv in (m for m in block.modules() if isinstance(m, nn.Conv2d)):
            if conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (dilation * factor, dilation * factor)
