"""The page in a browser: sort, filter, slide, keys, links, names for who cannot see."""

from pathlib import Path

import numpy as np
import pytest

from hfgd.data.classes import ClassSet
from hfgd.evaluation.page.sections import (
    Curves,
    Gallery,
    GalleryItem,
    Layer,
    Matrix,
    Plot,
    Sort,
    Table,
)
from hfgd.evaluation.page.thumbnails import heat, label_picture, photo
from hfgd.evaluation.page.write_page import write_page

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.is_file(), reason="needs /usr/bin/chromium"),
]
CLASSES = ClassSet.of(["sky", "road", "car"], [(10, 20, 200), (90, 90, 90), (200, 0, 50)])
SCORES = {"north": 0.5, "east": 0.25, "south": 0.75, "west": None}


def item(place, name, models):
    truth = np.zeros((6, 8), np.uint8)
    truth[:, 4:] = 1
    truth[0] = 255
    maps = {"truth": label_picture(truth)}
    for model in range(models):
        guess = np.full((6, 8), model, np.uint8)  # the first says sky, the second road
        maps[f"prediction/{model}"] = label_picture(guess)
        maps[f"confidence/{model}"] = heat(np.full((6, 8), 255 * model, np.uint8))
    image = photo(np.full((6, 8, 3), 40 * place, np.uint8))
    classes = {0: 0.1 * place, 1: 0.4 - 0.1 * place} | ({2: 0.9} if name == "south" else {})
    values = {"score": SCORES[name]}
    return GalleryItem(
        name, (6, 8), {"image": image, **maps}, values, classes, facts={"seen": "yes"}
    )


