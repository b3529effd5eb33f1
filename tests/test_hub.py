"""Models shared on a hub: a small server stands in for it, and huggingface_hub is the real one."""

import json
import re
import threading

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image

import hfgd
from conftest import same, toy
from hfgd import hub as hub_module
from hfgd.card import CardInfo, card, public
from hfgd.checkpoint import load_model, save_model
from hfgd.errors import HfgdError
from hfgd.evaluation.report import Report
from hfgd.evaluation.scores import Scores
from hfgd.training.finetune import start_from
from hub_server import Hub, Repository

SENT = {"model.safetensors", "config.json", "README.md", "panels.png"}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The stand-in; who asks is ann, and her cache is empty."""
    server = Hub()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_ann")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    hub_module._fetch.cache_clear()
    yield server
    server.shutdown()
    server.server_close()
    hub_module._fetch.cache_clear()


@pytest.fixture
def shared_run(tmp_path):
    """A run folder as training leaves it, on data at a place that is nobody's business."""
    root = tmp_path / "secret-place" / "run"
    model = toy(3)
    save_model(model, root / "last", {"iteration": 7})
    matrix = np.array([[6, 2, 0], [1, 8, 1], [0, 0, 0]])
    scores = Scores(model.classes, matrix)
    facts = {"checkpoint": str(root / "last"), "precision": "fp32"}
    Report("toy", "streets/val", 5, scores, facts=facts).save(root)
    content = {
        "model": {"backbone": {"name": "test_resnet", "pretrained": str(root / "start.pth")}},
        "data": {"location": str(tmp_path / "streets"), "train_split": "train"},
        "augment": {"crop": [65, 65]},
        "train": {"iterations": 7, "batch_size": 2, "seed": 3, "init": str(root / "earlier")},
        "optim": {"name": "adamw", "lr": 0.001},
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(content))
    Image.new("RGB", (8, 8)).save(root / "panels.png")
    return root, model


def _named_as_the_data(model):
    model.classes = model.classes.of(["a", "b", "c"], model.classes.palette)
    model.config = model.config.model_copy(update={"classes": model.classes.names})
    return model


def forget(server):
    """Another machine: nothing asked yet, nothing remembered."""
    hub_module._fetch.cache_clear()
    server.asked.clear()


def test_what_is_pushed_comes_back(hub, shared_run, run, tmp_path, monkeypatch):
    root, model = shared_run

    def forbidden(*args, **kwargs):
        raise AssertionError("unpickled")

    for name in ("pickle.load", "pickle.loads", "torch.load"):
        monkeypatch.setattr(name, forbidden)
    code, out, err = run("push", root, "ann/streets")
    assert (code, err) == (0, "")
    there = hub.repositories["ann/streets"]
    files = there.commits[there.newest]
    assert set(files) == SENT
    assert not there.private
    for name in ("model.safetensors", "config.json"):
        assert files[name] == (root / "last" / name).read_bytes()
    assert files["README.md"].decode() == card(str(root), CardInfo("ann/streets"))
    assert f"hf://ann/streets@{there.newest}" in out

    forget(hub)
    monkeypatch.delenv("HF_TOKEN")  # public: anybody may
    again = hfgd.load("hf://ann/streets")
    assert same(again.state_dict(), model.state_dict())
    fetched = {line.rpartition("/")[2] for line in hub.asked if "/resolve/" in line}
    assert fetched == {"model.safetensors", "config.json"}


def test_verbs_take_an_address(hub, shared_run, run, tmp_path, monkeypatch, folder):
    root, model = shared_run
    save_model(_named_as_the_data(model), root / "last")
    assert run("push", root, "ann/streets")[0] == 0
    monkeypatch.chdir(tmp_path)
    address = "hf://ann/streets"
    image = folder / "images" / "val"
    assert run("predict", address, image, "--out", "there", "--precision", "fp32")[0] == 0
    labelled = sorted((tmp_path / "there" / "labels").rglob("*.png"))
    assert len(labelled) == 2
    for path in labelled:
        expected = model.predict(image / path.name).labels
        assert np.array_equal(np.asarray(Image.open(path)), expected)
    code, out, _ = run("info", address)
    assert code == 0
    assert "a, b, c" in out
    fresh = _named_as_the_data(toy(3, width=32))
    start_from(fresh, address)  # train --init
    assert same(fresh.state_dict(), model.state_dict())
    assert not (tmp_path / "hf:").exists()


