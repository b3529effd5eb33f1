"""The recipes that have a name: a function each, composed of a base and what differs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hfgd.data.transforms import AugmentSpec
from hfgd.errors import HfgdError, unknown
from hfgd.losses import LossSpec
from hfgd.model.hfgm import GUIDANCE
from hfgd.model.spec import BackboneSpec, ModelSpec
from hfgd.recipes.spec import (
    DataSpec,
    OptimSpec,
    Recipe,
    TrainSpec,
    check_recipe,
    merge,
    read_recipe_yaml,
)

# The paper's two settings (§4).
PLAIN = {"optim": OptimSpec(), "augment": AugmentSpec(colours="plain")}
ADVANCED = {
    "optim": OptimSpec(name="adamw", lr=4e-5, weight_decay=0.05),
    "augment": AugmentSpec(colours="advanced"),
}
PAPER_LOSS = LossSpec(normalise="all")  # the authors' cross-entropy: mean over all pixels

RESNET50 = BackboneSpec(name="resnet50", pretrained=True, bn_momentum=3e-4)
MOBILENETV2 = BackboneSpec(name="mobilenetv2_100", pretrained=True)
CONVNEXT_LARGE = BackboneSpec(
    name="convnext_large.fb_in22k", pretrained=True, options={"drop_path_rate": 0.3}
)
SWIN_LARGE = BackboneSpec(
    name="swin_large_patch4_window12_384.ms_in22k",
    pretrained=True,
    options={"drop_path_rate": 0.3},
)

SEMANTIC_FPN: dict[str, Any] = {"encoder": "identity", "upsampler": "sfpn"}
HFGD: dict[str, Any] = {
    "encoder": "cae",
    "upsampler": "u_sfpn",
    "guidance": GUIDANCE,
    "axial_attention": True,
}


def sfpn_resnet50() -> Recipe:
    """SemanticFPN on ResNet-50, plain setting: the paper's baseline, 47.14 on Pascal Context."""
    return Recipe(
        name="sfpn_resnet50",
        description="SemanticFPN, ResNet-50, plain setting",
        model=ModelSpec(backbone=RESNET50, **SEMANTIC_FPN),
        loss=PAPER_LOSS,
        **PLAIN,
    )


def hfgd_resnet50() -> Recipe:
    """HFGD at stride 4 on ResNet-50, plain setting: 50.76 on Pascal Context in the paper."""
    return Recipe(
        name="hfgd_resnet50",
        description="HFGD (CAE, U-SFPN, full HFGM), ResNet-50, plain setting",
        model=ModelSpec(backbone=RESNET50, **HFGD),
        loss=PAPER_LOSS,
        **PLAIN,
    )


def hfgd_resnet50_os2() -> Recipe:
    """HFGD at stride 2 on ResNet-50, plain setting: 51.00 on Pascal Context in the paper."""
    return hfgd_resnet50().with_(
        name="hfgd_resnet50_os2", description="the same at stride 2", **{"model.stride": 2}
    )


def hfgd_convnext_large() -> Recipe:
    """HFGD on ConvNeXt-L (ImageNet-22k), advanced setting: 63.8 on Pascal Context in the paper."""
    return Recipe(
        name="hfgd_convnext_large",
        description="HFGD, ConvNeXt-L (ImageNet-22k), advanced setting",
        model=ModelSpec(backbone=CONVNEXT_LARGE, **HFGD),
        loss=PAPER_LOSS,
        train=TrainSpec(iterations=40_000),
        **ADVANCED,
    ).with_(**{"augment.crop": [512, 512]})


def hfgd_swin_large() -> Recipe:
    """HFGD on Swin-L (384, ImageNet-22k), advanced setting: 60.46 on Pascal Context."""
    return hfgd_convnext_large().with_(
        name="hfgd_swin_large",
        description="HFGD, Swin-L (384, ImageNet-22k), advanced setting",
        **{"model.backbone": SWIN_LARGE.model_dump()},
    )


def sfpn_mobilenetv2() -> Recipe:
    """SemanticFPN on MobileNetV2: small enough for a laptop."""
    return Recipe(
        name="sfpn_mobilenetv2",
        description="SemanticFPN, MobileNetV2, for small machines",
        model=ModelSpec(backbone=MOBILENETV2, width=128, **SEMANTIC_FPN),
        optim=OptimSpec(name="adamw", lr=5e-4, weight_decay=0.01),
        augment=AugmentSpec(crop=(225, 289), colours="advanced"),
        train=TrainSpec(iterations=2000, batch_size=8, validate_every=200, checkpoint_every=200),
    )


def hfgd_mobilenetv2() -> Recipe:
    """HFGD on MobileNetV2: small enough for a laptop."""
    return sfpn_mobilenetv2().with_(
        name="hfgd_mobilenetv2",
        description="HFGD, MobileNetV2, for small machines",
        **{f"model.{key}": _plain(value) for key, value in HFGD.items()},
    )


def demo_sfpn() -> Recipe:
    """The demo's SemanticFPN: ``scenes`` in minutes on two cores."""
    return Recipe(
        name="demo_sfpn",
        description="SemanticFPN on the embedded scenes, minutes on two cores",
        model=ModelSpec(backbone=BackboneSpec(name="mobilenetv2_100"), width=64, **SEMANTIC_FPN),
        data=DataSpec(location="scenes"),
        optim=OptimSpec(name="adamw", lr=1e-3, weight_decay=0.01),
        augment=AugmentSpec(crop=(161, 225), scales=(0.75, 1.0, 1.25, 1.5)),
        train=TrainSpec(iterations=400, batch_size=8, validate_every=100, log_every=20, workers=0),
    )


def demo_hfgd() -> Recipe:
    """The demo's HFGD: the same budget."""
    return demo_sfpn().with_(
        name="demo_hfgd",
        description="HFGD on the embedded scenes, minutes on two cores",
        **{f"model.{key}": _plain(value) for key, value in HFGD.items()},
    )


def _plain(value: Any) -> Any:
    return vars(value) if value is GUIDANCE else value


RECIPES: dict[str, Callable[[], Recipe]] = {
    make.__name__: make
    for make in (
        sfpn_resnet50,
        hfgd_resnet50,
        hfgd_resnet50_os2,
        hfgd_convnext_large,
        hfgd_swin_large,
        sfpn_mobilenetv2,
        hfgd_mobilenetv2,
        demo_sfpn,
        demo_hfgd,
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe of a name, or of a YAML file: ``base: NAME`` and what differs, or a whole one.

    Raises HfgdError for an unknown name and for a file that is no recipe, naming the key.
    """
    if name in RECIPES:
        return RECIPES[name]()
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise unknown("recipe", name, RECIPES)
    if not path.is_file():
        raise HfgdError(f"there is no recipe file '{name}'.")
    content = read_recipe_yaml(path)
    base = content.pop("base", None)
    if base is not None:
        content = merge(
            find_recipe(str(base)).model_dump(mode="json"), {"name": path.stem} | content
        )
    return check_recipe({"name": path.stem} | content, str(path))
