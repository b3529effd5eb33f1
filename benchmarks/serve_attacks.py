"""What attacks on the service cost, before and after a change, and what good requests get.

    python benchmarks/serve_attacks.py MODEL FOLDER --before SRC [--memory MODEL ...]

SRC is the folder ``src`` of another checkout. Each version runs as ``hfgd serve MODEL`` with its
default limits, on 127.0.0.1. MODEL should need about half a second for the images of FOLDER.
``--memory``: files of other numbers of classes, each asked for one image of 2 megapixels, and for
the largest square that is still taken. The throughputs are medians of alternating rounds, since the
machine may be shared. Markdown goes to stdout.
"""

import argparse
import contextlib
import http.client
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from io import BytesIO
from pathlib import Path

from PIL import Image

from hfgd.data.images import images_below
from hfgd.export.runtime import read_facts
from serve import free_port, resident

LIMIT, DECODING = 4_000_000_000, 32


class Server:
    """One version of the service, ended at the end."""

    def __init__(self, model, source):
        self.port = free_port()
        words = [sys.executable, "-m", "hfgd", "serve", str(model), "--port", str(self.port)]
        environment = {**os.environ, "PYTHONPATH": str(source)} if source else os.environ
        self.process = subprocess.Popen(
            words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(600):
            try:
                if self.ask("GET", "/healthz", timeout=1)[0] == 200:
                    return
            except OSError:
                time.sleep(0.1)
        raise SystemExit("the service does not answer")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def ask(self, method="POST", path="/predict", content=None, timeout=120):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        connection.request(method, path, content)
        response = connection.getresponse()
        found = response.status, response.read()
        connection.close()
        return found

    def send(self, data):
        connected = socket.create_connection(("127.0.0.1", self.port), timeout=90)
        connected.sendall(data)
        return connected

    def seconds_for(self, *arguments, **options):
        """Status, or the error's name, and seconds."""
        began = time.monotonic()
        try:
            what = str(self.ask(*arguments, **options)[0])
        except OSError as error:
            what = type(error).__name__
        return f"{what} after {time.monotonic() - began:.1f} s"

    @property
    def megabytes(self):
        return resident(self.process.pid)

    def peak(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1000


def head(length):
    return f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode()


def square(side):
    file = BytesIO()
    Image.new("RGB", (side, side), (90, 120, 60)).save(file, "PNG")
    return file.getvalue()


def largest(model):
    """The side of the largest square that the default limits take."""
    facts, side = read_facts(model), 32
    while (
        facts.memory.needed((side + 32, side + 32), facts.grid) + DECODING * (side + 32) ** 2
        <= LIMIT
    ):
        side += 32
    return side


def silent(server, good):
    held = [server.send(b"") for _ in range(200)]
    time.sleep(0.5)
    found = server.seconds_for("GET", "/healthz", timeout=30)
    for each in held:
        each.close()
    return found


def half_sent(server, good):
    before, held = server.megabytes, []
    for _ in range(150):
        each = server.send(head(20_000_000))
        each.settimeout(2)
        with contextlib.suppress(OSError):  # refused and not read
            each.sendall(b"x" * 19_000_000)
        held.append(each)
    grown = server.megabytes - before
    for each in held:
        each.close()
    return f"{grown:.0f} MB more"


def hang_ups(server, good):
    server.ask(content=square(512))
    for _ in range(16):
        server.send(head(len(square(512))) + square(512)).close()
    time.sleep(0.3)
    return server.seconds_for(content=good[0])


def drain(server, good):
    held = server.send(head(1000) + b"x")
    time.sleep(0.3)
    began = time.monotonic()
    server.process.terminate()
    server.process.wait(120)
    held.close()
    return f"ended after {time.monotonic() - began:.1f} s"


def throughput(server, good, seconds=10, clients=4):
    until, done = time.monotonic() + seconds, []

    def client(number):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=90)
        i = number
        while time.monotonic() < until:
            connection.request("POST", "/predict", good[i % len(good)])
            response = connection.getresponse()
            response.read()
            assert response.status == 200
            done.append(1)
            i += 1

    threads = [threading.Thread(target=client, args=(n,)) for n in range(clients)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(done) / (time.monotonic() - began)


def memory_rows(models, versions):
    for model in models:
        side, classes = largest(model), len(read_facts(model).classes)
        for what, pixels in (("2 MP", 1448), (f"{side}×{side}, the largest taken", side)):
            found = []
            for name, source in versions:
                if name == "before" and pixels == side:
                    found.append("no such limit")
                    continue
                with Server(model, source) as server:
                    told = server.seconds_for(content=square(pixels))
                    found.append(
                        f"{told}; {server.peak():.0f} MB at most, {server.megabytes:.0f} kept"
                    )
            row(f"{classes} classes, {what}", found)


def row(name, found):
    print(f"| {name} | {' | '.join(found)} |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--memory", type=Path, nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    good = [path.read_bytes() for path in images_below(arguments.folder)[:20]]
    versions = [("before", arguments.before), ("after", None)]
    print("| | before | after |\n| --- | --- | --- |")
    attacks = {
        "200 silent connections: /healthz": silent,
        "150 half-sent bodies of 19 of 20 MB": half_sent,
        "16 clients that hung up: the next request": hang_ups,
        "SIGTERM with a half-sent body": drain,
    }
    for name, attack in attacks.items():
        found = []
        for _, source in versions:
            with Server(arguments.model, source) as server:
                found.append(attack(server, good))
        row(name, found)
    memory_rows(arguments.memory, versions)
    rates = {name: [] for name, _ in versions}
    for number in range(arguments.rounds):
        for name, source in versions[:: 1 if number % 2 else -1]:
            with Server(arguments.model, source) as server:
                throughput(server, good, 2)
                rates[name].append(throughput(server, good))
    before, after = (statistics.median(each) for each in rates.values())
    row(
        f"images/s, median of {arguments.rounds} alternating rounds",
        [f"{before:.2f}", f"{after:.2f}"],
    )
    pairs = [b / a for a, b in zip(*rates.values(), strict=True)]
    row("after / before, median of the pairs", ["", f"{statistics.median(pairs):.2f}"])


if __name__ == "__main__":
    main()
