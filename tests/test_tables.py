"""Every row of the paper: a recipe, a number, and a run at toy size."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from hfgd.ablate import ablate, find_rows, markdown
from hfgd.checkpoint import load_model
from hfgd.cli.show import costs_of_table_9
from hfgd.data.classes import ClassSet
from hfgd.errors import HfgdError
from hfgd.model.build import build
from hfgd.model.config import GUIDANCE
from hfgd.model.upsamplers.smp import SMP
from hfgd.recipes import RECIPES, ROWS, TABLES, find_recipe, toy
from hfgd.recipes.tables import HFGM, PAPER_GMACS
from hfgd.training.fit import fit


def same_run(row):
    """What decides a toy run: rows that agree in it are one run under several names."""
    content = toy(row.recipe()).model_dump(mode="json")
    return json.dumps(
        {k: v for k, v in content.items() if k not in ("name", "description", "paper", "dataset")}
    )


DISTINCT = {}
for _row in ROWS.values():
    DISTINCT.setdefault(same_run(_row), _row)


def test_all_tables_are_there():
    numbered = {f"table{n}" for n in range(1, 18)}
    assert set(TABLES) == numbered | {"section5.1", "section5.2", "beyond1"}
    assert len(ROWS) == sum(map(len, TABLES.values()))


def test_rows_of_our_own_come_in_pairs():
    """Each decoder without and with HFGM, and nothing else between the two; the paper has none."""
    rows = {row.name.removeprefix("beyond1/"): row for row in TABLES["beyond1"]}
    assert set(rows) == {name + end for name in SMP for end in ("", "_hfgm")}
    for name in SMP:
        plain, guided = rows[name].recipe(), rows[f"{name}_hfgm"].recipe()
        assert guided.model == plain.model.model_copy(update=HFGM)
        assert (guided.optim, guided.augment, guided.train) == (
            plain.optim,
            plain.augment,
            plain.train,
        )
        assert plain.paper == guided.paper == {}


def run_names():
    """The rows of our own are slow proofs: test_rows.py trains one step of each in 'make test'."""
    for row in DISTINCT.values():
        yield pytest.param(row.name, marks=pytest.mark.slow if row.table == "beyond1" else ())


@pytest.mark.parametrize("name", run_names())
def test_every_row_runs_at_toy_size(name, tmp_path):
    """Trained, scored, drawn, saved; the contract of its composition holds."""
    run = fit(toy(find_recipe(name)), tmp_path / "run")
    assert run.report.scores.matrix.sum() > 0
    assert run.report.branch == ROWS[name].branch
    again = load_model(tmp_path / "run").state_dict()
    assert all(torch.equal(again[key], value) for key, value in run.model.state_dict().items())
    model = run.model.train()
    output = model(torch.rand(2, 3, 97, 65))
    assert output.full_size().shape == (2, 9, 97, 65)
    guided = ROWS[name].model.get("guidance")
    assert (output.guide_logits is not None) == bool(guided and guided.share_tokens)
    model.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert model(torch.rand(1, 3, 33, 50)).full_size().isfinite().all()


@pytest.mark.parametrize(
    ("better", "worse", "delta"),  # the differences that the paper prints
    [
        ("table3/guidance", "table3/none", 0.53),
        ("table3/aa", "table3/none", 0.74),
        ("table3/full", "table3/none", 1.80),
        ("table5/guidance", "table5/none", 0.46),
        ("table5/full", "table5/none", 1.52),
        ("table6/u_sfpn", "table6/sfpn", 0.48),
        ("table6/swin_u_sfpn", "table6/swin_sfpn", 1.14),
        ("table8/u_sfpn_hfgm", "table8/u_sfpn", 2.09),
        ("table8/fapn_hfgm", "table8/fapn", 2.37),
        ("table8/upernet_hfgm", "table8/upernet", 1.71),
        ("table8/deeplabv3plus_hfgm", "table8/deeplabv3plus", 1.59),
        ("table9/hfgd_os2", "table9/hfgd_os4", 0.24),
        ("table12/hfgd_os2", "table12/hfgd_os4", 0.70),
    ],
)
def test_the_papers_numbers_agree_with_its_differences(better, worse, delta):
    difference = ROWS[better].paper["ss"] - ROWS[worse].paper["ss"]
    assert difference == pytest.approx(delta, abs=1e-9)


def test_rows_that_stand_in_two_tables_have_one_number_and_one_model():
    twins = [
        ("table1/identity_sfpn", "table3/none", "table7/identity_sfpn", "table9/sfpn"),
        ("table1/sa_car", "table4/sa_car"),
        ("table1/sa_car_d8", "table9/sa_car_d8"),
        ("table4/cae_sfpn", "table5/none", "table7/cae_sfpn"),
        ("table4/cae_sfpn_hfgm", "table5/full", "table6/sfpn"),
        ("table6/u_sfpn", "table7/cae_u_sfpn_hfgm", "table8/u_sfpn_hfgm", "table9/hfgd_os4"),
        ("table3/full", "section5.2/full"),
        ("table1/identity", "table2/imagenet_30k", "section5.1/fcn"),
    ]
    for first, *others in twins:
        for other in others:
            assert ROWS[first].paper == ROWS[other].paper, other
            assert ROWS[first].recipe().model == ROWS[other].recipe().model, other


def test_settings_follow_the_paper():
    plain, best = find_recipe("table3/full"), find_recipe("table13/hfgd_os2")
    assert (plain.optim.name, plain.optim.lr, plain.optim.weight_decay) == ("sgd", 0.01, 1e-4)
    assert (plain.augment.crop, plain.augment.colours) == ((513, 513), "plain")
    assert (plain.train.iterations, plain.train.batch_size) == (30_000, 16)
    assert plain.loss.normalise == "all"
    assert plain.model.backbone.bn_momentum == 3e-4
    assert plain.model.guidance == GUIDANCE
    assert (best.optim.name, best.optim.lr, best.optim.weight_decay) == ("adamw", 4e-5, 0.05)
    assert (best.augment.crop, best.augment.colours) == ((512, 1024), "advanced")
    assert best.train.iterations == 80_000
    assert best.model.backbone.options == {"drop_path_rate": 0.3}
    assert find_recipe("table14/hfgd_os2").train.batch_size == 32
    assert find_recipe("table15/hfgd").augment.crop == (640, 640)
    assert find_recipe("table14/hfgd_os2").paper == {"test": 83.3}  # of no stated protocol
    assert find_recipe("table2/scratch_180k").model.backbone.pretrained is False
    swin = find_recipe("table6/swin_u_sfpn")
    assert (swin.optim, swin.augment.colours) == (plain.optim, "plain")
    assert swin.model.backbone.options == {"drop_path_rate": 0.3}  # the authors' network


def test_multi_grid_is_on_in_every_resnet_50_row_and_off_in_the_named_recipes():
    for name, row in ROWS.items():
        on = row.backbone.name == "resnet50"
        assert row.recipe().model.backbone.multi_grid == ((1, 2, 4) if on else None), name
    for name in RECIPES:
        assert find_recipe(name).model.backbone.multi_grid is None, name


@pytest.mark.parametrize(
    ("name", "parameters"),  # decoder, encoder and tokens of the authors' code, on ResNet-50
    [
        ("table1/identity", 33_216_763 - 23_631_808),
        ("table1/aspp", 39_182_075 - 23_631_808),
        ("table1/sa", 35_788_923 - 23_631_808),
        ("table1/sa_d8", 35_788_923 - 23_631_808),
        ("table1/sa_car", 33_954_427 - 23_631_808),
        ("table4/sa_car", 33_954_427 - 23_631_808),
        ("table9/sa_car_d8", 33_954_427 - 23_631_808),
        ("table1/ocr", 48_526_454),
        ("table1/ocr_d8", 48_526_454),
    ],
)
def test_heads_of_the_rows_without_an_upsampler_are_the_authors(name, parameters):
    row = ROWS[name]
    spec = row.recipe().model.with_backbone(pretrained=False)
    with torch.device("meta"):
        model = build(spec, ClassSet.numbered(row.setup.classes))
    whole, below = (sum(p.numel() for p in m.parameters()) for m in (model, model.backbone))
    assert whole - below == parameters


def test_rows_with_an_upsampler_or_cae_are_256_wide():
    for name, row in ROWS.items():
        model = row.recipe().model
        if model.upsampler != "none" or model.encoder == "cae":
            assert model.width == 256, name


# ---- cost -----------------------------------------------------------------------------------


def test_table_9_within_the_bounds():
    """decisions.md: the order holds, and each within +10 % and −15 % of the paper's figure."""
    macs = {name: cost.macs / 1e9 for name, cost in costs_of_table_9().items()}
    order = ["table9/sfpn", "table9/hfgd_os4", "table9/hfgd_os2", "table9/sa_car_d8"]
    assert sorted(macs, key=macs.__getitem__) == order
    for name, paper in PAPER_GMACS.items():
        assert 0.85 <= macs[name] / paper <= 1.10, name
    assert 0.38 <= macs["table9/hfgd_os4"] / macs["table9/sa_car_d8"] <= 0.50


