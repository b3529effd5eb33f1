"""Foreign models: nothing of theirs runs, and nothing but their own weights is read."""

import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import hfgd
from conftest import recipe, same
from hfgd.card import card
from hfgd.cli.main import app, main
from hfgd.data.classes import ClassSet
from hfgd.errors import HfgdError
from hfgd.export.metadata import Facts
from hfgd.export.runtime import ExportedModel, read_facts
from hfgd.export.sessions.pt2 import FACTS
from hfgd.inference.labeller import InferenceConfig, open_labeller
from hfgd.model.config import Builder
from hfgd.parallel import launch as launching
from hfgd.predict import predict_files
from hfgd.predict.shards import run_shards
from hfgd.text import csv_cell, csv_value
from hfgd.training.fit import fit
from hfgd.types import Grid

ABC = ClassSet.of(["a", "b", "c"])
CODE = """
from pathlib import Path

import hfgd
from hfgd.data.classes import ClassSet

Path({mark!r}).touch()


@hfgd.builder
def x(classes: ClassSet, width: int = 16):
    toy = {{"name": "test_resnet"}}
    return hfgd.create("sfpn_resnet50", classes=classes.names, backbone=toy, width=width)
"""


def toy(**changes):
    return hfgd.create(
        "sfpn_resnet50", classes=ABC.names, backbone={"name": "test_resnet"}, width=16, **changes
    )


def edited(folder, change):
    """The saved model with another config.json."""
    file = folder / "config.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return folder


def asking(tmp_path, name):
    """A toy model that asks for the function ``name``."""

    def change(content):
        del content["model"]
        content["builder"] = {"name": name, "arguments": {}}

    return edited(toy().save(tmp_path / "model"), change)


@pytest.fixture
def code(tmp_path, monkeypatch):
    """The working folder, with a module for each test, and the file that its code leaves behind."""
    folder, name = tmp_path / "work", f"helper_{tmp_path.name}".replace("-", "_")
    folder.mkdir()
    (folder / f"{name}.py").write_text(CODE.format(mark=str(tmp_path / "ran")))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder, name, tmp_path / "ran"
    sys.modules.pop(name, None)


