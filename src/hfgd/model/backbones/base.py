"""What every backbone fulfils: RGB in [0, 1] in, four maps out, fine to coarse.

Normalisation and padding are in here, so that the network alone is complete: a saved model needs no
preprocessing beside it.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfgd.errors import HfgdError
from hfgd.model.network import place_of
from hfgd.types import COARSEST, Frame, Grid, Size

Colour = tuple[float, float, float]


class Backbone(nn.Module):
    """A network as a pyramid; a new one fulfils ``pyramid`` and calls this constructor.

    ``widths`` and ``strides`` list the four maps; ``grid`` says how they lie over the image, exact at
    sizes m·``multiple`` (+ 1 on the corners grid); ``mean`` and ``std`` are what the weights were
    trained with (RGB, of [0, 1]).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        widths: tuple[int, ...],
        strides: tuple[int, ...],
        grid: Grid,
        mean: Colour,
        std: Colour,
        multiple: int = COARSEST,
    ) -> None:
        super().__init__()
        self.widths, self.strides, self.grid, self.multiple = widths, strides, grid, multiple
        self.register_buffer("mean", _colour(mean), persistent=False)
        self.register_buffer("std", _colour(std), persistent=False)

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H', W') normalised, of a padded size → four maps (B, C_i, H'/s_i, W'/s_i)."""
        raise NotImplementedError

    def frame(self, image: Tensor) -> Frame:
        """How a batch (B, 3, H, W) will lie in the network."""
        size = (image.shape[-2], image.shape[-1])
        return Frame(size, self.grid.padded(size, self.multiple), self.grid)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB in [0, 1] → four maps (B, C_i, H'/s_i, W'/s_i) of the padded image."""
        if not image.is_floating_point():
            raise HfgdError(
                f"a network takes RGB as floats in [0, 1], not {image.dtype}; "
                "give image.float() / 255."
            )
        (height, width), (padded_height, padded_width), _ = self.frame(image)
        x = (image - self.mean) / self.std
        return self.pyramid(F.pad(x, (0, padded_width - width, 0, padded_height - height)))

    @property
    def licence(self) -> str | None:
        """The licence of the pre-trained weights of this network, where timm tells one."""
        net: Any = getattr(self, "net", None)
        return getattr(net, "pretrained_cfg", {}).get("license")

    def checkpoint_activations(self) -> None:
        """Compute activations again in the backward pass; raises HfgdError where it cannot."""
        raise HfgdError("train.checkpoint_activations: this backbone cannot do that; leave it out.")


def _colour(values: Colour) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(3, 1, 1)


def find_grid(
    net: nn.Module, maps: Callable[[Tensor], list[Tensor]], strides: tuple[int, ...], name: str
) -> Grid:
    """The grid of a pyramid, from the sizes of the maps that it gives.

    At 32m + 1 the corners grid gives n / s + 1 samples; at 32m the cells grid gives n / s. A network
    that fits neither is refused: HfgdError.
    """
    training = net.training
    net.eval()
    try:
        with torch.no_grad():
            if all(_fits(net, maps, strides, m, 1) for m in (2, 3)):
                return Grid.CORNERS
            if all(_fits(net, maps, strides, m, 0) for m in (2, 3)):
                return Grid.CELLS
    except Exception as error:  # whatever a network raises at a size that it was not made for
        raise _refused(name, str(error).strip().split("\n")[0]) from error
    finally:
        net.train(training)
    raise _refused(name, "its maps are of other sizes")


def _fits(net: nn.Module, maps: Any, strides: tuple[int, ...], m: int, more: int) -> bool:
    size: Size = (COARSEST * m + more, COARSEST * (m + 1) + more)
    device, dtype = place_of(net)
    try:
        found = maps(torch.zeros(1, 3, *size, device=device, dtype=dtype))
    except Exception:
        if more:  # a patch stem may refuse what is no multiple of its patch
            return False
        raise
    wanted = [tuple(n // s + more for n in size) for s in strides]
    return [tuple(x.shape[-2:]) for x in found] == wanted


def _refused(name: str, why: str) -> HfgdError:
    return HfgdError(
        f"backbone '{name}' gives no pyramid that lies exactly over images of any size ({why}); "
        "choose another, for example resnet50, mobilenetv2_100, convnext_tiny or "
        "swin_tiny_patch4_window7_224."
    )