@pytest.mark.slow
def test_verbs_that_write_beside_a_model(hub, shared_run, run, tmp_path, monkeypatch, folder):
    root, model = shared_run
    save_model(_named_as_the_data(model), root / "last")
    assert run("push", root, "ann/streets")[0] == 0
    monkeypatch.chdir(tmp_path)
    address, place = "hf://ann/streets", tmp_path / "runs" / "ann--streets"
    assert run("eval", address, "--data", folder, "--workers", 0)[0] == 0
    report = place / "eval-data-val-ss" / "report.json"
    assert json.loads(report.read_text())["images"] == 2
    assert run("export", address)[0] == 0
    assert (place / "model.onnx").is_file()
    pair = (address, place / "model.onnx")
    assert run("compare", *pair, "--data", folder, "--out", "pair")[0] == 0
    assert not (tmp_path / "hf:").exists()


def test_a_revision_stays_what_it_was(hub, shared_run, run):
    root, model = shared_run
    run("push", root, "ann/streets")
    first = hub.repositories["ann/streets"].newest
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    save_model(model, root / "last")
    run("push", root, "ann/streets")
    assert same(load_model(f"hf://ann/streets@{first}").state_dict(), before)
    assert same(load_model("hf://ann/streets").state_dict(), model.state_dict())
    with pytest.raises(HfgdError, match=r"'ann/streets' has no revision 'v9'"):
        load_model("hf://ann/streets@v9")


def test_private_is_private(hub, shared_run, run, monkeypatch):
    root, model = shared_run
    assert run("push", root, "ann/mine", "--private")[0] == 0
    assert hub.repositories["ann/mine"].private
    assert same(load_model("hf://ann/mine").state_dict(), model.state_dict())
    hub.repositories["ann/open"] = Repository(commits={"0" * 40: {}})
    code, _, err = run("push", root, "ann/open", "--private")
    assert code == 2
    assert "'ann/open' exists and is public, so nothing was sent" in err
    assert hub.repositories["ann/open"].commits == {"0" * 40: {}}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root / "other"))
    for token, words in (("hf_bob", "not open to your account"), (None, "not logged in")):
        forget(hub)
        monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(HfgdError, match=words):
            load_model("hf://ann/mine")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "'hf://ann/none' is missing, or private"),
        ("malformed", "is no hf://user/name or hf://user/name@revision"),
        ("no revision", "is no hf://user/name or hf://user/name@revision"),
        ("empty", "'hf://ann/empty' holds no hfgd model: there is no model.safetensors"),
        ("gated", "'bob/gated' is gated: accept its terms"),
        ("down", "the hub refused 'hf://ann/empty' with error 500"),
        ("switched off", r"'hf://ann/empty' is not in the local cache"),
        ("unreachable", r"'hf://ann/empty' is not in the local cache"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(hub, run, monkeypatch, tmp_path, kind, words):
    hub.repositories["ann/empty"] = Repository(commits={"0" * 40: {"README.md": b"hello"}})
    hub.repositories["bob/gated"] = Repository(
        gated=True, commits={"1" * 40: {"config.json": b"{}"}}
    )
    address = {
        "missing": "hf://ann/none",
        "malformed": "hf://streets",
        "no revision": "hf://ann/empty@",
        "gated": "hf://bob/gated",
    }.get(kind, "hf://ann/empty")
    if kind == "down":
        hub.down = 500
    elif kind == "switched off":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    elif kind == "unreachable":
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    code, out, err = run("info", address)
    *_, last = err.strip().splitlines()
    assert (code, out) == (2, "")
    assert re.search(words, last)
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) <= 2  # what is fetched, and the sentence


