"""What report.html costs: memory, seconds and size by the number of images, and the page in a browser.

    OMP_NUM_THREADS=1 python benchmarks/report.py memory [--counts 500 2000 10000]
    OMP_NUM_THREADS=1 python benchmarks/report.py open PAGE.html

memory: folders of random streets (64 × 96 pixels: squares on a striped ground) are made, and `hfgd
eval` scores a small network on each, in a process of its own, with the gallery and without it. The
peak is VmHWM of that process, which begins at exec (ru_maxrss would begin with what the parent had).
open: a page in headless Chromium, 1280 and 390 pixels wide: from opening it to the first cards with
their pictures, a sort until the new order is on the screen, and from frame to frame while it scrolls
30 pixels a frame.
Markdown goes to stdout.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
SIZE = (64, 96)
# shards of names, as cameras write them, so that names are as long as real ones
NAME = "street_{:02}_frame_{:06}.png"
EVAL = """
import sys
from pathlib import Path
from hfgd.evaluation.evaluate_model import EvalConfig, evaluate_model
from hfgd.inference.labeller import InferenceConfig
model, data, out, gallery = sys.argv[1:]
what = EvalConfig(data, workers=0, gallery=int(gallery))
evaluate_model(model, what, InferenceConfig(device="cpu"), Path(out))
status = Path("/proc/self/status").read_text()
print(int(status.partition("VmHWM:")[2].split()[0]) / 1000)
"""


def make_folder(folder, count):
    """``count`` images with labels of three classes, and their data.yaml."""
    rng = np.random.default_rng(0)
    ground = np.repeat(np.repeat(rng.integers(0, 2, (8, 12)), 8, 0), 8, 1).astype(np.uint8)
    for kind in ("images", "labels"):
        (folder / kind / "val").mkdir(parents=True)
    for i in range(count):
        label = np.roll(ground, rng.integers(0, 96), axis=1)
        top, left = rng.integers(0, 44), rng.integers(0, 70)
        label[top : top + 20, left : left + 26] = 2
        image = 80 * label[..., None] + rng.integers(0, 70, (*SIZE, 3), dtype=np.uint8)
        name = NAME.format(i % 100, i)
        Image.fromarray(image.astype(np.uint8)).save(folder / "images/val" / name)
        Image.fromarray(label).save(folder / "labels/val" / name)
    yaml = "classes: [ground, stripe, square]\nlabel_map: {0: ground, 1: stripe, 2: square}\n"
    (folder / "data.yaml").write_text(yaml)


def make_model(folder):
    """A network with random weights for the three classes."""
    import torch

    from hfgd.checkpoint import save_model
    from hfgd.data.classes import ClassSet
    from hfgd.model import BackboneSpec, ModelSpec
    from hfgd.model.build import build

    torch.manual_seed(0)
    spec = ModelSpec(backbone=BackboneSpec(name="mobilenetv2_050"), width=16, upsampler="sfpn")
    save_model(build(spec, ClassSet.of(["ground", "stripe", "square"])), folder)


def memory(work, counts):
    model = work / "model"
    make_model(model)
    print("| images | gallery | shown | peak memory, MB | report.html, MB | seconds |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for count in counts:
        data, out = work / "data", work / "out"
        make_folder(data, count)
        for gallery in (0, 500):
            words = [sys.executable, "-c", EVAL, str(model), str(data), str(out), str(gallery)]
            began = time.perf_counter()
            done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True)
            seconds = time.perf_counter() - began
            assert done.returncode == 0, done.stderr[-2000:]
            assert not (out / ".pictures").exists()
            page = (out / "report.html").read_text(encoding="utf-8")
            shown, told = page.count('"layers": {"'), re.search(r"\d+ of \d+ images: [^<]*", page)
            print(
                f"| {count:,} | {'500' if gallery else 'none'} | {shown} "
                f"| {float(done.stdout.split()[-1]):.0f} | {len(page) / 1e6:.2f} | {seconds:.0f} |",
                flush=True,
            )
            shutil.rmtree(out)
        shutil.rmtree(data)
        if told:
            print(f"\nThe page says: {told.group()}\n", flush=True)


# cards are drawn where they are in view, so the page is moved to the first; one is there once its
# photograph is decoded and its labels are drawn
READY = """() => {
  const cards = [...document.querySelectorAll("#gallery .grid li")].slice(0, 4);
  if (cards.length && !cards[0].querySelector("img").src) cards[0].scrollIntoView();
  return cards.length && cards.every((card) => card.querySelector("img").naturalWidth
    && card.querySelector("canvas").width > 0);
}"""
FRAMES = """async (step) => {
  const box = document.scrollingElement, times = [];
  let last = await new Promise(requestAnimationFrame);
  const end = last + 5000;
  while (last < end) {
    box.scrollTop += step;
    const now = await new Promise(requestAnimationFrame);
    times.push(now - last);
    last = now;
  }
  return times;
}"""
# until the frame after the new order is laid out
SORT = """async (order) => {
  const choice = [...document.querySelectorAll("#gallery select")]
    .find((one) => [...one.options].some((option) => option.value === order));
  const began = performance.now();
  choice.value = order;
  choice.dispatchEvent(new Event("change", {bubbles: true}));
  await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return performance.now() - began;
}"""


def open_page(path, rounds=3):
    """Times of a page in Chromium, the median of some rounds, each in a browser of its own."""
    from playwright.sync_api import sync_playwright

    print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB\n")
    print("| width | first cards, s | sort, ms | frame, median ms | 95 % of frames, ms | frames |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for width, height in ((1280, 900), (390, 844)):
        seen = [_opened(sync_playwright, path, width, height) for _ in range(rounds)]
        first, sort = (np.median([one[i] for one in seen]) for i in (0, 1))
        frames = np.concatenate([one[2] for one in seen])
        middle, most = np.percentile(frames, [50, 95])
        print(
            f"| {width} | {first:.2f} | {sort:.0f} | {middle:.0f} | {most:.0f} | {len(frames)} |",
            flush=True,
        )


def _opened(sync_playwright, path, width, height):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": width, "height": height})
        began = time.perf_counter()
        page.goto(path.resolve().as_uri(), wait_until="commit", timeout=120_000)
        page.wait_for_function(READY, timeout=120_000)
        first = time.perf_counter() - began
        page.wait_for_timeout(1500)
        sort = [page.evaluate(SORT, order) for order in ("disagreement", "class", "name", "score")]
        page.locator("#gallery .grid").scroll_into_view_if_needed()
        page.wait_for_timeout(1000)
        frames = page.evaluate(FRAMES, 30)
        browser.close()
    return first, float(np.median(sort)), frames


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["memory", "open"])
    parser.add_argument("page", type=Path, nargs="?", help="report.html of open")
    parser.add_argument("--counts", type=int, nargs="+", default=[500, 2000, 10_000])
    given = parser.parse_args()
    if given.what == "open":
        open_page(given.page)
        return
    with tempfile.TemporaryDirectory() as folder:
        memory(Path(folder), given.counts)


if __name__ == "__main__":
    main()