def gallery(models):
    layers = [
        Layer("truth", "truth", "labels"),
        Layer("prediction", "prediction", "labels", by_model=True),
        Layer("error", "error", "error", of=("truth", "prediction")),
        Layer("confidence", "confidence", "heat", by_model=True, invert=True),
    ]
    items = (item(place, name, len(models)) for place, name in enumerate(SCORES))
    sorts = [Sort("score", "score"), Sort("class", "class")]
    return Gallery("images", CLASSES, layers, items, sorts, models)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as tool:
        arguments = ["--headless", "--no-sandbox", "--disable-gpu"]
        chromium = tool.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Open a page of one model or two; what it logs or asks of a network fails the test."""
    wrong = []

    def open_(models=("one",), state="", width=1200):
        rows = [["sky", 61.5, 10], ["road", None, 300], ["car", 7.25, 20]]
        table = Table("classes", ["class", "IoU", "pixels"], rows, {"IoU": 2})
        plot = Plot("losses", "iteration", [1, 2, 3], {"loss": [3.0, 2.0, 1.0]}, log=True)
        matrix = Matrix(
            "confusion", CLASSES.names, {m: [[6, 2, 0], [1, 3, 0], [0, 0, 0]] for m in models}
        )
        path = tmp_path / f"{len(models)}.html"
        write_page(path, "page", [Curves("curves", [plot]), table, matrix, gallery(list(models))])
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: wrong.append(r.url) if r.url.startswith("http") else None)
        page.set_default_timeout(8000)
        page.goto(f"file://{path}#{state}")
        return page

    yield open_
    assert wrong == []


def names(page):
    # all_inner_texts() is empty for cards that are not rendered yet (content-visibility: auto)
    return page.locator(".grid .name").all_text_contents()


def colours(page, canvas, settled=lambda drawn: True):
    """The pixels of a canvas, rows of (r, g, b, alpha), once it is drawn and as expected."""
    page.wait_for_function("selector => document.querySelector(selector).width > 0", arg=canvas)
    for _ in range(50):
        data = page.evaluate(
            """selector => { const shown = document.querySelector(selector);
            const copy = document.createElement('canvas');
            [copy.width, copy.height] = [shown.width, shown.height];
            const context = copy.getContext('2d', {willReadFrequently: true});
            context.drawImage(shown, 0, 0);
            return [...context.getImageData(0, 0, copy.width, copy.height).data]; }""",
            canvas,
        )
        drawn = np.array(data).reshape(6, 8, 4)
        if settled(drawn):
            break
        page.wait_for_timeout(50)
    return drawn


def test_sort_and_filter(opened):
    page = opened()
    assert names(page) == ["east", "north", "south", "west"]  # no score comes last
    page.get_by_role("button", name="lowest first").click()
    assert names(page) == ["south", "north", "east", "west"]
    page.get_by_label("sort by").select_option("class")
    page.get_by_label("class", exact=True).select_option("road")
    assert names(page) == ["north", "east", "south", "west"]  # highest first, as it was
    page.get_by_label("class", exact=True).select_option("car")
    assert names(page) == ["south"]
    assert page.get_by_role("status").last.inner_text() == "1 of 4 images"
    page.get_by_label("class", exact=True).select_option("")
    page.get_by_label("name", exact=True).fill("ST")
    assert sorted(names(page)) == ["east", "west"]


def test_the_address_keeps_what_was_chosen(opened):
    page = opened()
    page.get_by_label("sort by").select_option("name")
    page.get_by_label("name", exact=True).fill("th")
    page.get_by_text("error", exact=True).click()
    page.get_by_role("slider", name="colours").fill("30")
    page.get_by_role("button", name="IoU").click()
    state = page.evaluate("location.hash.slice(1)")
    again = opened(state=state)
    assert names(again) == ["north", "south"]
    assert again.get_by_role("radio", name="error").is_checked()
    assert again.get_by_role("slider", name="colours").input_value() == "30"
    head = again.get_by_role("columnheader", name="IoU")
    assert head.get_attribute("aria-sort") == "descending"
    rows = again.locator("#table tbody th").all_inner_texts()
    assert rows == ["sky", "car", "road"]  # none comes last
    assert opened(state="gallery.sort=nonsense&gallery.opacity=x&gallery.class=%3Cb%3E").locator(
        ".grid li"
    ).count() == len(SCORES)


def test_layers_are_drawn_from_the_class_ids(opened):
    page = opened(state="gallery.layer=truth&gallery.sort=name")
    drawn = colours(page, ".grid canvas")
    assert (drawn[1:, :4] == [10, 20, 200, 255]).all()
    assert (drawn[1:, 4:] == [90, 90, 90, 255]).all()
    assert (drawn[0] == [0, 0, 0, 255]).all()
    page.keyboard.press("4")  # image, truth, prediction, error
    drawn = colours(page, ".grid canvas", lambda drawn: drawn[3, 5, 0] > 200)
    assert (drawn[1:, :4, 3] == 0).all()  # right: the photograph is seen
    assert (drawn[1:, 4:] == [214, 26, 26, 255]).all()


def test_two_models_lie_under_one_slider(opened):
    page = opened(("first", "second"), "gallery.layer=prediction")
    assert (colours(page, ".grid .side-0")[..., :3] == CLASSES.palette[0]).all()
    assert (colours(page, ".grid .side-1")[..., :3] == CLASSES.palette[1]).all()
    slider = page.get_by_role("slider", name="from the left model to the right")
    clip = "getComputedStyle(document.querySelector('.grid .side-1')).clipPath"
    slider.fill("20")
    assert page.evaluate(clip) == "inset(0px 0px 0px 20%)"
    page.keyboard.press(".")
    assert page.evaluate(clip) == "inset(0px 0px 0px 25%)"
    assert "gallery.wipe=25" in page.evaluate("location.hash")
    page.get_by_label("right", exact=True).select_option("first")
    drawn = colours(page, ".grid .side-1", lambda drawn: drawn[0, 0, 0] == CLASSES.palette[0][0])
    assert (drawn[..., :3] == CLASSES.palette[0]).all()


def test_keyboard_and_large_view(opened):
    from playwright.sync_api import expect

    page = opened(state="gallery.sort=name")
    page.get_by_role("button", name="east").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="north")
    assert dialog.get_by_role("slider", name="colours").is_visible()
    assert "gallery.open=north" in page.evaluate("location.hash")
    page.keyboard.press("ArrowRight")
    dialog = page.get_by_role("dialog", name="south")
    box, said = dialog.locator(".stack").bounding_box(), dialog.locator(".said")
    for step in range(50):  # the classes can be told once their pictures are read
        page.mouse.move(box["x"] + 0.75 * box["width"] + step % 2, box["y"] + 0.5 * box["height"])
        if "·" in said.inner_text():
            break
        page.wait_for_timeout(50)
    assert said.inner_text() == "truth: road · prediction: sky"
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="south")).to_be_focused()
    assert page.locator("dialog[open]").count() == 0
    page.keyboard.press("/")
    page.keyboard.type("d4/")  # letters are text in there
    assert page.get_by_label("name", exact=True).input_value() == "d4/"


def test_matrix_tells_the_cell_and_the_theme_turns(opened):
    page = opened()
    page.locator("#matrix tbody td").nth(1).hover()
    said = page.locator("#matrix .said")
    assert said.inner_text() == "25.00 % of sky (2 pixels) is taken for road."
    page.locator("#matrix tbody td").nth(0).focus()
    page.keyboard.press("ArrowDown")
    assert said.inner_text() == "25.00 % of road (1 pixels) is taken for sky."
    back = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(back)
    page.emulate_media(color_scheme="light")
    light = page.evaluate(back)
    assert dark != light
    page.keyboard.press("d")
    page.keyboard.press("d")
    assert page.evaluate(back) == dark
    assert "theme=dark" in page.evaluate("location.hash")


@pytest.mark.parametrize("width", [360, 1200])
def test_everything_has_a_name_and_nothing_sticks_out(opened, width):
    page = opened(("first", "second"), width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, input, select, [role=img], [role=region]")].filter(
        n => !n.getAttribute('aria-label') && !n.textContent.trim() && !(n.labels || []).length)
        .map(n => n.outerHTML)"""
    )
    assert nameless == []
