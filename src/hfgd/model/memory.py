"""What a forward pass holds of memory, counted on the meta device: nothing is computed."""

import copy
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from hfgd.types import Grid, Memory, Size

SMALL, LARGE, FAR = 512, 2048, 8192  # sides of the squares that are counted
THIN = (64, 65_536)  # as many pixels as the second square
MARGIN = 1.2  # convolutions take work space that no tensor shows
Work = Callable[[nn.Module, Tensor], Any]


def inference_memory(
    network: nn.Module, work: Work, grid: Grid, classes: int, fused: bool
) -> Memory:
    """What ``work(network, image)`` holds for one uint8 image (1, 3, H, W), with a margin.

    ``fused``: attention never holds its scores, as in PyTorch's kernels; exported files hold them.
    A network that does not run on the meta device is guessed.
    """
    try:
        pixel, line, square = _counted(network, work, grid, fused)
    except Exception:  # a custom network may do what it likes
        return Memory.guess(classes)
    copies = 0 if fused else 6 * classes  # a runtime crops and searches copies of the class scores
    return Memory(MARGIN * (pixel + copies), MARGIN * line, MARGIN * square)


def _counted(network: nn.Module, work: Work, grid: Grid, fused: bool) -> Memory:
    """The peak is the largest of several sums; what is returned is at least each that was counted."""
    shadow = copy.deepcopy(network).to("meta")

    def peak(size: Size) -> float:
        image = torch.empty(1, 3, *grid.padded(size), dtype=torch.uint8, device="meta")
        with torch.no_grad(), _Attention(fused), _Peak() as seen:
            work(shadow, image)
        pixels: int = image[0, 0].numel()
        return float(seen.most) / pixels

    small, large, far = (peak((side, side)) for side in (SMALL, LARGE, FAR))
    line = max(0.0, peak(THIN) - large) / (THIN[1] - LARGE)
    square = max(0.0, far - large - line * (FAR - LARGE)) / (FAR**2 - LARGE**2)
    pixel = max(small, large - line * LARGE - square * LARGE**2)
    return Memory(pixel, line, square)


class _Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that are alive; ``most``: at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.most = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        if storage not in self._known:
            self._known.add(storage)
            size = storage.nbytes()
            weakref.finalize(storage, self._gone, size)
            self.live += size
            self.most = max(self.most, self.live)

    def _gone(self, size: int) -> None:
        self.live -= size


class _Attention(TorchFunctionMode):
    """Attention as plain matrix products, or as a kernel that holds no scores."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            query, key, value = (x.contiguous() for x in args[:3])
            if self.fused:
                return query.new_empty((*query.shape[:-1], value.shape[-1]))
            return (query @ key.transpose(-2, -1)).softmax(-1) @ value
        return func(*args, **(kwargs or {}))
