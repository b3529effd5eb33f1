"""The exported page in a real browser: labels, no request, keyboard; skipped without chromium."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import toy
from hfgd.data.prediction import Prediction
from hfgd.errors import HfgdError
from hfgd.export import html
from hfgd.export.metadata import Facts
from hfgd.types import Grid

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FACTS = Facts(
    version="0", name="<b>", classes=("a", "</script>"), palette=((1, 2, 3), (1, 2, 3)),
    grid=Grid.CELLS, crop=(64, 64), mean=(0.4, 0.5, 0.6),
)  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield launched
        launched.close()


def opened(browser, file, **context):
    """The page from disk, offline, and every request it makes."""
    page = browser.new_context(offline=True, **context).new_page()
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())
    return page, requests


def labelled(page, image):
    """The downloaded label PNG of an image file, as class ids."""
    page.set_input_files("#file", image)
    done = "n => document.querySelector('#status').textContent.startsWith('Labelled ' + n)"
    page.wait_for_function(done, arg=image.name, timeout=120_000)
    page.wait_for_function("() => !document.querySelector('#save').href.endsWith('.html')")
    page.wait_for_timeout(200)  # the PNG is packed after the answer is shown
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == f"{image.stem}.png"
    with Image.open(download.value.path()) as picture:
        assert picture.mode == "P"
        return np.asarray(picture)


@pytest.mark.slow
def test_labels_are_those_of_pytorch_and_nothing_is_asked_of_a_network(browser, shared, tmp_path):
    torch.manual_seed(0)
    model = toy(classes=11).eval()
    file = tmp_path / "page.html"
    model.export(file)
    page, requests = opened(browser, file)
    images = sorted((shared / "data/camvid/images/val").iterdir())[::40][:3]
    assert len(images) == 3
    for image in images:
        ours, theirs = labelled(page, image), model.predict(image).labels
        assert len(np.unique(theirs)) > 1
        np.testing.assert_array_equal(ours, theirs)
    assert all(url.startswith(("file:", "blob:")) for url in requests)
    shown = page.locator("#legend tr").count()
    assert shown == len(np.unique(theirs))
    # a keyboard alone: the slider, then a class hidden
    page.focus("#opacity")
    page.keyboard.press("End")
    assert page.text_content("#percent") == "100 %"
    assert page.evaluate("getComputedStyle(document.querySelector('#labels')).opacity") == "1"
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert not page.locator("#legend input").first.is_checked()
    # what is no image is one sentence, and the page goes on
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    page.set_input_files("#file", bad)
    page.wait_for_selector("#trouble:not([hidden])")
    assert "no image that this browser can read" in page.text_content("#trouble")


def test_pngs_go_there_and_back(browser, tmp_path):
    """What the page writes PIL reads, and the page reads what PIL writes."""
    page = browser.new_page()
    page.add_script_tag(content=html._text("png.js"))
    labels = np.random.default_rng(0).integers(0, 2, (5, 7), dtype=np.uint8)
    values = labels.ravel().tolist()
    written = page.evaluate(
        "async (v) => [...new Uint8Array(await (await writeLabels(Uint8Array.from(v), 7, 5, "
        "[[1, 2, 3], [1, 2, 3]])).arrayBuffer())]",
        values,
    )
    (tmp_path / "ours.png").write_bytes(bytes(written))
    with Image.open(tmp_path / "ours.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), labels)
        assert picture.getpalette()[:6] == [1, 2, 3, 1, 2, 3]
    Prediction(np.zeros((5, 7, 3), np.uint8), labels, FACTS.class_set).save(tmp_path / "theirs.png")
    read = page.evaluate(
        "async (b) => { const r = await readLabels(Uint8Array.from(b).buffer); "
        "return [r.width, r.height, ...r.labels]; }",
        list((tmp_path / "theirs.png").read_bytes()),
    )
    assert read == [7, 5, *values]


def test_names_cannot_leave_their_place():
    page = html.assemble(
        title=FACTS.name, promise="", limit="", facts=html.shown(FACTS, ""), policy=""
    )
    assert "<b>" not in page
    found = re.search(r'id="facts">(.*?)</script>', page, re.DOTALL)
    assert json.loads(found[1])["classes"] == ["a", "</script>"]


def test_many_classes_take_smaller_images():
    assert html.most_pixels(FACTS) == html.MOST_PIXELS
    many = FACTS.model_copy(update={"classes": tuple(map(str, range(150)))})
    assert html.most_pixels(many) * 150 * 4 <= html.LOGIT_BYTES


def test_what_a_page_does_not_do(tmp_path, monkeypatch):
    model = toy()
    with pytest.raises(HfgdError, match="leave --size, --logits and"):
        model.export(tmp_path / "x.html", size=(32, 32))
    with pytest.raises(HfgdError, match=r"should end in \.html"):
        html.export_html(model, tmp_path / "x.page")
    large = tmp_path / "large.onnx"
    large.write_bytes(b"1234")
    monkeypatch.setattr(html, "ONE_PAGE", 3)
    with pytest.raises(HfgdError, match="too large for one page"):
        html.page_of(large)
    assert not list(tmp_path.glob("*.html"))
