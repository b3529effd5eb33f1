"""Optimiser and schedule (paper §4)."""

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hfgd.recipes.spec import OptimSpec

NO_DECAY = ("relative_position_bias_table", "absolute_pos_embed", "pos_embed")


def make_optimiser(model: nn.Module, spec: OptimSpec) -> Optimizer:
    """SGD or AdamW; weight decay on weights only, never on biases, norms, position tables."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_weight = parameter.ndim > 1 and not name.endswith(NO_DECAY)
        (decayed if is_weight else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": spec.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if spec.name == "sgd":
        return torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum)
    return torch.optim.AdamW(groups, lr=spec.lr, betas=(0.9, 0.999))


def poly_schedule(optimiser: Optimizer, iterations: int, power: float) -> LambdaLR:
    """lr · (1 − t / T)^power for t = 0 … T, per iteration, down to 0."""
    return LambdaLR(optimiser, lambda t: max(0.0, 1 - t / iterations) ** power)