def test_macs_by_hand():
    """ResNet-50 at 513 is 22.55 GMACs; the tokens and the axial attention are counted by formula."""
    parts = {part.name: part for part in costs_of_table_9()["table9/hfgd_os4"].parts}
    assert parts["backbone"].macs / 1e9 == pytest.approx(22.55, abs=0.01)
    assert parts["class tokens"].macs == 129 * 129 * 256 * 59
    projections = 3 * 129**2 * 256**2
    attention = 2 * 2 * 129**3 * 256  # two axes; queries with keys, weights with values
    assert parts["axial attention"].macs == projections + attention


def test_activation_memory_counts_what_autograd_keeps():
    """One convolution and one ReLU by hand: the input and the ReLU's output are kept."""
    from torch import nn

    from hfgd.cost import _activation_bytes

    layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()).to("meta")
    image = torch.empty(1, 3, 20, 30, device="meta")
    expected = 4 * (3 * 20 * 30 + 8 * 20 * 30)
    assert _activation_bytes(layers, image) == expected


# ---- ablation -------------------------------------------------------------------------------


def test_ablate_writes_one_table_and_resumes(tmp_path, capsys):
    small = {"train.iterations": 2, "train.validate_every": 2}
    names = ["table3/none", "table3/full"]
    results = ablate(names, small, tmp_path, seeds=2, as_toy=True)
    assert [(r.name, len(r.miou), r.paper) for r in results] == [
        ("table3/none", 2, 47.14), ("table3/full", 2, 48.94)
    ]  # fmt: skip
    text = (tmp_path / "ablation.md").read_text()
    assert "| full | identity, full HFGM | 2 |" in text
    assert "| 48.94 | +1.80 |" in text
    assert "train.iterations=2" in text
    assert (tmp_path / "ablation.png").is_file()
    stored = json.loads((tmp_path / "ablation.json").read_text())
    assert stored["rows"][0]["miou"] == results[0].miou

    report = tmp_path / "table3-full/seed1/report.json"
    report.unlink()  # as if the last run had been interrupted
    stamp = (tmp_path / "table3-none/seed0/report.json").stat().st_mtime_ns
    again = ablate(names, small, tmp_path, seeds=2, as_toy=True)
    assert [r.miou for r in again] == [r.miou for r in results]
    assert (tmp_path / "table3-none/seed0/report.json").stat().st_mtime_ns == stamp
    assert report.is_file()
    with pytest.raises(HfgdError, match=r"another recipe: train\.iterations is 2 there and 3 here"):
        ablate(names, small | {"train.iterations": 3}, tmp_path, as_toy=True)