def run_cli(monkeypatch, capsys, *words):
    """The exit code and what is said, of the command in this process."""
    monkeypatch.setattr(sys, "argv", ["hfgd", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr()
    return end.value.code, told.out + told.err


# ---- builders -------------------------------------------------------------------------------


def test_a_model_runs_no_code_unless_told(tmp_path, code, monkeypatch):
    """Not even where the module could be imported."""
    folder, name, ran = code
    model = asking(tmp_path, f"{name}:x")
    for path in ([], ["", str(folder)]):
        monkeypatch.setattr(sys, "path", [*path, *sys.path])
        with pytest.raises(HfgdError, match=rf"'{name}:x', and its code runs only .*--code FOLDER"):
            hfgd.load(model)
    assert not ran.exists()
    loaded = hfgd.load(model, code=folder)
    assert ran.exists()
    assert same(loaded.state_dict(), hfgd.load(model, code=folder).state_dict())


def test_what_the_process_has_imported_itself_needs_no_folder(tmp_path, code):
    folder, name, _ = code
    model = asking(tmp_path, f"{name}:x")
    sys.path.insert(0, str(folder))
    __import__(name)
    assert hfgd.load(model).classes == ABC


@pytest.mark.parametrize(
    "name",
    ["venv.__main__:x", "os:system", "subprocess:run", "__main__:x", "antigravity:x", "this:x"],
)
def test_a_trusted_folder_gives_nothing_else_away(name, tmp_path, code, monkeypatch):
    """Of Python's own modules none is imported; 'venv' is also a folder there, as so often."""
    folder, _, _ = code
    (folder / "venv" / "lib").mkdir(parents=True)
    known = set(sys.modules)
    with pytest.raises(HfgdError, match=rf"'{name}', and --code '.*' holds no"):
        hfgd.load(asking(tmp_path, name), code=folder)
    assert not {"antigravity", "this", "venv", "venv.__main__"} & (set(sys.modules) - known)


def test_a_folder_that_is_not_there(tmp_path, code):
    with pytest.raises(HfgdError, match=r"there is no folder '.*nowhere'"):
        hfgd.load(asking(tmp_path, "helper:x"), code=tmp_path / "nowhere")


def test_a_recipe_asks_too(folder, tmp_path, code):
    """The same rule for training: a recipe file may be a stranger's."""
    work, name, ran = code
    network = Builder(name=f"{name}:x", arguments={"width": 8})
    mine = recipe(folder, **{"train.iterations": 1}).model_copy(update={"network": network})
    with pytest.raises(HfgdError, match="runs only where you allow it"):
        fit(mine, tmp_path / "run")
    assert not ran.exists()
    assert not (tmp_path / "run").exists()
    fit(mine, tmp_path / "run", code=work)
    assert hfgd.load(tmp_path / "run", code=work).config.builder.name == f"{name}:x"


def test_the_commands_say_what_the_model_asks_for(tmp_path, code, monkeypatch, capsys):
    folder, name, ran = code
    model = asking(tmp_path, f"{name}:x")
    other = shutil.copytree(model, tmp_path / "other")
    (folder / "photo.png").write_bytes(b"")
    for words in (
        ("predict", model, folder / "photo.png", "--out", tmp_path / "out"),
        ("eval", model, "--data", "scenes"),
        ("compare", model, other, "--data", "scenes", "--out", tmp_path / "out"),
        ("export", model, "--out", tmp_path / "out" / "m.onnx"),
        ("serve", model),
        ("figure", "6", model, "--out", tmp_path / "out"),
    ):
        status, told = run_cli(monkeypatch, capsys, *words)
        assert (status, told.count("\n")) == (2, 1), told
        assert f"'{name}:x'" in told
        assert "--code" in told
    assert not ran.exists()
    assert not (tmp_path / "out").exists()
    status, told = run_cli(monkeypatch, capsys, "info", model)
    assert status == 0
    assert f"{name}:x" in told
    assert not ran.exists()


LOADING = {
    "train",
    "ablate",
    "eval",
    "val",
    "compare",
    "figure",
    "predict",
    "export",
    "serve",
    "review",
}


def test_every_command_that_loads_a_model_takes_code():
    """The rest (info, card, push, demo, recipes, data) builds no network of a stranger's."""
    commands = typer.main.get_command(app).commands
    having = {n for n, c in commands.items() if any("--code" in p.opts for p in c.params)}
    assert having == LOADING & set(commands)
    assert len(having) >= 9


# ---- the working folder ---------------------------------------------------------------------


@pytest.fixture
def shadow(tmp_path, monkeypatch):
    """A working folder whose typer.py leaves a mark."""
    (tmp_path / "typer.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return tmp_path / "ran"


def test_python_m_hfgd_imports_nothing_from_the_working_folder(shadow):
    done = subprocess.run(
        [sys.executable, "-m", "hfgd", "--version"], check=True, capture_output=True
    )
    assert done.stdout.strip()
    assert not shadow.exists()


def test_shards_import_nothing_from_the_working_folder(shadow):
    assert run_shards(["--version"], 2) == [0, 0]
    assert not shadow.exists()


def test_launched_processes_import_nothing_from_the_working_folder(shadow, monkeypatch):
    started = []
    monkeypatch.setattr(launching.os, "environ", dict(os.environ))  # the launcher writes into it

    def elastic_launch(config, program):
        return lambda *words: started.append([program, *words])

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", elastic_launch)
    launching.launch(["--version"], 2, 1)
    subprocess.run(started[0], check=True, capture_output=True)
    assert not shadow.exists()


def test_the_attack_on_the_working_folder_is_real(shadow):
    subprocess.run([sys.executable, "-m", "pip", "--version"], check=False, capture_output=True)
    subprocess.run([sys.executable, "-c", "import typer"], check=False, capture_output=True)
    assert shadow.exists()


def test_all_that_the_command_starts_keeps_out_of_it(monkeypatch, capsys):
    """Workers of a data loader and of uvicorn too, which Python starts by -c."""
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    run_cli(monkeypatch, capsys, "--version")
    assert os.environ["PYTHONSAFEPATH"] == "1"


def test_the_services_processes_are_told_the_folder(monkeypatch, tmp_path):
    service = pytest.importorskip("hfgd.serve.run")
    from hfgd.serve.access import Access
    from hfgd.serve.limits import Limits

    told = []
    monkeypatch.setattr(service, "opened", told.append)
    monkeypatch.setattr("uvicorn.supervisors.Multiprocess.run", lambda self: None)
    monkeypatch.setattr(service.os, "environ", dict(os.environ))
    served = service.Serving("model", Limits(), Access("127.0.0.1"), 0, 2, None, tmp_path)
    service.run(served)
    service.from_environment()
    assert told == [served, served]


# ---- programs -------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path):
    """A .pt2 file that says what it should, whatever its machine code does."""
    file = tmp_path / "theirs" / "model.pt2"
    file.parent.mkdir()
    facts = Facts(
        version="1", name="theirs", classes=ABC.names, palette=ABC.palette, grid=Grid.CELLS,
        crop=(33, 33), mean=(0.5, 0.5, 0.5),
    )  # fmt: skip
    with zipfile.ZipFile(file, "w") as package:
        package.writestr(f"model/{FACTS}", json.dumps(facts.as_properties()))
    return file


@pytest.fixture
def loaded(monkeypatch):
    """What torch was asked to load."""
    found = []

    def load(path):
        found.append(path)
        return lambda image: [torch.zeros(image.shape[0], *image.shape[2:], dtype=torch.uint8)]

    monkeypatch.setattr("torch._inductor.aoti_load_package", load)
    return found


def test_a_program_runs_only_from_a_folder_that_is_named(program, loaded, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/link.pt2").symlink_to(program)
    for file, code in (
        (program, None),
        (program, tmp_path / "mine"),
        (tmp_path / "mine/link.pt2", tmp_path / "mine"),
    ):
        with pytest.raises(HfgdError, match=r"is a program: .*--code"):
            ExportedModel(file, code=code)
        with pytest.raises(HfgdError, match="is a program"):
            open_labeller(str(file), InferenceConfig(code=code))
    assert loaded == []
    assert ExportedModel(program, code=program.parent).classes == ABC
    open_labeller(str(program), InferenceConfig(code=tmp_path))
    assert loaded == [str(program)] * 2


def test_info_reads_a_program_and_does_not_run_it(program, loaded, monkeypatch, capsys):
    assert read_facts(program).name == "theirs"
    status, told = run_cli(monkeypatch, capsys, "info", program)
    assert status == 0
    assert "theirs" in told
    status, told = run_cli(monkeypatch, capsys, "predict", program, program, "--out", "x")
    assert status == 2
    assert "is a program" in told
    assert loaded == []


# ---- weights of others ----------------------------------------------------------------------


def backbone(**values):
    return lambda content: content["model"]["backbone"].update(values)


def options(**values):
    return backbone(options=values)


SECRET = "SECRET"  # stands for a file of the user's

READS = {
    "a path": (backbone(pretrained=SECRET), "asks for weights from elsewhere"),
    "timm's": (backbone(pretrained=True), "asks for weights from elsewhere"),
    "checkpoint_path": (options(checkpoint_path=SECRET), "'checkpoint_path' says how timm loads"),
    "pretrained": (options(pretrained=True), "'pretrained' says how timm loads"),
    "cfg": (options(pretrained_cfg={"file": SECRET}), "'pretrained_cfg' says how"),
    "overlay": (
        options(pretrained_cfg_overlay={"url": "http://127.0.0.1:1/x"}),
        "'pretrained_cfg_over",
    ),
    "cache": (options(cache_dir=SECRET), "'cache_dir' says how"),
    "features": (options(features_only=False), "'features_only' says how"),
    "class": (options(feature_cls="fx"), "'feature_cls' says how"),
    "pickles": (options(pretrained_custom_load=True), "backbone 'test_resnet' could not be built"),
    "hub": (backbone(name="hf-hub:user/model"), "no backbone named 'hf-hub:user/model'"),
    "folder": (backbone(name="local-dir:SECRET"), "no backbone named 'local-dir:SECRET'"),
}
_watched: list[str] = []
_opened: list[str] = []


def _watch(event, arguments):
    if _watched and event in ("open", "socket.connect", "socket.getaddrinfo"):
        _opened.append(f"{event} {arguments[:2]}")


@pytest.mark.parametrize("case", READS)
def test_a_config_reads_and_fetches_nothing(case, tmp_path, request):
    change, sentence = READS[case]
    secret = tmp_path / SECRET
    torch.save({"weights": torch.zeros(1)}, secret)
    model = edited(toy().save(tmp_path / "model"), change)
    file = model / "config.json"
    file.write_text(file.read_text().replace(SECRET, str(secret)))
    if not getattr(sys, "_hfgd_watch", False):
        sys.addaudithook(_watch)
        sys._hfgd_watch = True
    _opened.clear()
    _watched.append(case)
    try:
        with pytest.raises(HfgdError) as refused:
            hfgd.load(model)
    finally:
        _watched.clear()
    assert sentence in str(refused.value).replace(str(secret), SECRET)
    assert "\n" not in str(refused.value)
    assert any("config.json" in event for event in _opened)  # the watch sees something
    assert not [e for e in _opened if str(secret) in e or e.startswith("socket")]


def test_harmless_options_are_kept(tmp_path):
    model = hfgd.create(
        "sfpn_resnet50", classes=ABC.names, width=16,
        backbone={"name": "test_resnet", "options": {"drop_path_rate": 0.1}},
    )  # fmt: skip
    model.save(tmp_path / "model")
    assert hfgd.load(tmp_path / "model").config.model.backbone.options == {"drop_path_rate": 0.1}


def test_a_recipe_cannot_name_them_either(tmp_path):
    toy_with = {"name": "test_resnet", "options": {"checkpoint_path": str(tmp_path)}}
    with pytest.raises(HfgdError, match="'checkpoint_path' says how timm loads a network"):
        hfgd.create("sfpn_resnet50", classes=ABC.names, backbone=toy_with)


def test_an_onnx_file_reads_nothing_beside_its_folder(tmp_path):
    """Its weights may lie in another file, and a stranger's would name any."""
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    (tmp_path / "secret").write_bytes(b"\1" * 16)
    (tmp_path / "model").mkdir()
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../secret"), ("offset", "0"), ("length", "16")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])], "g", [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])], [tensor],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    Path(tmp_path / "model/m.onnx").write_bytes(model.SerializeToString())
    assert onnx.__version__
    assert onnxruntime.__version__
    with pytest.raises(HfgdError, match="no ONNX file that can be run here"):
        ExportedModel(tmp_path / "model/m.onnx")


# ---- names as text --------------------------------------------------------------------------

NAMES = [
    "two\nlines", "\x1b[31mred", "bell\x07", "back\x08", "\u202eturned", "half\ud800", "\u2028line",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["name", "licence_of_backbone", "classes"])
def test_a_model_with_control_characters_in_its_names_is_refused(key, name, tmp_path):
    def change(content):
        content[key] = [name, "b", "c"] if key == "classes" else name

    with pytest.raises(HfgdError, match=r"^'.*config\.json'") as refused:
        hfgd.load(edited(toy().save(tmp_path / "model"), change))
    assert name not in str(refused.value)


@pytest.mark.parametrize("colour", [[-1, 0, 0], [0, 256, 0], [0, 0, 10**9], [0.5, 0, 0], [0, 0]])
def test_a_colour_out_of_range_is_refused(colour, tmp_path):
    def change(content):
        content["palette"][1] = colour

    with pytest.raises(HfgdError, match=r"config\.json' holds no usable model: 'palette\.1"):
        hfgd.load(edited(toy().save(tmp_path / "model"), change))


def test_classes_and_exported_files_are_held_to_the_same(program):
    with pytest.raises(
        HfgdError, match=r"class 'b': the colour \[-1, 0, 0\] is no RGB of 0 to 255"
    ):
        ClassSet.of(["a", "b"], [(0, 0, 0), (-1, 0, 0)])
    with pytest.raises(HfgdError, match=r"class 'a\\nb': a name is one line"):
        ClassSet.of(["a\nb"])
    properties = read_facts(program).as_properties()
    for key, value in (
        ("palette", [[-1, 0, 0]] * 3),
        ("name", "two\nlines"),
        ("classes", ["a"] * 3),
    ):
        text = value if isinstance(value, str) else json.dumps(value)
        with zipfile.ZipFile(program, "w") as package:
            package.writestr(f"model/{FACTS}", json.dumps(properties | {f"hfgd.{key}": text}))
        with pytest.raises(HfgdError, match=r"model\.pt2'"):
            read_facts(program)


def test_ordinary_names_of_all_languages_stay(tmp_path):
    names = ["Straße", "道路", "می‌رود", "a|b <c> `d` [e](f)", "👩‍🌾"]  # joiners belong to words
    model = hfgd.create(
        "sfpn_resnet50", classes=names, width=16, backbone={"name": "test_resnet"}
    ).save(tmp_path / "model")
    assert list(hfgd.load(model).classes.names) == names


def test_a_card_shows_names_as_they_are(tmp_path):
    """No heading, no HTML, no link and no column of a stranger's."""
    model = edited(
        toy().save(tmp_path / "model", note="x"),
        lambda content: content.update(
            name="<img src=x onerror=alert(1)>", classes=["a | b", "[c](http://x)", "`d`"]
        ),
    )
    (model / "report.json").write_text(
        json.dumps(
            {
                "data": "x\n# heading", "images": "1\n# heading", "branch": "fine\n# heading",
                "precision": "fp32\n# heading", "protocol": {"name": "ss\n# heading"},
                "classes": [{"name": "y\n# heading", "IoU": 0.5}], "absent": ["z\n# heading"],
            }
        )
    )  # fmt: skip
    (model / "recipe.yaml").write_text(
        'data: {location: "d\\n# heading", train_split: "s\\n# heading"}\n'
        'train: {seed: "q\\n# heading"}\noptim: {name: "o\\n# heading"}\n'
    )
    text = card(str(model))
    body = text.split("---\n", 2)[2]
    assert "\n# heading" not in body
    assert r"# \<img src=x" in body
    assert r"| a \| b |" in body
    assert r"| \[c](http://x) |" in body
    assert r"| \`d\` |" in body


CELLS = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''@x", "=cmd|' /C calc'!A0"]


@pytest.mark.parametrize("text", CELLS)
def test_no_cell_begins_a_formula(text):
    cell = csv_cell(text)
    assert cell[0] == "'"
    assert csv_value(cell) == text


@pytest.mark.parametrize("text", ["road", "'tis", "a=b", "", "-0.5", "+3", "-1e-05", "3", "x@y"])
def test_other_cells_and_numbers_stay(text):
    assert csv_cell(text) == text == csv_value(text)


def test_every_csv_goes_through_the_one_that_knows():
    """No part writes rows by itself, but the log of a training, whose cells are numbers."""
    root = Path(hfgd.__file__).parent
    writers = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if "csv.writer(" in path.read_text(encoding="utf-8")
        or "csv.DictWriter(" in path.read_text(encoding="utf-8")
    }
    assert writers == {"text.py", "training/callbacks.py"}


def test_labels_of_formulas_are_found_again(tmp_path):
    """The parts of a prediction are read back into the manifest, with the names as they were."""
    (tmp_path / "in").mkdir()
    for name in ("=1+1.png", "'=2.png", "-3.png"):
        Image.new("RGB", (40, 30)).save(tmp_path / "in" / name)
    toy().save(tmp_path / "model")
    predict_files(
        str(tmp_path / "model"), [tmp_path / "in"], tmp_path / "out", InferenceConfig(device="cpu")
    )
    (part,) = (tmp_path / "out/parts").glob("1-of-1.csv")
    for row in csv.reader(part.open(newline="")):
        assert not [cell for cell in row if cell[:1] in tuple("=+-@\t\r")]
    (manifest,) = (tmp_path / "out").glob("manifest.*")
    if manifest.suffix == ".parquet":
        from pyarrow import parquet

        table = parquet.read_table(manifest).to_pydict()
        assert sorted(table["label"]) == sorted(["=1+1.png", "'=2.png", "-3.png"])
        assert table["height"] == [30] * 3


def test_a_name_is_no_formula_in_a_picture(tmp_path):
    """Matplotlib reads TeX between dollars, and ends with a traceback where it is none."""
    from hfgd.evaluation.plots import PanelRow, ablation_bars, panels

    classes = ClassSet.of([r"$\bad$", "$x$"])
    pixels, labels = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), np.uint8)
    row = PanelRow(r"$\bad$", pixels, labels, {r"$\worse$": labels})
    panels([row], classes, tmp_path / "panels.png")
    ablation_bars([(r"$\bad$", 0.5, None)], r"$\worse$", tmp_path / "bars.png")
    assert (tmp_path / "panels.png").is_file()
    assert (tmp_path / "bars.png").is_file()
