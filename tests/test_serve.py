"""The service: answers by Accept, limits, refusals; without torch on an exported file."""

import asyncio
import re
import struct
import threading
import zlib
from io import BytesIO

import httpx
import numpy as np
import pytest
from PIL import Image

from hfgd.data.classes import ClassSet
from hfgd.data.prediction import Prediction
from hfgd.serve.app import make_app
from hfgd.serve.limits import Limits

CLASSES = ClassSet.of(["dark", "bright"])


class ByRed:
    """Class 1 where red is above a half; waits for ``go``."""

    classes = CLASSES

    def __init__(self):
        self.go = threading.Event()
        self.go.set()

    def __call__(self, pixels):
        self.go.wait(10)
        return (pixels[..., 0] > 127).astype(np.uint8)


def png(height=5, width=7, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return pixels, file.getvalue()


def bomb(side=20_000):
    """A small PNG of 400 megapixels of one bit each."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    packer, row = zlib.compressobj(9), bytes(1 + side // 8)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", body), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def together(work, limits=None, labeller=None):
    """Run ``work(client)`` against the service."""

    async def inside():
        app = make_app(labeller or ByRed(), limits or Limits(), "toy")
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await work(client)

    return asyncio.run(inside())


def post(content, accept="image/png", limits=None, **request):
    request = request or {"content": content}
    return together(
        lambda client: client.post("/predict", headers={"Accept": accept}, **request), limits
    )


def test_three_answers():
    pixels, file = png()
    labels = (pixels[..., 0] > 127).astype(np.uint8)
    with Image.open(BytesIO(post(file).content)) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), labels)
    overlay = post(file, "image/png;profile=overlay")
    with Image.open(BytesIO(overlay.content)) as picture:
        expected = Prediction(pixels, labels, CLASSES).overlay()
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))
    told = post(file, "application/json").json()
    assert (told["width"], told["height"]) == (7, 5)
    shares = {entry["name"]: entry["share"] for entry in told["classes"]}
    assert shares["bright"] == pytest.approx(labels.mean())
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/html, image/png;q=0.5, application/json;q=0.9", "application/json"),
        ("application/json;q=0, */*;q=0.1", "image/png"),
        ("image/png;profile=overlay;q=0.2, application/json", "application/json"),
        ("application/json, image/png", "application/json"),  # of equals the first
    ],
)
def test_the_answer_that_is_wanted_most(accept, kind):
    assert post(png()[1], accept).headers["content-type"] == kind


def test_multipart_is_the_same():
    _, file = png()
    form = post(None, files={"image": ("x.png", file)})
    assert form.status_code == 200
    assert form.content == post(file).content
    assert post(None, files={"picture": ("x.png", file)}).status_code == 400


def test_refusals():
    _, file = png()
    flood = bomb()
    assert len(flood) < 60_000
    for content, accept, limits, status, words in (
        (flood, "*/*", None, 413, "more than 25,000,000 pixels"),
        (file, "*/*", Limits(pixels=34), 413, "has 35 pixels, and at most 34"),
        (file, "*/*", Limits(bytes=len(file) - 1), 413, "bytes"),
        (b"no image", "*/*", None, 415, "no image of a format"),
        (file, "*/*", Limits(formats=("JPEG",)), 415, "JPEG"),
        (file[:-30], "*/*", None, 415, "broken or truncated"),
        (b"", "*/*", None, 400, "no image"),
        (file, "text/html", None, 406, "application/json"),
        (file, "application/json;q=much", None, 406, "application/json"),
    ):
        answer = post(content, accept, limits)
        assert answer.status_code == status, answer.text
        assert words in answer.json()["detail"]


def test_a_body_without_a_length_is_read_no_further_than_the_limit():
    sent = []

    async def body():
        for _ in range(100):
            sent.append(1)
            yield bytes(10)

    assert post(body(), limits=Limits(bytes=25)).status_code == 413
    assert len(sent) < 100


def test_beyond_the_queue_and_beyond_the_time():
    labeller = ByRed()
    labeller.go.clear()
    _, file = png()

    async def work(client):
        first = [asyncio.create_task(client.post("/predict", content=file)) for _ in range(2)]
        await asyncio.sleep(0.2)
        beyond = await client.post("/predict", content=file)
        labeller.go.set()
        done = [(await task).status_code for task in first]
        after = await client.post("/predict", content=file)
        labeller.go.clear()
        late = await client.post("/predict", content=file)
        labeller.go.set()
        metrics = (await client.get("/metrics")).text
        return beyond, done, after.status_code, late, metrics

    beyond, done, after, late, metrics = together(work, Limits(queue=2, seconds=1.5), labeller)
    assert (beyond.status_code, beyond.headers["Retry-After"]) == (429, "1")
    assert (done, after) == ([200, 200], 200)
    assert late.status_code == 504
    assert 'hfgd_answers_total{status="200"} 3.0' in metrics
    assert 'hfgd_answers_total{status="429"} 1.0' in metrics
    assert "hfgd_in_hand 0.0" in metrics


def test_pages_load_nothing_from_elsewhere():
    async def work(client):
        return [await client.get(path) for path in ("/", "/docs", "/healthz", "/openapi.json")]

    page, docs, health, schema = together(work)
    for text in (page.text, docs.text):
        assert not re.findall(r"""(?:src|href|@import|url\()\s*=?\s*["']?(?:https?:)?//""", text)
    assert "connect-src 'self'" in page.text
    assert health.json()["status"] == "ok"
    assert "/predict" in schema.json()["paths"]
