"""The recipes that have a name of their own: a function each, a base and what differs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hfgd.data.transforms.spec import AugmentSpec
from hfgd.errors import HfgdError, unknown
from hfgd.model.config import BackboneSpec, ModelSpec
from hfgd.recipes.spec import (
    DataSpec,
    OptimSpec,
    Recipe,
    TrainSpec,
    check_recipe,
    has_ocr_alone,
    merge,
    read_recipe_yaml,
)
from hfgd.recipes.tables import HFGD, ROWS, SEMANTIC_FPN, VIT_SMALL
from hfgd.types import Grid


def sfpn_resnet50() -> Recipe:
    """SemanticFPN on ResNet-50, plain setting: the paper's baseline."""
    return _row("table9/sfpn", "SemanticFPN, ResNet-50, plain setting")


def hfgd_resnet50() -> Recipe:
    """HFGD at stride 4 on ResNet-50, plain setting."""
    return _row("table9/hfgd_os4", "HFGD, ResNet-50, plain setting")


def hfgd_resnet50_os2() -> Recipe:
    """HFGD at stride 2 on ResNet-50, plain setting."""
    return _row("table9/hfgd_os2", "HFGD at stride 2, ResNet-50, plain setting")


def hfgd_convnext_large() -> Recipe:
    """HFGD on ConvNeXt-L (ImageNet-22k), advanced setting: the paper's best."""
    return _row("table10/hfgd", "HFGD, ConvNeXt-L (ImageNet-22k), advanced setting")


def hfgd_swin_large() -> Recipe:
    """HFGD on Swin-L (384, ImageNet-22k), plain setting as in the paper's ablation."""
    return _row("table6/swin_u_sfpn", "HFGD, Swin-L (384, ImageNet-22k), plain setting")


def hfgd_vit_small_dinov2() -> Recipe:
    """HFGD on ViT-S with DINOv2's weights (with registers), its patches resampled from 14 to 16."""
    what = "HFGD, ViT-S (DINOv2, 14 to 16 pixels a patch), simple pyramid"
    return _foundation(what, VIT_SMALL, layer_decay=0.8)


def hfgd_convnext_tiny_dinov3() -> Recipe:
    """HFGD on ConvNeXt-T with DINOv3's weights, whose licence is their publisher's own."""
    backbone = BackboneSpec(name="convnext_tiny.dinov3_lvd1689m", pretrained=True)
    return _foundation("HFGD, ConvNeXt-T (DINOv3: mind its licence)", backbone, layer_decay=0.9)


def _foundation(description: str, backbone: BackboneSpec, layer_decay: float) -> Recipe:
    """HFGD on self-supervised weights: rates as is usual for them, not tuned here."""
    return Recipe(
        name="foundation",
        description=description,
        model=ModelSpec(backbone=backbone, **HFGD),
        optim=OptimSpec(
            name="adamw",
            lr=2e-4,
            weight_decay=0.05,
            warmup=500,
            backbone_lr=0.5,
            layer_decay=layer_decay,
        ),
        augment=AugmentSpec(crop=(512, 512), colours="advanced"),
    )


def sfpn_mobilenetv2() -> Recipe:
    """SemanticFPN on MobileNetV2: small enough for a laptop."""
    backbone = BackboneSpec(name="mobilenetv2_100", pretrained=True)
    return Recipe(
        name="sfpn_mobilenetv2",
        description="SemanticFPN, MobileNetV2, for small machines",
        model=ModelSpec(backbone=backbone, width=128, **SEMANTIC_FPN),
        optim=OptimSpec(name="adamw", lr=5e-4, weight_decay=0.01),
        augment=AugmentSpec(crop=(225, 289), colours="advanced"),
        train=TrainSpec(
            iterations=2000,
            batch_size=8,
            validate_every=200,
            checkpoint_every=200,
        ),
    )


def hfgd_mobilenetv2() -> Recipe:
    """HFGD on MobileNetV2: small enough for a laptop."""
    return _hfgd_of(sfpn_mobilenetv2(), "HFGD, MobileNetV2, for small machines")


def demo_sfpn() -> Recipe:
    """The demo's SemanticFPN: ``scenes`` in minutes on two cores."""
    backbone = BackboneSpec(name="mobilenetv2_100")
    return Recipe(
        name="demo_sfpn",
        description="SemanticFPN on the embedded scenes, minutes on two cores",
        model=ModelSpec(backbone=backbone, width=64, **SEMANTIC_FPN),
        data=DataSpec(location="scenes"),
        optim=OptimSpec(name="adamw", lr=1e-3, weight_decay=0.01),
        augment=AugmentSpec(crop=(161, 225), scales=(0.75, 1.0, 1.25, 1.5)),
        train=TrainSpec(
            iterations=250,
            batch_size=8,
            validate_every=100,
            log_every=20,
            workers=0,
        ),
    )


