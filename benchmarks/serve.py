"""A service at saturation: are all answers right and in time, does memory stay, what does HTTP cost?

    python benchmarks/serve.py MODEL FOLDER [--minutes 10] [--clients 4] [--bad 0.1] [--images 40]

``hfgd serve MODEL`` runs in a process of its own; CLIENTS threads send images of FOLDER, as files, one
after the other without a pause, and a share of bad requests among them: no image, a truncated one, one
of 400 megapixels, an empty body, a form without the field. Every answer is looked at: a label PNG has
to be, pixel by pixel, what the labeller says, a bad request its status and a sentence. The labeller
alone, on decoded images, is timed before and after, also in a process of its own. Resident memory is
read every second. Markdown goes to stdout.
"""

import argparse
import http.client
import json
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from hfgd.data.images import images_below, read_image
from hfgd.inference.labeller import InferenceConfig, open_labeller

ALONE = """
import sys, time, json
from hfgd.data.images import read_image
from hfgd.inference.labeller import InferenceConfig, open_labeller
model, seconds, *paths = sys.argv[1:]
label, images = open_labeller(model, InferenceConfig(precision="auto")), [read_image(p) for p in paths]
label(images[0])
done, began = 0, time.perf_counter()
while (passed := time.perf_counter() - began) < float(seconds):
    label(images[done % len(images)])
    done += 1
print(json.dumps(done / passed))
"""


def alone(model, paths, seconds):
    """Images a second of the labeller alone."""
    words = [sys.executable, "-c", ALONE, model, str(seconds), *map(str, paths)]
    return json.loads(subprocess.run(words, check=True, capture_output=True).stdout)


def bomb(side=20_000):
    """A small PNG of 400 megapixels of one bit each."""
    file = BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    return file.getvalue()


def bad_requests(image):
    """(content, content type, the status that it should get)."""
    form = b'--x\r\nContent-Disposition: form-data; name="other"\r\n\r\n1\r\n--x--\r\n'
    return [
        (b"this is no image", "", 415),
        (image[: len(image) // 2], "", 415),
        (bomb(), "", 413),
        (b"", "", 400),
        (form, "multipart/form-data; boundary=x", 400),
    ]


class Client(threading.Thread):
    """Asks without a pause; keeps what it saw."""

    def __init__(self, number, port, good, bad, share, until):
        super().__init__()
        self.random, self.port, self.until = random.Random(number), port, until
        self.good, self.bad, self.share = good, bad, share
        self.seconds, self.refused, self.wrong = [], 0, []

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)
        while time.monotonic() < self.until:
            try:
                self.ask(connection)
            except Exception as error:  # counted as a lost answer
                self.wrong.append(repr(error))
                connection.close()

    def ask(self, connection):
        if self.random.random() < self.share:
            content, kind, wanted = self.random.choice(self.bad)
            connection.request("POST", "/predict", content, {"Content-Type": kind} if kind else {})
            response = connection.getresponse()
            text = response.read()
            if response.status != wanted or not json.loads(text)["detail"]:
                self.wrong.append(f"{response.status} instead of {wanted}: {text[:80]!r}")
            self.refused += 1
            return
        content, labels = self.random.choice(self.good)
        began = time.monotonic()
        connection.request("POST", "/predict", content, {"Accept": "image/png"})
        response = connection.getresponse()
        answer = response.read()
        self.seconds.append(time.monotonic() - began)
        if response.status != 200:
            self.wrong.append(f"{response.status}: {answer[:80]!r}")
        elif not np.array_equal(np.asarray(Image.open(BytesIO(answer))), labels):
            self.wrong.append("other labels than the labeller's")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def started(model, port):
    words = [sys.executable, "-m", "hfgd", "serve", model, "--port", str(port)]
    service = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    for _ in range(600):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                return service
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the service does not answer")


def resident(pid):
    """Megabytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1000


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--bad", type=float, default=0.1, help="share of the requests")
    parser.add_argument("--images", type=int, default=40)
    arguments = parser.parse_args()
    paths = images_below(arguments.folder)[: arguments.images]
    label = open_labeller(arguments.model, InferenceConfig(precision="auto"))
    good = [(path.read_bytes(), label(read_image(path))) for path in paths]
    del label
    rates = [alone(arguments.model, paths, 30)]
    port = free_port()
    service = started(arguments.model, port)
    until = time.monotonic() + 60 * arguments.minutes
    shared = (port, good, bad_requests(good[0][0]), arguments.bad, until)
    clients = [Client(number, *shared) for number in range(arguments.clients)]
    began, memory = time.monotonic(), []
    for client in clients:
        client.start()
    while time.monotonic() < until:
        time.sleep(1)
        memory.append(resident(service.pid))
    for client in clients:
        client.join()
    passed = time.monotonic() - began
    service.terminate()
    code = service.wait(30)
    rates.append(alone(arguments.model, paths, 30))
    show(clients, passed, memory, rates, code, arguments)


def show(clients, passed, memory, rates, code, arguments):
    seconds = sorted(1000 * s for client in clients for s in client.seconds)
    wrong = [w for client in clients for w in client.wrong]
    refused = sum(client.refused for client in clients)
    rate, before = len(seconds) / passed, statistics.mean(rates)
    minute = max(1, min(60, len(memory) // 4))
    quantiles = [seconds[int(q * (len(seconds) - 1))] for q in (0.5, 0.95, 0.99)]
    settings = f"{passed / 60:.1f}, {arguments.clients}, {arguments.bad}"
    second, last = (
        statistics.median(part) for part in (memory[minute : 2 * minute], memory[-minute:])
    )
    rows = {
        "minutes, clients, share of bad requests": settings,
        "images answered": f"{len(seconds):,}",
        "bad requests refused": f"{refused:,}",
        "lost or wrong answers": f"{len(wrong)}",
        "p50, p95, p99 (ms)": ", ".join(f"{q:.0f}" for q in quantiles),
        "images/s, served": f"{rate:.2f}",
        "images/s, the labeller alone (before, after)": ", ".join(f"{r:.2f}" for r in rates),
        "served / alone": f"{rate / before:.2f}",
        "MB resident, median of the second minute and of the last": f"{second:.0f}, {last:.0f}",
        "MB resident at most": f"{max(memory):.0f}",
        "exit code after SIGTERM": str(code),
    }
    print(f"{Path(arguments.model).name}, {arguments.images} images of '{arguments.folder.name}'\n")
    print("| | |\n| --- | ---: |")
    for name, value in rows.items():
        print(f"| {name} | {value} |")
    for each in wrong[:5]:
        print(f"\nwrong: {each}")


if __name__ == "__main__":
    main()
