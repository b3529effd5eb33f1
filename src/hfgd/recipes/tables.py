"""Every row of the paper's tables that the paper computes itself, as a recipe, and rows of our own.

The paper's numbers (mIoU in percent; "ss" single scale, "mf" multi-scale and flip, "test" a test
server's) live here and nowhere else. A row is a base (data set, backbone, setting, schedule) and what
differs.
What is open in the paper and how it is read here: docs/paper.md.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from hfgd.data.transforms.spec import AugmentSpec
from hfgd.losses.spec import LossSpec
from hfgd.model.config import GUIDANCE, NO_STOP_GRADIENT, SMP_NAMES, BackboneSpec, ModelSpec
from hfgd.recipes.spec import OptimSpec, Recipe, TrainSpec

# The paper's two settings (§4).
PLAIN = OptimSpec(name="sgd", lr=0.01, weight_decay=1e-4)
ADVANCED = OptimSpec(name="adamw", lr=4e-5, weight_decay=0.05)
PAPER_LOSS = LossSpec(normalise="all")  # the authors' cross-entropy: mean over all pixels

MULTI_GRID = (1, 2, 4)  # always on in the authors' ResNet-50
RESNET50 = BackboneSpec(name="resnet50", pretrained=True, bn_momentum=3e-4, multi_grid=MULTI_GRID)
RESNET50_D8 = RESNET50.model_copy(update={"output_stride": 8})
SCRATCH = BackboneSpec(name="resnet50", multi_grid=MULTI_GRID)
CONVNEXT_LARGE = BackboneSpec(
    name="convnext_large.fb_in22k", pretrained=True, options={"drop_path_rate": 0.3}
)
SWIN_LARGE = BackboneSpec(  # drop path as in the authors' network, under either setting
    name="swin_large_patch4_window12_384.ms_in22k",
    pretrained=True,
    options={"drop_path_rate": 0.3},
)
VIT_SMALL = BackboneSpec(name="vit_small_patch14_reg4_dinov2.lvd142m", pretrained=True)
VIT_SMALL_DPT = VIT_SMALL.model_copy(update={"skip_blocks": (2, 5, 8)})  # a map of each quarter
# exact at 32m: their crops are the paper's minus one
CELLS = (CONVNEXT_LARGE, SWIN_LARGE, VIT_SMALL_DPT)

HFGM: dict[str, Any] = {"guidance": GUIDANCE, "axial_attention": True}
HFGD: dict[str, Any] = {"encoder": "cae", "upsampler": "u_sfpn", **HFGM}
FCN: dict[str, Any] = {"encoder": "identity", "upsampler": "none"}
SEMANTIC_FPN: dict[str, Any] = {"encoder": "identity", "upsampler": "sfpn"}
WIDE = ("ocr", "sa", "sa_car")  # encoders that are 512 wide where no upsampler follows


def _alone(encoder: str) -> dict[str, Any]:
    """An encoder without an upsampler, at the width of the authors' head."""
    return {"encoder": encoder, "upsampler": "none", "width": 512 if encoder in WIDE else 256}


@dataclass(frozen=True)
class Setup:
    """What the rows of a table share: data set, crop, schedule and setting."""

    dataset: str
    classes: int
    crop: tuple[int, int] = (513, 513)
    iterations: int = 30_000
    advanced: bool = False
    batch_size: int = 16


PASCAL = Setup("pascal_context", 59)
PASCAL_LARGE = replace(PASCAL, iterations=40_000)
CITY = Setup("cityscapes", 19, crop=(513, 1025))
SETUPS = {
    "pascal_sota": replace(PASCAL_LARGE, advanced=True),
    "coco164k": Setup("coco_stuff164k", 171, iterations=40_000, advanced=True),
    "coco10k": Setup("coco_stuff10k", 171, iterations=40_000, advanced=True),
    "ade": Setup("ade20k", 150, crop=(641, 641), iterations=40_000, advanced=True),
    "city_os4": replace(CITY, iterations=60_000, advanced=True),
    "city_os2": replace(CITY, iterations=80_000, advanced=True),
    "city_test": replace(CITY, iterations=80_000, advanced=True, batch_size=32),
}