def demo_hfgd() -> Recipe:
    """The demo's HFGD: the same budget."""
    return _hfgd_of(demo_sfpn(), "HFGD on the embedded scenes, minutes on two cores")


def _row(name: str, description: str) -> Recipe:
    """A row of the paper for anybody's data: without data set, numbers and multi-grid."""
    row = ROWS[name].recipe()
    changes: dict[str, Any] = {"description": description, "dataset": None, "paper": {}}
    return row.model_copy(update=changes | {"model": row.model.with_backbone(multi_grid=None)})


def _hfgd_of(base: Recipe, description: str) -> Recipe:
    """The same run with HFGD in place of SemanticFPN."""
    return base.model_copy(
        update={
            "name": base.name.replace("sfpn", "hfgd"),
            "description": description,
            "model": base.model.model_copy(update=HFGD),
        }
    )


def _named(make: Callable[[], Recipe]) -> Callable[[], Recipe]:
    return lambda: make().model_copy(update={"name": make.__name__})


RECIPES: dict[str, Callable[[], Recipe]] = {
    make.__name__: _named(make)
    for make in (
        sfpn_resnet50,
        hfgd_resnet50,
        hfgd_resnet50_os2,
        hfgd_convnext_large,
        hfgd_swin_large,
        hfgd_vit_small_dinov2,
        hfgd_convnext_tiny_dinov3,
        sfpn_mobilenetv2,
        hfgd_mobilenetv2,
        demo_sfpn,
        demo_hfgd,
    )
}


def find_recipe(name: str, above: tuple[Path, ...] = ()) -> Recipe:
    """The recipe of a name, a table's row ('table3/full'), or a YAML file.

    A file holds ``base: NAME`` and what differs, or a whole recipe. Raises HfgdError for an unknown
    name, for a file that is no recipe, naming the key, and for one that is its own base. ``above``:
    the files that lead here by their ``base``.
    """
    if name in RECIPES:
        return RECIPES[name]()
    if name in ROWS:
        return ROWS[name].recipe()
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise unknown("recipe", name, [*RECIPES, *ROWS])
    if not path.is_file():
        raise HfgdError(f"there is no recipe file '{name}'.")
    here = path.resolve()
    if here in above:
        raise HfgdError(f"recipe '{name}' is its own base; give 'base:' another recipe.")
    content = read_recipe_yaml(path)
    base = content.pop("base", None)
    if base is not None:
        below = find_recipe(str(base), (*above, here)).model_dump(mode="json")
        given = content.get("loss")
        content = merge(below, {"name": path.stem} | content)
        old = isinstance(given, dict) and "aux" in given and "region" not in given
        if old and has_ocr_alone(content):  # a file of an earlier version, see check_recipe
            del content["loss"]["region"]
    return check_recipe({"name": path.stem} | content, str(path))


TOY_SWIN: dict[str, Any] = {
    "embed_dim": 24,
    "depths": [1, 1, 2, 1],
    "num_heads": [1, 2, 4, 8],
    "window_size": 4,
}
TOY_VIT: dict[str, Any] = {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 112}
TOYS: dict[str, tuple[Grid, BackboneSpec]] = {  # by the family a name starts with
    "swin": (Grid.CELLS, BackboneSpec(name="swin_tiny_patch4_window7_224", options=TOY_SWIN)),
    "convnext": (Grid.CELLS, BackboneSpec(name="test_convnext")),
    "vit": (
        Grid.CELLS,
        BackboneSpec(name="vit_small_patch14_reg4_dinov2", options=TOY_VIT),
    ),
    "": (Grid.CORNERS, BackboneSpec(name="test_resnet")),
}


def toy(recipe: Recipe) -> Recipe:
    """The same composition in seconds: ``scenes``, a toy backbone of the family, four iterations."""
    family = next(prefix for prefix in TOYS if recipe.model.backbone.name.startswith(prefix))
    grid, backbone = TOYS[family]
    given = recipe.model.backbone
    changes: dict[str, Any] = {"output_stride": given.output_stride}
    if given.skip_blocks is not None:
        changes["skip_blocks"] = (0, 1, 2)
    backbone = backbone.model_copy(update=changes)
    side = grid.padded((64, 64))[0]
    return recipe.with_(
        **{
            "model.backbone": backbone.model_dump(),
            "model.width": 32,
            "data": {"location": "scenes", "limit": 4},
            "augment.crop": [side, side],
            "train.iterations": 4,
            "train.batch_size": 2,
            "train.validate_every": 4,
            "train.checkpoint_every": 4,
            "train.log_every": 2,
            "train.workers": 0,
            "train.panels": 1,
        }
    )
