"""Strangers before the service: real ``hfgd serve`` processes with their default limits."""

import asyncio
import base64
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from io import BytesIO

import httpx
import pytest
from PIL import Image

from conftest import toy
from hfgd.data.classes import ClassSet
from hfgd.errors import HfgdError
from hfgd.export.wrapper import ExportWrapper
from hfgd.export.write import _label
from hfgd.inference.torch_labeller import NetworkLabeller
from hfgd.model.memory import inference_memory
from hfgd.serve.access import Access
from hfgd.serve.app import make_app
from hfgd.serve.limits import Limits, usual_memory
from hfgd.serve.limits import Memory as Share
from hfgd.types import Grid, Memory
from served import Server, everything, head, picture, plain, write_model

SLOW = 700  # side of an image that takes about a second


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("served") / "toy.onnx")


@pytest.fixture(scope="module")
def server(model):
    with Server(model) as server:
        yield server
        assert server.ask()[0] == 200
        code, err, _ = server.stop()
    assert (code, err) == (-15, "")


@pytest.fixture(autouse=True)
def _still_serving(request):
    yield
    if "server" in request.fixturenames:
        served = request.getfixturevalue("server")
        assert served.ask()[0] == 200
        assert served.predict(picture())[0] == 200


# ---- memory ------------------------------------------------------------------------------------


def test_small_files_with_large_images_are_refused_before_they_are_decoded(server):
    server.predict(picture())
    before = server.memory("VmHWM")
    memory = "MB in this model, and at most 4,000 MB are given"
    for height, width, kind, words in (
        (7000, 3500, "WEBP", memory),
        (1, 200_000, "PNG", "a side of 200,000 pixels, and at most 20,000"),
        (2_000_000, 1, "PNG", "a side of 2,000,000 pixels"),
    ):
        content = plain(height, width, kind)
        began = time.monotonic()
        status, _, body = server.predict(content)
        assert (status, time.monotonic() - began < 10) == (413, True)
        assert words in json.loads(body)["detail"]
    assert server.memory("VmHWM") - before < 20


@pytest.mark.parametrize("classes", [5, 59, 250])
def test_the_memory_at_the_limit_whatever_the_classes(tmp_path, classes):
    memory = Memory(700 + 12.0 * classes)
    model = write_model(tmp_path / "toy.onnx", classes, memory=memory)
    with Server(model, "--max-memory", 300) as server:
        server.predict(picture())
        before = server.memory()
        side = int((300e6 / (memory.pixel + 33)) ** 0.5) // 32 * 32
        assert server.predict(plain(side, side))[0] == 200
        assert server.memory("VmHWM") < before + 300
        assert server.memory() < before + 300 / 8 + 40  # given back
        assert server.predict(plain(side + 64, side + 64))[0] == 413


def test_memory_is_counted_with_the_padding():
    thin, square = (1, 200_000), (447, 447)
    needed = [Memory(100.0).needed(size, Grid.CORNERS) for size in (thin, square)]
    assert needed[0] == 100 * 33 * 200_033 - 100 * 33 * (200_033 - 200_001)
    assert needed[0] > 28 * needed[1]


def test_the_counted_memory_is_that_of_the_tensors():
    """Against sums by hand: a network of two layers, and attention between all pixels."""
    import torch
    from torch import nn

    class Two(nn.Module):
        def forward(self, x):
            a = x.float().repeat(1, 4, 1, 1)  # 12 + 48 bytes a pixel
            return a.mean(1, keepdim=True) + 1

    class Attention(nn.Module):
        def forward(self, x):
            q = x[:, :1].float().flatten(2).transpose(1, 2)
            return torch.nn.functional.scaled_dot_product_attention(q, q, q)

    def counted(network, fused):
        return inference_memory(network, lambda n, x: n(x), Grid.CELLS, 0, fused)

    assert counted(Two(), True).pixel == pytest.approx(1.2 * (12 + 48))
    assert counted(Attention(), False).square == pytest.approx(1.2 * 2 * 4, rel=0.01)
    assert counted(Attention(), True).square == pytest.approx(0, abs=1e-9)
    assert counted(nn.Conv2d(7, 1, 1), True) == Memory.guess(0)  # does not run