@dataclass(frozen=True)
class PaperRow:
    """A row of a table: ``name`` is 'table3/full'; ``paper`` holds its numbers by protocol."""

    name: str
    what: str
    paper: dict[str, float]
    setup: Setup
    backbone: BackboneSpec
    model: dict[str, Any]
    branch: Literal["fine", "guide", "aux"] = "fine"
    aux_weight: float = 0.4

    @property
    def table(self) -> str:
        """'table3' of 'table3/full'."""
        return self.name.split("/")[0]

    def recipe(self) -> Recipe:
        """The row as a run."""
        setup = self.setup
        less = 1 if self.backbone in CELLS else 0
        crop = (setup.crop[0] - less, setup.crop[1] - less)
        return Recipe(
            name=self.name,
            description=self.what,
            dataset=setup.dataset,
            paper=self.paper,
            branch=self.branch,
            model=ModelSpec(backbone=self.backbone, **self.model),
            optim=ADVANCED if setup.advanced else PLAIN,
            augment=AugmentSpec(crop=crop, colours="advanced" if setup.advanced else "plain"),
            loss=PAPER_LOSS.model_copy(update={"aux": self.aux_weight}),
            train=TrainSpec(iterations=setup.iterations, batch_size=setup.batch_size),
        )


def _row(
    name: str,
    what: str,
    paper: float | tuple[float, float] | dict[str, float] | None,
    model: dict[str, Any],
    backbone: BackboneSpec = RESNET50,
    setup: Setup = PASCAL,
    **more: Any,
) -> PaperRow:
    if isinstance(paper, dict):
        known = paper
    else:
        given = paper if isinstance(paper, tuple) else (paper,)
        known = {k: v for k, v in zip(("ss", "mf"), given, strict=False) if v is not None}
    return PaperRow(name, what, known, setup, backbone, model, **more)


def _table1() -> list[PaperRow]:
    """Dilation against SemanticFPN under every extra encoding."""
    numbers = {
        "identity": (45.87, 47.72, 47.14),
        "aspp": (46.41, 48.59, 47.81),
        "ocr": (45.50, 48.23, 47.39),
        "sa": (45.02, 48.32, 45.90),
        "sa_car": (47.18, 50.50, 48.51),
    }
    rows = []
    for encoder, (plain, dilated, sfpn) in numbers.items():
        no_upsampler = _alone(encoder)
        rows += [
            _row(f"table1/{encoder}", f"{encoder}, stride 32", plain, no_upsampler),
            _row(
                f"table1/{encoder}_d8",
                f"{encoder}, dilated to stride 8",
                dilated,
                no_upsampler,
                RESNET50_D8,
            ),
            _row(
                f"table1/{encoder}_sfpn",
                f"{encoder}, SFPN",
                sfpn,
                {"encoder": encoder, "upsampler": "sfpn"},
            ),
        ]
    return rows


def _hfgm_rows(
    table: str, encoder: str, numbers: tuple[float, float, float, float]
) -> list[PaperRow]:
    """Tables 3 and 5: HFGM taken apart, on SFPN."""
    base = {"encoder": encoder, "upsampler": "sfpn"}
    settings: dict[str, tuple[str, dict[str, Any]]] = {
        "none": ("SFPN", {}),
        "guidance": ("+ guidance", {"guidance": GUIDANCE}),
        "aa": ("+ axial attention", {"axial_attention": True}),
        "full": ("full HFGM", HFGM),
    }
    return [
        _row(f"{table}/{key}", f"{encoder}, {what}", number, {**base, **model})
        for (key, (what, model)), number in zip(settings.items(), numbers, strict=True)
    ]


def _table4() -> list[PaperRow]:
    """CAE against SA (CAR)."""
    numbers = {"sa_car": (47.18, 48.51, 50.00), "cae": (47.35, 48.76, 50.28)}
    rows = []
    for encoder, (plain, sfpn, hfgm) in numbers.items():
        none, up = _alone(encoder), {"encoder": encoder, "upsampler": "sfpn"}
        rows += [
            _row(f"table4/{encoder}", f"{encoder}, stride 32", plain, none),
            _row(f"table4/{encoder}_sfpn", f"{encoder}, SFPN", sfpn, up),
            _row(f"table4/{encoder}_sfpn_hfgm", f"{encoder}, SFPN, HFGM", hfgm, up | HFGM),
        ]
    return rows


