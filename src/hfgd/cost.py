"""What a model costs: parameters, multiply-adds, activation memory, latency (paper §5.3, Table 9).

The paper counts one per multiply-add and calls it FLOPs; here the count of multiply-adds is GMACs,
and GFLOPs is twice that. Counted are convolutions and matrix products, attention's included;
resizes, norms and activations are not, as is usual. Everything but latency runs on the meta
device: nothing is computed, so a large model costs no memory.
"""

import math
import platform
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hfgd.data.classes import ClassSet
from hfgd.model.build import build
from hfgd.model.config import ModelSpec
from hfgd.model.segmenter import Segmenter
from hfgd.types import Size

Shape = tuple[int, ...]
PARTS = {
    "backbone": "backbone",
    "encoder": "encoder",
    "upsampler": "hfgm.upsampler",
    "axial attention": "hfgm.axial",
    "class tokens": "hfgm.tokens",
}


@dataclass(frozen=True)
class PartCost:
    """One part: its parameters, and multiply-adds of one image at inference."""

    name: str
    parameters: int
    macs: int


@dataclass(frozen=True)
class Cost:
    """A model at one size (height, width) and batch 1.

    ``activation_bytes``: what training keeps of one image for the backward pass, in fp32.
    """

    size: Size
    parts: list[PartCost]
    activation_bytes: int

    @property
    def parameters(self) -> int:
        """All parameters."""
        return sum(part.parameters for part in self.parts)

    @property
    def macs(self) -> int:
        """All multiply-adds of one image."""
        return sum(part.macs for part in self.parts)


def measure_cost(spec: ModelSpec, num_classes: int, size: Size) -> Cost:
    """Count a model on the meta device, part by part."""
    with torch.device("meta"):
        model = build(spec.with_backbone(pretrained=False), ClassSet.numbered(num_classes)).eval()
        image = torch.empty(1, 3, *size)
    counter = FlopCounterMode(display=False, custom_mapping=_deformable())
    # attention as plain matrix products: the fused kernels are not all known to the counter
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:
        model(image)
    counts = counter.get_flop_counts()
    parts = []
    for name, path in PARTS.items():
        module = _part(model, path)
        if module is not None:
            flops = sum(counts.get(f"Segmenter.{path}", {}).values())
            parts.append(PartCost(name, sum(p.numel() for p in module.parameters()), flops // 2))
    return Cost(size, parts, _activation_bytes(model, image))


def _part(model: Segmenter, path: str) -> nn.Module | None:
    module: Any = model
    for step in path.split("."):
        module = getattr(module, step)
    return module if isinstance(module, nn.Module) else None


def _deformable() -> dict[Any, Any]:
    """torchvision's deformable convolution counts as the convolution that it is."""
    import torchvision  # noqa: F401  registers the operator

    def count(x: Shape, weight: Shape, offset: Shape, *rest: Any, out_shape: Shape) -> int:
        batch, _, height, width = offset
        return 2 * batch * height * width * math.prod(weight)

    return {torch.ops.torchvision.deform_conv2d.default: count}


def _activation_bytes(model: nn.Module, image: Tensor) -> int:
    """Bytes of the distinct tensors that autograd keeps, parameters aside."""
    owned = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, int] = {}
    alive = []  # a freed storage's address could be used again

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in owned:
            kept[storage._cdata] = storage.nbytes()
            alive.append(x)
        return x

    # batch norm wants more than one value a channel; a batch of two counts double
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        model(image.repeat(2, 1, 1, 1))
    return sum(kept.values()) // 2


def measure_latency(spec: ModelSpec, num_classes: int, size: Size, runs: int = 5) -> str:
    """Seconds of one image here, batch 1, median of ``runs`` after a warm-up, with the machine."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = (
        build(spec.with_backbone(pretrained=False), ClassSet.numbered(num_classes))
        .eval()
        .to(device)
    )
    image = torch.rand(1, 3, *size, device=device)
    times = []
    with torch.inference_mode():
        for _ in range(runs + 1):
            with _timed(device) as took:
                model(image).full_size().argmax(1)
            times.append(took[0])
    machine = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU"
    threads = "" if device == "cuda" else f", {torch.get_num_threads()} threads"
    return f"{1000 * statistics.median(times[1:]):.1f} ms (median of {runs}, {machine}{threads})"


@contextmanager
def _timed(device: str) -> Iterator[list[float]]:
    took: list[float] = []
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    yield took
    if device == "cuda":
        torch.cuda.synchronize()
    took.append(time.perf_counter() - began)
