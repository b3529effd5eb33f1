"""The model, on one screen: backbone → encoder → HFGM. Read this first, then hfgm.py.

Every row of every table of the paper is an instance of this composition, never a subclass.
"""

from torch import Tensor, nn

from hfgd.data.classes import ClassSet
from hfgd.errors import HfgdError
from hfgd.model.aux_fcn import AuxFCN
from hfgd.model.backbones.base import Backbone
from hfgd.model.hfgm import HFGM
from hfgd.model.network import Network, SegOutput
from hfgd.types import Grid


class Segmenter(Network):
    """A semantic-segmentation network with its classes; takes any height and width."""

    def __init__(
        self,
        backbone: Backbone,
        encoder: nn.Module,
        hfgm: HFGM,
        classes: ClassSet,
        aux_fcn: AuxFCN | None = None,
    ) -> None:
        super().__init__()
        if len(classes) != hfgm.tokens.weight.shape[0]:
            raise HfgdError(
                f"{len(classes)} class names for {hfgm.tokens.weight.shape[0]} class tokens; "
                "give one name for each."
            )
        self.backbone = backbone
        self.encoder = encoder
        self.hfgm = hfgm
        self.classes = classes
        self.aux_fcn = aux_fcn

    def forward(self, image: Tensor, all_branches: bool | None = None) -> SegOutput:
        """(B, 3, H, W) RGB in [0, 1] → SegOutput.

        ``all_branches``: whether guide and aux logits are computed too; by default while training.
        """
        all_branches = self.training if all_branches is None else all_branches
        *skips, top = self.backbone(image)  # (B, C_i, H'/s_i, W'/s_i), fine to coarse
        high, regularised, region_logits = self.encoder(top)  # (B, D, h, w): the high-level feature
        logits, guide_logits = self.hfgm(skips, high, all_branches)
        aux_logits = self.aux_fcn(top) if self.aux_fcn is not None and all_branches else None
        frame = self.backbone.frame(image)
        return SegOutput(logits, guide_logits, aux_logits, region_logits, regularised, frame)

    @property
    def grid(self) -> Grid:  # type: ignore[override]
        """How maps lie over the image: the backbone's."""
        return self.backbone.grid

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """The mean colour (3, 1, 1) that is zero after normalisation: the backbone's."""
        return self.backbone.mean

    def freeze_backbone(self) -> list[nn.Module]:
        """Stop the backbone's gradients; returns its modules."""
        self.backbone.requires_grad_(False)
        return list(self.backbone.modules())

    def checkpoint_activations(self) -> None:
        """Compute the backbone's activations again; raises HfgdError where timm cannot."""
        self.backbone.checkpoint_activations()