def _table7() -> list[PaperRow]:
    """The three modules, on two backbones."""
    rows: list[tuple[str, float, str, str, dict[str, Any]]] = [
        ("identity_sfpn", 47.14, "identity", "sfpn", {}),
        ("cae_sfpn", 48.76, "cae", "sfpn", {}),
        ("identity_u_sfpn", 46.99, "identity", "u_sfpn", {}),
        ("cae_u_sfpn", 48.67, "cae", "u_sfpn", {}),
        ("cae_u_sfpn_hfgm", 50.76, "cae", "u_sfpn", HFGM),
        ("swin_cae_sfpn", 56.78, "cae", "sfpn", {}),
        ("swin_identity_u_sfpn", 58.69, "identity", "u_sfpn", {}),
        ("swin_cae_u_sfpn", 55.76, "cae", "u_sfpn", {}),
        ("swin_cae_u_sfpn_hfgm", 60.46, "cae", "u_sfpn", HFGM),
    ]
    return [
        _row(
            f"table7/{key}",
            f"{encoder}, {upsampler}{', HFGM' if model else ''}",
            number,
            {"encoder": encoder, "upsampler": upsampler, **model},
            SWIN_LARGE if key.startswith("swin") else RESNET50,
            PASCAL_LARGE if key.startswith("swin") else PASCAL,
        )
        for key, number, encoder, upsampler, model in rows
    ]


def _table8() -> list[PaperRow]:
    """HFGM on other upsamplers."""
    numbers: dict[str, tuple[str, float, float, BackboneSpec]] = {
        "u_sfpn": ("cae", 48.67, 50.76, RESNET50),
        "fapn": ("identity", 47.50, 49.87, RESNET50),
        "upernet": ("ppm", 48.25, 49.96, RESNET50),
        "deeplabv3plus": ("aspp", 48.11, 49.70, RESNET50_D8),
    }
    rows = []
    for upsampler, (encoder, without, with_hfgm, backbone) in numbers.items():
        model = {"encoder": encoder, "upsampler": upsampler}
        what = f"{upsampler} on {encoder}"
        rows += [
            _row(f"table8/{upsampler}", what, without, model, backbone),
            _row(f"table8/{upsampler}_hfgm", f"{what}, HFGM", with_hfgm, model | HFGM, backbone),
        ]
    return rows


def _beyond1() -> list[PaperRow]:
    """Ours, as Table 8: other people's upsamplers, each without and with HFGM. Nobody has run them yet.

    On ``identity``, for these bring what context they have along; DPT needs a ViT.
    """
    rows = []
    for upsampler in SMP_NAMES:
        dpt = upsampler == "smp_dpt"
        model = {"encoder": "identity", "upsampler": upsampler, "stride": 2 if dpt else 4}
        where = (VIT_SMALL_DPT, replace(PASCAL, advanced=True)) if dpt else (RESNET50, PASCAL)
        what = f"{upsampler} on identity"
        rows += [
            _row(f"beyond1/{upsampler}", what, None, model, *where),
            _row(f"beyond1/{upsampler}_hfgm", f"{what}, HFGM", None, model | HFGM, *where),
        ]
    return rows


def _large(name: str, what: str, paper: Any, setup: str, stride: int = 4) -> PaperRow:
    """HFGD on ConvNeXt-L under the advanced setting."""
    model = HFGD | {"stride": stride}
    return _row(name, f"HFGD, stride {stride}, {what}", paper, model, CONVNEXT_LARGE, SETUPS[setup])


def _scratch(name: str, paper: float, iterations: int, setup: Setup) -> PaperRow:
    return _row(
        name,
        f"FCN from random weights, {iterations // 1000}K",
        paper,
        FCN,
        SCRATCH,
        replace(setup, iterations=iterations, advanced=False),
    )


