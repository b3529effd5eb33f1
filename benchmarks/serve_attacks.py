"""What hostile clients cost the service: memory, seconds, and whether it still answers.

    python benchmarks/serve_attacks.py [--src FOLDER] [--only memory silent halves hangups drain]

Starts ``hfgd serve`` with default limits on random networks (`hfgd_mobilenetv2` with 5, 59 and 250
classes) and plays each attack against 127.0.0.1. ``--src``: the ``src`` folder of another checkout
whose service is measured, for a table of before and after. Markdown goes to stdout.
"""

import argparse
import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

from PIL import Image

CLASSES = (5, 59, 250)
SILENT, HALVES, HANGUPS = 200, 150, 16
SENT = 10_000_000  # bytes of each body of 20 MB that arrive


class Service:
    """``hfgd serve`` in a process of its own, as a user starts it."""

    def __init__(self, model, src):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        environment = {**os.environ, "OMP_NUM_THREADS": "2"}
        environment |= {"PYTHONPATH": str(src)} if src else {}
        words = [sys.executable, "-c", "from hfgd.cli import main; main()", "serve", str(model)]
        self.process = subprocess.Popen(
            [*words, "--port", str(self.port)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while self.ask("GET", "/healthz")[0] != 200:
            time.sleep(0.2)

    def __enter__(self):
        return self

    def __exit__(self, *what):
        self.process.kill()
        self.process.wait()

    def ask(self, verb, path, body=None, timeout=120):
        """Status (0: no answer) and seconds."""
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(verb, path, body)
            response = connection.getresponse()
            response.read()
            return response.status, time.monotonic() - began
        except OSError:
            return 0, time.monotonic() - began
        finally:
            connection.close()

    def megabytes(self, key):
        """``VmHWM``, the peak, or ``VmRSS``, what is held now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{key}:")[2].split()[0]) // 1000

    def half(self, sent):
        """A connection that has sent a part of a body of 20 MB."""
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.settimeout(5)
        head = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 20000000\r\n\r\n"
        with contextlib.suppress(OSError):  # refused, or not read
            connection.sendall(head.encode() + bytes(sent))
        return connection


def picture(height, width, kind="PNG"):
    file = BytesIO()
    Image.new("RGB", (width, height), (90, 120, 60)).save(file, kind)
    return file.getvalue()


def memory(models, src):
    files = {
        "24.5 megapixels in a WebP": picture(4900, 5000, "WEBP"),
        "1 × 200,000 PNG": picture(1, 200_000),
        "2 megapixels": picture(1250, 1600),
    }
    for classes, model in models.items():
        for name, content in files.items():
            with Service(model, src) as service:
                status, seconds = service.ask("POST", "/predict", content)
                peak = service.megabytes("VmHWM")
                yield f"{name}, {classes} classes", f"{status}, {seconds:.1f} s, {peak:,} MB"


def silent(models, src):
    with Service(models[5], src) as service:
        held = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(SILENT)]
        time.sleep(2)
        status, seconds = service.ask("GET", "/healthz")
        yield f"/healthz beside {SILENT} silent connections", f"{status}, {seconds:.1f} s"
        status, seconds = service.ask("POST", "/predict", picture(48, 64))
        yield f"an image beside {SILENT} silent connections", f"{status}, {seconds:.1f} s"
        for connection in held:
            connection.close()


def halves(models, src):
    with Service(models[5], src) as service:
        before = service.megabytes("VmRSS")
        held = [service.half(SENT) for _ in range(HALVES)]
        time.sleep(2)
        more = service.megabytes("VmRSS") - before
        yield f"memory for {HALVES} half-sent bodies", f"{more:,} MB"
        for connection in held:
            connection.close()


def hangups(models, src):
    content = picture(700, 900)
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n\r\n"
    with Service(models[59], src) as service:
        service.ask("POST", "/predict", content)
        for _ in range(HANGUPS):
            connection = socket.create_connection(("127.0.0.1", service.port))
            connection.sendall(head.encode() + content)
            connection.close()
        began = time.monotonic()
        while service.ask("POST", "/predict", picture(48, 64))[0] != 200:
            time.sleep(0.05)
        passed = time.monotonic() - began
        yield f"the first answer after {HANGUPS} clients that hung up", f"{passed:.1f} s"


def drain(models, src):
    with Service(models[5], src) as service:
        connection = service.half(1000)
        time.sleep(1)
        began = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        try:
            code = service.process.wait(90)
        except subprocess.TimeoutExpired:
            code = "none"
        yield (
            "SIGTERM with one half-sent body",
            f"{time.monotonic() - began:.1f} s, exit code {code}",
        )
        connection.close()


ATTACKS = {f.__name__: f for f in (memory, silent, halves, hangups, drain)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--src", type=Path)
    parser.add_argument("--only", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    arguments = parser.parse_args()
    import hfgd

    with tempfile.TemporaryDirectory() as folder:
        models = {}
        for classes in CLASSES:
            models[classes] = Path(folder) / f"model{classes}"
            hfgd.create("hfgd_mobilenetv2", num_classes=classes).save(models[classes])
        print("| attack | what came of it |\n| --- | ---: |", flush=True)
        for name in arguments.only:
            for what, result in ATTACKS[name](models, arguments.src):
                print(f"| {what} | {result} |", flush=True)


if __name__ == "__main__":
    main()
