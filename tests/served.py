"""A small ONNX model without torch, and ``hfgd serve`` as its user starts it."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from hfgd.export.metadata import Facts
from hfgd.types import Grid, Memory

LAYERS, WIDTH = 6, 32  # about a second for a megapixel on one core


def write_model(path: Path, classes: int = 2, size=None, memory=None) -> Path:
    """Convolutions that cost time, and class 1 where red is above a half."""
    rng = np.random.default_rng(0)

    def weight(name, *shape):
        return numpy_helper.from_array(rng.normal(size=shape).astype(np.float32) / 100, name)

    nodes = [helper.make_node("Cast", ["image"], ["x0"], to=TensorProto.FLOAT)]
    weights = []
    for i in range(LAYERS):
        weights.append(weight(f"w{i}", WIDTH, WIDTH if i else 3, 3, 3))
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], pads=[1, 1, 1, 1]))
    scores = np.zeros((classes, 3, 1, 1), dtype=np.float32)
    scores[1, 0] = 1
    weights += [numpy_helper.from_array(scores, "scores"), weight("none", classes, WIDTH, 1, 1)]
    bias = np.full(classes, -1e9, dtype=np.float32)
    bias[:2] = 127.5, 0
    weights += [
        numpy_helper.from_array(bias, "bias"),
        numpy_helper.from_array(np.zeros(1, np.float32), "zero"),
    ]
    nodes += [
        helper.make_node("Conv", [f"x{LAYERS}", "none"], ["cost"]),
        helper.make_node("Mul", ["cost", "zero"], ["nothing"]),
        helper.make_node("Conv", ["x0", "scores", "bias"], ["red"]),
        helper.make_node("Add", ["red", "nothing"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["best"], axis=1, keepdims=0),
        helper.make_node("Cast", ["best"], ["labels"], to=TensorProto.UINT8),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 3, "h", "w"])
    labels = helper.make_tensor_value_info("labels", TensorProto.UINT8, ["n", "h", "w"])
    graph = helper.make_graph(nodes, "toy", [image], [labels], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    facts = Facts(
        version="0",
        name="toy",
        classes=tuple(f"class {i}" for i in range(classes)),
        palette=tuple((i % 256, 7 * i % 256, 99) for i in range(classes)),
        grid=Grid.CELLS,
        size=size,
        crop=(64, 64),
        memory=memory or Memory(700.0),
        mean=(0.5, 0.5, 0.5),
    )
    helper.set_model_props(model, facts.as_properties())
    onnx.save(model, path)
    return path


def picture(height=48, width=64, kind="PNG", **options) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def plain(height, width, kind="PNG") -> bytes:
    """A file of few bytes and many pixels."""
    file = BytesIO()
    Image.new("RGB", (width, height), (200, 0, 0)).save(file, kind, quality=1)
    return file.getvalue()


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """``hfgd serve MODEL …`` in a process group of its own, ended with all its processes."""

    def __init__(self, model, *words, host="127.0.0.1", environment=None):
        self.port, self.host = free_port(), host
        self.words = [sys.executable, "-m", "hfgd", "serve", str(model), "--host", host]
        self.words += ["--port", str(self.port), *map(str, words)]
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}

    def __enter__(self):
        self.process = subprocess.Popen(
            self.words,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.line = self.process.stdout.readline()
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def stop(self, seconds: float = 60) -> tuple[int, str, float]:
        """SIGTERM: exit code, stderr, seconds that it took; nothing of the group is left."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        _, err = self.process.communicate(timeout=seconds)
        took = time.monotonic() - began
        until = time.monotonic() + 10
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < until:  # multiprocessing's tracker ends a moment later
                os.killpg(self.process.pid, 0)
                time.sleep(0.05)
            raise AssertionError("a process is left")
        return self.process.returncode, err, took

    def ask(self, method="GET", path="/healthz", content=None, headers=None, timeout=60):
        """(status, headers, body)."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        connection.request(method, path, content, headers or {})
        response = connection.getresponse()
        found = response.status, dict(response.getheaders()), response.read()
        connection.close()
        return found

    def predict(self, content, timeout=60, **headers):
        return self.ask("POST", "/predict", content, headers, timeout)

    def connect(self, data: bytes = b"", timeout=60) -> socket.socket:
        connected = socket.create_connection((self.host, self.port), timeout=timeout)
        connected.sendall(data)
        return connected

    def memory(self, key="VmRSS") -> float:
        """MB of the process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{key}:")[2].split()[0]) / 1000


def head(length: int, more: str = "") -> bytes:
    """The headers of a POST whose body has a length."""
    return (
        f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{more}\r\n"
    ).encode()


def everything(connected: socket.socket) -> bytes:
    """What comes until the server closes."""
    found = b""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        while part := connected.recv(65536):
            found += part
    return found
