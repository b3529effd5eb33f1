"""Batch norms folded into the convolutions before them: fewer passes over memory on a CPU."""

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from hfgd.model.network import Network, place_of

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
