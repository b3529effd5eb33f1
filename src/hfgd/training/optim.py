"""Optimiser and schedule (paper §4)."""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models import group_parameters
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hfgd.errors import HfgdError
from hfgd.model.config import BackboneSpec
from hfgd.model.network import Network
from hfgd.model.segmenter import Segmenter
from hfgd.recipes.spec import OptimSpec, Recipe

# tables of positions and tokens, by the last part of a parameter's name; timm lists most, not all
NO_DECAY = re.compile(
    r"(rel|relative)_pos|pos(ition)?_embed|pos_emb$|(height|width)_rel$|attention_bias"
    r"|(cls|reg|dist|mask)_token"
)


def make_optimiser(
    model: nn.Module, spec: OptimSpec, scales: Mapping[str, float] | None = None
) -> Optimizer:
    """SGD or AdamW; weight decay on weights only, never on biases, norms, positions, tokens, nor on
    what timm's ``no_weight_decay()`` lists.

    ``scales``: factors on the learning rate by parameter name, 1 without one; see ``rate_scales``.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    listed_by_timm = undecayed(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_table = NO_DECAY.search(name.rpartition(".")[2]) or name in listed_by_timm
            is_weight = parameter.ndim > 1 and not is_table
            decay = spec.weight_decay if is_weight else 0.0
            groups[decay, (scales or {}).get(name, 1.0)].append(parameter)
    listed = [
        {"params": members, "weight_decay": decay, "lr": spec.lr * scale}
        for (decay, scale), members in sorted(groups.items(), key=lambda item: item[0][::-1])[::-1]
    ]
    on_gpu = any(parameter.is_cuda for parameter in model.parameters())
    fused = {"fused": True} if on_gpu else {}  # one kernel for all parameters
    if spec.name == "sgd":
        return torch.optim.SGD(listed, lr=spec.lr, momentum=spec.momentum, **fused)
    return torch.optim.AdamW(listed, lr=spec.lr, betas=(0.9, 0.999), **fused)


def undecayed(model: nn.Module) -> set[str]:
    """The parameters that timm's networks in here, or in a pyramid's net, list as without decay."""
    found: set[str] = set()
    for prefix, module in model.named_modules():
        if hasattr(module, "no_weight_decay"):
            names: set[str] = set(module.no_weight_decay())
            found |= {f"{prefix}.{name}".removeprefix(".") for name in names}
    config = model.config if isinstance(model, Segmenter) else None
    if config is not None and config.model is not None:  # a pyramid's net no longer knows its list
        whole = _whole(config.model.backbone)
        names = set(whole.no_weight_decay()) if hasattr(whole, "no_weight_decay") else set()
        listed = {name.replace(".", "_") for name in names}
        net = model.get_submodule("backbone.net").named_parameters()
        found |= {f"backbone.net.{name}" for name, _ in net if name.replace(".", "_") in listed}
    return found


def rate_scales(model: Network, recipe: Recipe) -> dict[str, float]:
    """Factors on the rate by parameter name: backbone_lr, head_lr and layer_decay, multiplied."""
    optim = recipe.optim
    inside = [name for name, _ in model.named_parameters() if name.startswith("backbone.")]
    if not inside and (optim.backbone_lr != 1 or optim.layer_decay is not None):
        raise HfgdError(
            "optim.backbone_lr and optim.layer_decay need a network that has its backbone under that "
            "name; leave them out for this one."
        )
    scales = {name: optim.head_lr for name, _ in model.named_parameters()}
    scales |= dict.fromkeys(inside, optim.backbone_lr)
    if optim.layer_decay is not None:
        if not isinstance(model, Segmenter) or recipe.network is not None:
            raise HfgdError("optim.layer_decay knows timm's layers only; leave it out.")
        decays = layer_scales(model, recipe.model.backbone, optim.layer_decay)
        scales |= {name: scales[name] * decay for name, decay in decays.items()}
    return scales


def layer_scales(model: Segmenter, backbone: BackboneSpec, decay: float) -> dict[str, float]:
    """Layer-wise learning-rate decay: factors of the backbone's parameters by name in ``model``.

    Layers are timm's own groups of this network (a ViT's are its blocks), its classifier the top one:
    the last layer before it gets ``decay``, the one below ``decay``², and so on. Raises HfgdError where
    timm knows none.
    """
    whole = _whole(backbone)
    if not hasattr(whole, "group_matcher"):
        raise HfgdError(
            f"timm knows no layers of '{backbone.name}'; leave optim.layer_decay out for it."
        )
    layers = group_parameters(whole, whole.group_matcher(coarse=False), reverse=True)
    # the pyramid joins the first names of a path by '_' ('stages_0.blocks'), the whole network by '.'
    layer_of = {name.replace(".", "_"): layer for name, layer in layers.items()}
    top = max(layer_of.values())
    return {
        f"backbone.net.{name}": decay ** (top - layer_of[name.replace(".", "_")])
        for name, _ in model.backbone.get_submodule("net").named_parameters()
    }


def _whole(backbone: BackboneSpec) -> Any:
    """timm's network without memory, whole: with a classifier, which self-supervised ones lack."""
    with torch.device("meta"):
        return timm.create_model(backbone.name, **{"num_classes": 2, **backbone.options})


def poly_schedule(optimiser: Optimizer, iterations: int, power: float, warmup: int = 0) -> LambdaLR:
    """lr · (1 − t / T)^power for t = 0 … T, per iteration, down to 0.

    The first ``warmup`` iterations are scaled by (t + 1) / warmup.
    """

    def factor(t: int) -> float:
        rising = min(1.0, (t + 1) / warmup) if warmup else 1.0
        return float(rising * max(0.0, 1 - t / iterations) ** power)

    return LambdaLR(optimiser, factor)