MEASURE = """
import sys, numpy as np
from hfgd.inference.labeller import InferenceConfig, open_labeller
def held(key):
    return int(open("/proc/self/status").read().partition(key + ":")[2].split()[0]) * 1024
label = open_labeller(sys.argv[1], InferenceConfig(precision="auto"))
label(np.zeros((64, 64, 3), np.uint8))
height, width = map(int, sys.argv[2:])
image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
before = held("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
label(image)
print(held("VmHWM") - before, label.memory().needed((height, width), label.grid))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "onnx"])
def test_real_memory_is_no_more_than_what_is_counted(tmp_path, kind):
    network = toy(19, axial_attention=True, upsampler="u_sfpn").eval()
    path = tmp_path / ("model" if kind == "folder" else "model.onnx")
    if kind == "folder":
        network.save(path)
    else:
        network.export(path)
    for size in ((900, 1100), (40, 12_000)):  # 40 MB: strips of scores, whatever the image
        words = [sys.executable, "-c", MEASURE, str(path), *map(str, size)]
        real, counted = map(int, subprocess.check_output(words).split())
        assert 0.2 * counted < real < 1.05 * counted + 40e6, (size, real, counted)


def test_exported_files_and_networks_say_what_they_need():
    network = toy(5)
    whole = inference_memory(ExportWrapper(network), _label, network.grid, 5, fused=False)
    folder = NetworkLabeller(network).memory()
    assert 20 < folder.pixel < whole.pixel < 1000


def test_memory_is_shared_first_come_first_served():
    share, order = Share(10), []
    first = threading.Event()

    def worker(name, needed):
        with share.share(needed):
            order.append(name)
            if name == "first":
                first.wait(10)

    threads = []
    for name, needed in (("first", 6), ("large", 10), ("small", 1)):
        threads.append(threading.Thread(target=worker, args=(name, needed)))
        threads[-1].start()
        time.sleep(0.05)
    assert order == ["first"]  # the small one does not overtake
    first.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first", "large", "small"]


def test_the_usual_memory():
    assert 0 < usual_memory(1) <= 4_000_000_000
    assert usual_memory(2) <= 4_000_000_000
    assert usual_memory(1000) < usual_memory(1)


class Failing:
    classes = ClassSet.of(["a", "b"])

    def __init__(self, error):
        self.error = error

    def __call__(self, pixels):
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 413, "memory"),
        (RuntimeError("CUDA out of memory."), 413, "scale it down"),
        (MemoryError(), 413, "not enough memory"),
        (HfgdError("'/home/me/secret.onnx' cannot label this."), 422, "48×64"),
    ],
)
def test_what_a_model_cannot_do_is_the_requests_status(error, status, words):
    async def work():
        transport = httpx.ASGITransport(make_app(Failing(error), Limits(), "toy"))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.post("/predict", content=picture())

    answer = asyncio.run(work())
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert "secret" not in answer.text


def test_a_file_for_one_size_refuses_others_with_a_sentence(tmp_path):
    model = write_model(tmp_path / "toy.onnx", size=(48, 64))
    with Server(model) as server:
        assert server.predict(picture(48, 64))[0] == 200
        status, _, body = server.predict(picture(64, 65))
        assert status == 422
        assert (
            "takes images of 48×64 (height × width) only, not 64×65" in json.loads(body)["detail"]
        )
        assert server.predict(picture(64, 48))[0] == 422  # fits only if EXIF turned it
        _, err, _ = server.stop()
    assert "Traceback" not in err


# ---- slow and silent clients -------------------------------------------------------------------


def test_silent_connections_block_nobody(server):
    silent = [server.connect(b"GET / HT" if i % 2 else b"") for i in range(200)]
    began = time.monotonic()
    assert server.ask()[0] == 200
    assert server.predict(picture())[0] == 200
    assert time.monotonic() - began < 10
    for each in silent:
        each.close()


@pytest.mark.slow
def test_silent_and_dripping_connections_are_closed(server):
    kinds = {
        "silent": b"",
        "half a header": b"GET / HTTP/1.1\r\nHo",
        "between requests": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "the rest of a refused body": head(10**12) + b"x" * 1000,
    }
    connected = {name: server.connect(data) for name, data in kinds.items()}
    dripping, ended = server.connect(b"GET / HTTP/1.1\r\n"), threading.Event()

    def drip():
        with contextlib.suppress(OSError):
            while not ended.wait(1):
                dripping.sendall(b"X-A: b\r\n")

    threading.Thread(target=drip, daemon=True).start()
    connected["dripping"] = dripping
    began = time.monotonic()
    for name, each in connected.items():
        everything(each)  # returns when the server closes
        assert time.monotonic() - began < 25, name
    ended.set()


def test_half_sent_bodies_hold_no_memory_and_are_given_up(server):
    before, body = server.memory(), b"x" * 300_000
    sending = [server.connect() for _ in range(150)]
    for each in sending:
        each.setblocking(False)
        with contextlib.suppress(BlockingIOError, OSError):
            each.send(head(20_000_000) + body)
    assert server.ask()[0] == 200
    assert server.memory() - before < 100
    # in time for those that were sending: 16 places, and everybody else was refused at once
    answers = []
    for each in sending:
        each.settimeout(30)
        answers.append(each.recv(12))
    assert answers.count(b"HTTP/1.1 408") == 16
    assert answers.count(b"HTTP/1.1 429") == 134
    assert server.predict(picture())[0] == 200
    for each in sending:
        each.close()


def test_a_body_that_drips_is_given_up(server):
    each = server.connect(head(1000))
    began = time.monotonic()
    each.settimeout(0.5)
    found = b""
    while not found and time.monotonic() - began < 30:
        with contextlib.suppress(TimeoutError):
            each.sendall(b"x")
            found = each.recv(12)
    assert found == b"HTTP/1.1 408"


def test_clients_that_hang_up_are_not_computed(server):
    content = picture(SLOW, SLOW, "JPEG")
    began = time.monotonic()
    server.predict(content)
    one = time.monotonic() - began
    for _ in range(16):
        server.connect(head(len(content)) + content).close()
    time.sleep(0.2)
    began = time.monotonic()
    assert server.predict(picture())[0] == 200
    assert time.monotonic() - began < 6 * one + 1  # 16 without the mend
    assert b"hfgd_in_hand 0.0" in server.ask("GET", "/metrics")[2]


def test_a_client_that_does_not_read_its_answer(server):
    lazy = []
    for _ in range(4):
        each = socket.socket()
        each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        each.connect((server.host, server.port))
        content = picture(300, 400)
        accept = "Accept: image/png;profile=overlay\r\n"
        each.sendall(head(len(content), accept) + content)
        lazy.append(each)
    time.sleep(0.5)
    assert server.predict(picture())[0] == 200
    for each in lazy:
        each.close()


# ---- the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "bound"),
    [(("--drain", "2"), 12), pytest.param((), 20, marks=pytest.mark.slow)],
)
def test_sigterm_finishes_answers_and_waits_for_no_body(model, words, bound):
    with Server(model, *words) as server:
        half = server.connect(head(1000) + b"x")
        silent, refused = server.connect(), server.connect(head(10**12) + b"x")
        content, found = picture(SLOW, SLOW, "JPEG"), []
        asking = threading.Thread(target=lambda: found.append(server.predict(content)[0]))
        asking.start()
        time.sleep(0.3)
        code, err, took = server.stop()
        asking.join(30)
    assert found == [200]
    assert (code, took < bound) == (-15, True)
    assert "Traceback" not in err
    for each in (half, silent, refused):
        each.close()


def test_two_processes_end_together(model):
    with Server(model, "--workers", 2, "--drain", 2) as server:
        assert server.predict(picture())[0] == 200  # waits in the backlog until they are there
        assert server.ask(headers={"Host": "evil.example"})[0] == 421
        half = server.connect(head(1000) + b"x")
        _, err, took = server.stop()
        half.close()
    assert "Traceback" not in err
    assert took < 30


# ---- addresses ---------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_a_sentence_and_no_address_is_printed(model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        words = [sys.executable, "-m", "hfgd", "serve", str(model), "--port"]
        words.append(str(taken.getsockname()[1]))
        done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot listen on 127.0.0.1" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_of_ipv6_has_brackets_and_answers_at_once(model):
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    with Server(model, host="::1") as server:
        assert server.line.startswith(f"http://[::1]:{server.port}/")
        assert server.ask()[0] == 200
        assert server.stop()[1] == ""


def test_beyond_the_loopback_without_a_key_is_said(model):
    with Server(model, host="0.0.0.0") as server:
        server.host = "127.0.0.1"
        assert server.ask()[0] == 200
        assert "give --api-key" in server.stop()[1]
    with Server(model, host="0.0.0.0", environment={"HFGD_API_KEY": "k3y"}) as server:
        server.host = "127.0.0.1"
        assert server.ask()[0] == 200
        assert server.predict(picture())[0] == 401
        assert server.predict(picture(), **{"X-API-Key": "k3y"})[0] == 200
        assert server.stop()[1] == ""


@pytest.mark.parametrize("path", ["/", "/docs", "/healthz", "/metrics", "/openapi.json"])
def test_head_is_get_without_a_body(server, path):
    status, headers, body = server.ask("HEAD", path)
    assert (status, body) == (200, b"")
    assert path == "/metrics" or headers["content-length"] == str(len(server.ask("GET", path)[2]))
    assert server.ask("HEAD", "/predict")[0] == 405


# ---- who may ask -------------------------------------------------------------------------------


def statuses(access, requests):
    """The status of each (method, path, headers)."""

    async def work():
        app = make_app(Failing(MemoryError()), Limits(), "toy", access=access)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return [
                await client.request(method, path, headers=headers)
                for method, path, headers in requests
            ]

    return asyncio.run(work())


@pytest.mark.parametrize("path", ["/", "/docs", "/healthz", "/metrics", "/openapi.json", "/none"])
def test_foreign_pages_ask_for_nothing(path):
    asked = [
        ("GET", path, {"Host": "evil.example"}),
        ("GET", path, {"Host": "evil.example:8000"}),
        ("GET", path, {"Host": "127.0.0.1.evil.example"}),
        ("GET", path, {"Host": "evil@localhost"}),
        ("GET", path, {"Host": "[::1"}),
        ("GET", path, {"Host": "localhost:8000", "Origin": "https://evil.example"}),
        ("GET", path, {"Host": "localhost:8000", "Origin": "http://localhost:3000"}),
        ("GET", path, {"Host": "localhost:8000", "Origin": "null"}),
        ("HEAD", path, {"Host": "evil.example"}),
        ("OPTIONS", path, {"Origin": "https://evil.example"}),
    ]
    answers = statuses(Access("127.0.0.1"), asked)
    assert [a.status_code for a in answers] == [421] * 5 + [403] * 3 + [421, 403]
    for answer in answers:
        assert "access-control-allow-origin" not in answer.headers
    fine = [
        ("GET", path, {"Host": host, **origin})
        for host, origin in (
            ("localhost:8000", {"Origin": "http://localhost:8000"}),
            ("127.0.0.1:8000", {}),
            ("[::1]:8000", {"Origin": "http://[::1]:8000"}),
            ("LOCALHOST", {"Origin": "https://localhost"}),  # a proxy that has TLS
            (f"{socket.gethostname()}:8000", {}),
        )
    ]
    wanted = 404 if path == "/none" else 200
    assert [a.status_code for a in statuses(Access("127.0.0.1"), fine)] == [wanted] * 5


def test_a_page_that_is_allowed():
    access = Access("127.0.0.1", ("https://street.example",))
    page = {"Origin": "https://street.example"}
    first = {**page, "Access-Control-Request-Method": "POST"}
    asked = [
        ("POST", "/predict", page),
        ("OPTIONS", "/predict", {**first, "Access-Control-Request-Headers": "x-api-key"}),
        ("GET", "/healthz", {"Host": "street.example", **page}),  # a proxy passes the name on
        ("GET", "/healthz", {"Origin": "https://street.example.evil"}),
    ]
    answers = statuses(access, asked)
    assert [a.status_code for a in answers] == [400, 200, 200, 403]
    for answer in answers[:3]:
        assert answer.headers["access-control-allow-origin"] == "https://street.example"
    everybody = statuses(Access(origins=("*",)), [("GET", "/", {"Origin": "https://x.example"})])
    assert everybody[0].headers["access-control-allow-origin"] == "*"


def test_a_key_is_wanted_of_everybody_but_the_health_check():
    basic = base64.b64encode(b"me:k3y").decode()
    keys = [
        {},
        {"X-API-Key": "wrong"},
        {"X-API-Key": ""},
        {"Authorization": "Bearer k3"},
        {"Authorization": "Basic !!!"},
        {"X-API-Key": "k3y"},
        {"Authorization": "Bearer k3y"},
        {"Authorization": f"Basic {basic}"},
    ]
    for path in ("/", "/docs", "/metrics", "/openapi.json", "/none"):
        answers = statuses(Access(key="k3y"), [("GET", path, headers) for headers in keys])
        assert [a.status_code for a in answers[:5]] == [401] * 5
        assert "WWW-Authenticate" in answers[0].headers
        assert {a.status_code for a in answers[5:]} == {404 if path == "/none" else 200}
    health, foreign = statuses(
        Access(key="k3y"), [("GET", "/healthz", {}), ("GET", "/", {"Host": "evil.example"})]
    )
    assert (health.status_code, foreign.status_code) == (200, 421)


@pytest.mark.parametrize(
    "wrong", [{"origins": ("example.org",)}, {"origins": ("https://a/b",)}, {"key": ""}]
)
def test_settings_that_cannot_be(wrong):
    with pytest.raises(HfgdError, match=r"--allow-origin|--api-key"):
        Access(**wrong)


# ---- odd requests ------------------------------------------------------------------------------


def odd_requests():
    image = picture()
    form = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    kind = "Content-Type: multipart/form-data; boundary=x\r\n"
    get = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    chunked = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    size = b"%x\r\n" % len(image)
    return {
        "two at once": (2 * (head(len(image)) + image), [200, 200]),
        "many at once": (20 * (get + b"\r\n"), [200] * 20),
        "chunked": (chunked + b"\r\n" + size + image + b"\r\n0\r\n\r\n", [200]),
        "a wrong chunk": (chunked + b"\r\nzz\r\n", None),
        "a huge chunk": (chunked + b"\r\nffffffffffffffff\r\n" + 1000 * b"x", None),
        "both lengths": (chunked + b"Content-Length: 5\r\n\r\n5\r\n12345\r\n0\r\n\r\n", None),
        "a length too short": (head(len(image) // 2) + image, [415, 400]),
        "no number": (
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
            [400],
        ),
        "negative": (
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
            [400],
        ),
        "5,000 digits": (head(int("9" * 4000)) + b"x", [400]),
        "expect": (head(len(image), "Expect: 100-continue\r\n") + image, [100, 200]),
        "expect too much": (head(10**9, "Expect: 100-continue\r\n"), [413]),
        "a huge header": (get + b"X: " + 2_000_000 * b"y" + b"\r\n\r\n", [400]),
        "many headers": (get + 2000 * b"X-A: b\r\n" + b"\r\n", None),
        "many parameters": (
            b"GET /healthz?" + 5000 * b"a&" + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            [421],
        ),
        "a form without an end": (head(len(form + image), kind) + form + image, None),
        "a form of nothing": (head(0, kind), [400]),
        "no boundary": (head(3, "Content-Type: multipart/form-data\r\n") + b"abc", [400]),
        "many fields": (head(40 * len(form), kind) + 40 * form, [400]),
        "half boundaries": (head(1_000_000, kind) + 250_000 * b"\r\n--", [400]),
        "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", [400]),
        "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", [400]),
        "two hosts": (get + b"Host: evil.example\r\n\r\n", [400]),
        "an old browser": (b"GET /healthz HTTP/1.0\r\n\r\n", [200]),
        "a socket": (get + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", None),
        "a method": (b"BREW /predict HTTP/1.1\r\nHost: localhost\r\n\r\n", [405]),
        "a path": (b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", [404]),
        "not UTF-8": (b"GET /%ff%fe HTTP/1.1\r\nHost: localhost\r\n\r\n", [404]),
    }


@pytest.mark.parametrize("name", odd_requests())
def test_odd_requests_get_a_status(server, name):
    data, wanted = odd_requests()[name]
    each = server.connect(timeout=1)
    with contextlib.suppress(OSError):
        each.sendall(data)
    found, until = b"", time.monotonic() + 20
    while time.monotonic() < until and found.count(b"HTTP/1.1 ") < len(wanted or [0]):
        try:
            part = each.recv(65536)
        except TimeoutError:
            if wanted is None:
                break
            continue
        except OSError:
            break
        if not part:
            break
        found += part
    each.close()
    seen = [int(part[:3]) for part in found.split(b"HTTP/1.1 ")[1:]]
    assert all(status < 500 for status in seen)
    assert wanted is None or seen == wanted


def test_pillows_warnings_stay_out_of_the_log(model):
    image = Image.new("P", (64, 48))
    image.putpalette([i % 256 for i in range(768)])
    file = BytesIO()
    image.save(file, "PNG", transparency=bytes(range(256)))  # "should be converted to RGBA"
    jpeg = BytesIO()
    Image.new("RGB", (64, 48)).save(
        jpeg, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + 40 * b"\x01"
    )
    with Server(model) as server:
        assert server.predict(file.getvalue())[0] == 200
        assert server.predict(jpeg.getvalue())[0] in (200, 415)
        assert server.stop()[1] == ""
