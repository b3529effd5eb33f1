"""Plain ViTs as pyramids, after ViTDet's simple pyramid: any of timm's with free image sizes.

A ViT has one map, at the stride of its patches. The guide reads that map pooled to stride 32, or
as it is (``output_stride`` 16). The skips are handed out as they are too: what brings them to
strides 4 and 8, ViTDet's transposed convolutions, is new and learns from the fine loss, so it
stands behind the stop-gradient, with the upsampler (``upsamplers/simple_pyramid.py``).

Patches of 14 pixels (DINOv2, some of CLIP, SigLIP and EVA) become patches of 16 by timm's resampling of
the patch embedding, which answers to a patch as the old one did to the same patch made smaller. Strides
of 14 fit no other level and no crop of anybody's; and feeding 14/16 of the image instead would lose
pixels that the decoder could use. The positions stay what they were: as many, on a larger image.
"""

from collections.abc import Mapping
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hfgd.errors import HfgdError
from hfgd.model.backbones.base import Backbone, Colour
from hfgd.model.backbones.timm_pyramid import checkpoint_activations, make_net
from hfgd.types import COARSEST, Grid

VITS = ("vision_transformer", "deit", "eva")  # timm's files of ViTs whose positions are resampled
FIXED = ("beit", "vision_transformer_relpos", "vision_transformer_hybrid", "vision_transformer_sam")
PATCHES = {8: 8, 14: 16, 16: 16, 32: 32}  # what timm's network has, and what it becomes


def is_vit(name: str) -> bool:
    """Whether timm's network of this name is a plain ViT."""
    bare = name.split(".")[0]
    return any(bare in timm.list_models(module=module) for module in (*VITS, *FIXED))


class VitPyramid(Backbone):
    """A plain ViT of timm's; see Backbone. Strides (p, p, p, 32): p is the stride of its patches.

    ``pretrained``, ``mean``, ``std``, ``options``: see TimmPyramid. ``output_stride``: of the map that
    encoder and guide read, 32 or the patches' own. ``skip_blocks``: numbers, from 0 on, of the three
    blocks whose maps are the skips; the last one's without them, as in ViTDet. Maps pass the network's
    last norm, where it has one; class and register tokens take part in its attention and go no further.
    Raises HfgdError for what cannot be built.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool | str = False,
        output_stride: int = COARSEST,
        skip_blocks: tuple[int, int, int] | None = None,
        multi_grid: tuple[int, int, int] | None = None,
        bn_momentum: float | None = None,
        mean: Colour | None = None,
        std: Colour | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if multi_grid is not None or bn_momentum is not None:
            raise HfgdError(
                f"backbone '{name}' is a ViT, without dilation and batch norm; leave "
                "model.backbone.multi_grid and model.backbone.bn_momentum out."
            )
        net: Any = _create(name, pretrained, dict(options or {}))
        stride = int(net.patch_embed.patch_size[0])
        if output_stride not in (COARSEST, stride):
            raise HfgdError(
                f"backbone '{name}' has maps at stride {stride}, and pooled at {COARSEST}: "
                f"output_stride and guide_stride are one of these, not {output_stride}."
            )
        trained = net.pretrained_cfg
        super().__init__(
            (net.embed_dim,) * 4,
            (stride,) * 3 + (output_stride,),
            Grid.CELLS,
            mean or trained["mean"],
            std or trained["std"],
            max(stride, output_stride),
        )
        last = len(net.blocks) - 1
        if skip_blocks is not None and not all(0 <= block <= last for block in skip_blocks):
            raise HfgdError(
                f"model.backbone.skip_blocks: the blocks of '{name}' are 0 to {last}, not "
                f"{list(skip_blocks)}."
            )
        self.blocks = (*(skip_blocks or (last,) * 3), last)
        self.net, self.name = net, name

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """(B, 3, H', W') normalised → three maps (B, C, H'/p, W'/p), and one at the output stride."""
        net: Any = self.net
        wanted = sorted(set(self.blocks))
        found: list[Tensor] = net.forward_intermediates(
            image, indices=wanted, norm=True, intermediates_only=True
        )
        maps = [found[wanted.index(block)] for block in self.blocks]
        factor = self.strides[-1] // self.strides[0]
        return [*maps[:-1], F.max_pool2d(maps[-1], factor) if factor > 1 else maps[-1]]

    def checkpoint_activations(self) -> None:
        """Compute activations again in the backward pass; raises HfgdError where timm cannot."""
        checkpoint_activations(self.net, self.name)


def _create(name: str, pretrained: bool | str, options: dict[str, Any]) -> nn.Module:
    """The network without a classifier, for images of any size, with patches of a power of two."""
    if any(name.split(".")[0] in timm.list_models(module=module) for module in FIXED):
        raise HfgdError(
            f"backbone '{name}' has positions for one image size only, or patches of several layers; "
            "choose a plain ViT, for example vit_small_patch14_reg4_dinov2 or deit3_small_patch16_224."
        )
    ours: dict[str, Any] = {"dynamic_img_size": True}
    with torch.device("meta"):
        plain: Any = make_net(name, False, options, ours)
    patch, size = plain.patch_embed.patch_size, plain.patch_embed.grid_size
    if patch[0] != patch[1] or patch[0] not in PATCHES:
        raise HfgdError(
            f"backbone '{name}' has patches of {patch[0]}×{patch[1]} pixels, and only "
            f"{', '.join(map(str, PATCHES))} can be used; choose another ViT."
        )
    stride = PATCHES[patch[0]]
    if stride != patch[0]:
        ours |= {"patch_size": stride, "img_size": (size[0] * stride, size[1] * stride)}
    net: Any = make_net(name, pretrained, options, ours)
    net.prune_intermediate_layers(1, prune_norm=False, prune_head=True)
    return net  # type: ignore[no-any-return]