ROWS: dict[str, PaperRow] = {
    row.name: row
    for row in (
        *_table1(),
        _row("table2/imagenet_30k", "FCN from ImageNet weights, 30K", 45.87, FCN),
        _scratch("table2/scratch_90k", 31.38, 90_000, PASCAL),
        _scratch("table2/scratch_180k", 34.00, 180_000, PASCAL),
        *_hfgm_rows("table3", "identity", (47.14, 47.67, 47.88, 48.94)),
        *_table4(),
        *_hfgm_rows("table5", "cae", (48.76, 49.22, 49.06, 50.28)),
        _row("table6/sfpn", "cae, HFGM, SFPN", 50.28, HFGD | {"upsampler": "sfpn"}),
        _row("table6/u_sfpn", "cae, HFGM, U-SFPN", 50.76, HFGD),
        _row(
            "table6/swin_sfpn",
            "cae, HFGM, SFPN",
            59.32,
            HFGD | {"upsampler": "sfpn"},
            SWIN_LARGE,
            PASCAL_LARGE,
        ),
        _row("table6/swin_u_sfpn", "cae, HFGM, U-SFPN", 60.46, HFGD, SWIN_LARGE, PASCAL_LARGE),
        *_table7(),
        *_table8(),
        *_beyond1(),
        _row(
            "table9/sa_car_d8",
            "SA (CAR), dilated to stride 8",
            50.50,
            _alone("sa_car"),
            RESNET50_D8,
        ),
        _row("table9/sfpn", "SemanticFPN", 47.14, SEMANTIC_FPN),
        _row("table9/hfgd_os4", "HFGD, stride 4", 50.76, HFGD),
        _row("table9/hfgd_os2", "HFGD, stride 2", 51.00, HFGD | {"stride": 2}),
        _large("table10/hfgd", "ConvNeXt-L", (63.8, 64.9), "pascal_sota"),
        _large("table11/hfgd", "ConvNeXt-L", (49.0, 49.4), "coco164k"),
        _row("table12/sfpn", "SemanticFPN, stride 4", 76.44, SEMANTIC_FPN, setup=CITY),
        _row("table12/hfgd_os4", "HFGD, stride 4", 79.11, HFGD, setup=CITY),
        _row("table12/hfgd_os2", "HFGD, stride 2", 79.81, HFGD | {"stride": 2}, setup=CITY),
        _large("table13/hfgd_os4", "ConvNeXt-L", (83.1, 83.8), "city_os4"),
        _large("table13/hfgd_os2", "ConvNeXt-L", (83.2, 84.0), "city_os2", stride=2),
        _large("table14/hfgd_os2", "ConvNeXt-L, test set", {"test": 83.3}, "city_test", stride=2),
        _large("table15/hfgd", "ConvNeXt-L", (54.3, 55.4), "ade"),
        _large("table16/hfgd", "ConvNeXt-L", (49.5, 50.3), "coco10k"),
        _scratch("table17/scratch_90k", 22.62, 90_000, SETUPS["coco10k"]),
        _row("section5.1/fcn", "FCN alone", 45.87, FCN),
        *(
            _row(
                f"section5.1/aux_fcn_{kind}",
                f"SFPN with an auxiliary FCN, {what}; the FCN is scored",
                paper,
                SEMANTIC_FPN | {"aux_fcn": kind},
                branch="aux",
                aux_weight=1.0,
            )
            for kind, what, paper in (
                ("joint", "trained jointly", 44.35),
                ("stopped", "stopped before the backbone", 40.04),
            )
        ),
        _row("section5.2/full", "identity, full HFGM", 48.94, SEMANTIC_FPN | HFGM),
        _row(
            "section5.2/no_stop_gradient",
            "identity, full HFGM without stop-gradients",
            48.50,
            SEMANTIC_FPN | HFGM | {"guidance": NO_STOP_GRADIENT},
        ),
    )
}
TABLES: dict[str, list[PaperRow]] = {}
for _each in ROWS.values():
    TABLES.setdefault(_each.table, []).append(_each)

CLASS_COUNTS = {row.setup.dataset: row.setup.classes for row in ROWS.values()}

# Table 9's GFLOPs at 513×513×3 with 59 classes, one per multiply-add.
PAPER_GMACS = {
    "table9/sa_car_d8": 158.96,
    "table9/sfpn": 45.65,
    "table9/hfgd_os4": 71.63,
    "table9/hfgd_os2": 153.62,
}

# mIoU that this package measured itself, by row; filled in as somebody with the data runs them.
OURS: dict[str, float] = {}