def test_offline_the_cached_copy_is_used(hub, shared_run, run, monkeypatch):
    root, model = shared_run
    run("push", root, "ann/streets")
    load_model("hf://ann/streets")
    forget(hub)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert same(load_model("hf://ann/streets").state_dict(), model.state_dict())
    assert hub.asked == []


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("logged out", "pushing needs an account, and you are not logged in"),
        ("another's", "may not write to 'bob/streets'"),
        ("malformed", "'streets' is no name of a repository; give user/name"),
        ("unreachable", "'ann/streets' could not be pushed (ConnectError"),
        ("truncated", "truncated or no safetensors"),
    ],
)
def test_what_cannot_be_pushed_is_one_sentence(hub, shared_run, run, monkeypatch, kind, words):
    root, _ = shared_run
    name = {"another's": "bob/streets", "malformed": "streets"}.get(kind, "ann/streets")
    if kind == "logged out":
        monkeypatch.delenv("HF_TOKEN")
    elif kind == "unreachable":
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    elif kind == "truncated":
        weights = root / "last" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:500])
    code, out, err = run("push", root, name)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert hub.repositories == {}


# ---- the card -------------------------------------------------------------------------------


def test_card_says_what_the_run_says(shared_run):
    root, _ = shared_run
    text = card(str(root), CardInfo("ann/streets", "ann/street-images", "cc-by-4.0"))
    front = ModelCard(text).data  # the hub's own reader
    told = front.to_dict()
    assert (told["license"], told["library_name"]) == ("cc-by-4.0", "hfgd")
    assert (front.pipeline_tag, front.datasets) == ("image-segmentation", ["ann/street-images"])
    miou, _, aacc = front.eval_results
    assert miou.metric_type == "mean_iou"
    # by hand: 6 / 9, 8 / 12; the third class is nowhere but as one wrong pixel: 0 / 1
    assert miou.metric_value == pytest.approx((6 / 9 + 8 / 12 + 0) / 3, abs=1e-4)
    assert aacc.metric_value == pytest.approx(14 / 18, abs=1e-4)
    assert "ss: whole image, one scale, no flip" in miou.metric_name
    assert (miou.dataset_type, miou.dataset_name) == ("ann/street-images", "streets/val")
    assert "| streets/val | 5 | 44.44 |" in text
    assert 'hfgd.load("hf://ann/streets")' in text
    assert "![image, label and prediction](panels.png)" in text
    assert "iterations: 7" in text
    assert "- code (hfgd): Apache-2.0" in text
    assert "- these weights: cc-by-4.0" in text


def test_card_names_no_place_and_claims_no_licence(shared_run, run, tmp_path):
    root, _ = shared_run
    code, out, _ = run("card", root)
    assert code == 0
    for part in (str(tmp_path), "secret-place", "start.pth", "earlier", "/last"):
        assert part not in out
    front = ModelCard(out).data
    assert (front.license, front.license_name) == ("other", "unknown")
    assert front.datasets is None
    assert "these weights: unknown" in out
    code, _, err = run("card", root, "--license", "My own\nterms: x")
    assert code == 2
    assert "is no licence as the hub writes them" in err


def test_card_of_a_model_without_scores_claims_none(shared_run):
    root, _ = shared_run
    text = card(str(root / "last"))
    assert "No scores lie with this model." in text
    assert ModelCard(text).data.eval_results is None
    (root / "report.json").write_text("{}")
    with pytest.raises(HfgdError, match=r"report.json' is no report of hfgd eval"):
        card(str(root))


def test_public_texts_keep_the_last_part_of_a_path():
    cases = {
        "/home/ann/streets": "streets",
        "C:\\ann\\streets": "streets",
        "../ann/streets": "streets",
        "~/streets": "streets",
        "scenes": "scenes",
        "streets/val (4 of 100)": "streets/val (4 of 100)",
    }
    assert {text: public(text) for text in cases} == cases