def test_a_run_without_a_score_is_named_and_not_in_the_table(tmp_path, monkeypatch):
    report = SimpleNamespace(scores=SimpleNamespace(miou=math.nan))
    monkeypatch.setattr("hfgd.ablate.fit", lambda *_, **__: SimpleNamespace(report=report))
    with pytest.raises(HfgdError, match=r"'.*table3-none/seed0/report.json' has no mIoU"):
        ablate(["table3/none"], {}, tmp_path, as_toy=True)
    assert not (tmp_path / "ablation.json").exists()


def test_the_table_shows_mean_and_spread():
    from hfgd.ablate import RowResult

    rows = [RowResult("t/a", "one", [0.5, 0.52], 40.0), RowResult("t/b", "two", [0.55], None)]
    text = markdown(rows, {})
    assert "| a | one | 2 | 51.00 ± 1.41 | +0.00 | 40.00 | +0.00 |" in text
    assert "| b | two | 1 | 55.00 | +4.00 | – | – |" in text


def test_rows_of_several_tables_stand_in_one_table():
    from hfgd.ablate import RowResult

    rows = find_rows(["3", "section5.2/no_stop_gradient", "table3/full"])
    names = [row.name for row in rows]
    assert names == [*(f"table3/{key}" for key in ("none", "guidance", "aa", "full")),
                     "section5.2/no_stop_gradient"]  # fmt: skip
    text = markdown([RowResult(name, "", [0.5], None) for name in names], {})
    assert text.startswith("# table3, section5.2\n")
    assert "| table3/aa |" in text
    assert "| section5.2/no_stop_gradient |" in text


def test_unknown_tables_and_rows_are_named():
    with pytest.raises(HfgdError, match="no table or row named '33'"):
        find_rows(["33"])
    with pytest.raises(HfgdError, match="did you mean 'table3/full'"):
        find_rows(["table3/ful"])
    with pytest.raises(HfgdError, match="did you mean 'table3/full'"):
        find_recipe("table3/ful")
