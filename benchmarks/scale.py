"""Many images: throughput against the Labeller alone, memory, restarts, and what a worker more gives.

    OMP_NUM_THREADS=1 python benchmarks/scale.py [--short] [--parts ways workers stages …]

Every way runs as its own processes with one thread each; its rate is taken between the first and the
last label map that it wrote (Ray: from what more images take longer), so that opening a model is not in
it. 'Alone' is the Labeller in a loop
over pixels that are already decoded, in as many processes as the way has. Ways take turns with
'alone', whose rate before and after is averaged. Weights are random, which times are not sensitive
to. Memory: a labeller that costs nothing, 8 × 8 pixels, without fsync and overlays. Markdown goes to
stdout; on a quiet machine the whole takes about an hour, the mosaic a third.
"""

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
from PIL import Image

CORES = len(os.sched_getaffinity(0))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
RECIPE, CLASSES, SIZE = "hfgd_mobilenetv2", 19, (360, 480)
EXAMPLE = Path(__file__).parents[1] / "examples" / "ray_predict.py"

ALONE = """
import sys, time
import numpy as np
from hfgd.inference.labeller import InferenceConfig, open_labeller
labeller = open_labeller(sys.argv[1], InferenceConfig(device="cpu"))
pixels = np.random.default_rng(0).integers(0, 256, ({}, {}, 3), dtype=np.uint8)
labeller(pixels)
print("ready", flush=True)
sys.stdin.readline()
count, began = 0, time.perf_counter()
while time.perf_counter() - began < float(sys.argv[2]):
    labeller(pixels)
    count += 1
print(count / (time.perf_counter() - began))
""".format(*SIZE)

MEMORY = """
import os, sys
import numpy as np
from pathlib import Path
from hfgd.data.classes import ClassSet
from hfgd.inference.protocol import Protocol
from hfgd.inference.labeller import InferenceConfig
from hfgd.predict import run as running
from hfgd.predict.large_files import LargeFileConfig
class Free:
    branch, precision, classes, protocol = "fine", "fp32", ClassSet.of(["a", "b"]), Protocol()
    gives_scores = False
    def __call__(self, pixels):
        return np.zeros(pixels.shape[:2], np.uint8)
running.open_labeller = lambda path, how: Free()
os.fsync = lambda file: None
extent = LargeFileConfig(overlays=False)
how = InferenceConfig()
outcome = running.predict_files(sys.argv[1], [sys.argv[2]], sys.argv[3], how, extent=extent)
assert outcome.done == int(sys.argv[4]), outcome.failed[:1]
status = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1000)
"""


def photos(folder, count):
    """Smooth noise as JPEGs: decoded at the cost of a photo."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(count):
        small = rng.integers(0, 256, (SIZE[0] // 8, SIZE[1] // 8, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize(SIZE[::-1], Image.Resampling.BICUBIC)
        image.save(folder / f"{i:05}.jpg", quality=90)
    return folder


def hfgd(*words):
    return [sys.executable, "-m", "hfgd", *map(str, words)]


def call(words):
    done = subprocess.run(
        words, env=ENVIRONMENT, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr[-2000:]


def alone(model, processes, seconds):
    """Images a second of the Labeller in a loop, all processes together."""
    words = [sys.executable, "-c", ALONE, str(model), str(seconds)]
    started = [
        subprocess.Popen(
            words, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(processes)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in started)


def rate(out):
    """Label maps a second between the first and the last."""
    times = sorted(path.stat().st_mtime for path in (out / "labels").rglob("*.png"))
    return (len(times) - 1) / (times[-1] - times[0])


def seconds_of(command, folder, out):
    """From the start of a command on this folder to its end."""
    began = time.perf_counter()
    call([*(str(folder) if word == "FOLDER" else word for word in command), str(out)])
    shutil.rmtree(out)
    return time.perf_counter() - began


def ways(work, model, short, only=""):
    count, seconds, rounds = (24, 4, 1) if short else (80, 12, 2)
    folder = photos(work / "photos", count)
    few = count // 4  # Ray's labels come in bursts: its rate is that of the images beyond these
    part = photos(work / "few", few)
    tar = work / "photos.tar"
    with tarfile.open(tar, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)
    shards = [work / f"photos-{i}.tar" for i in range(4)]
    for i, shard in enumerate(shards):
        with tarfile.open(shard, "w") as archive:
            for path in sorted(folder.iterdir())[i::4]:
                archive.add(path, path.name)
    two = min(2, CORES)
    commands = {
        "folder": (1, hfgd("predict", model, folder, "--out")),
        "tar": (1, hfgd("predict", model, tar, "--out")),
        "4 WebDataset shards, one process": (1, hfgd("predict", model, *shards, "--out")),
        f"folder, --devices {two}": (
            two,
            hfgd("predict", model, folder, "--devices", two, "--out"),
        ),
        f"no overlays, folder, --devices {two}": (
            two,
            hfgd("predict", model, folder, "--no-overlays", "--devices", two, "--out"),
        ),
        f"Ray, {two} workers": (
            two,
            [sys.executable, str(EXAMPLE), str(model), "FOLDER", "--workers", str(two), "--out"],
        ),
    }
    print("| way | processes | Labeller alone, images/s | the way, images/s | ratio | least |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, (processes, command) in commands.items():
        if not name.startswith(only):
            continue
        found = []
        before = alone(model, processes, seconds)
        for _ in range(rounds):
            out = work / "out"
            if name.startswith("Ray"):
                own = (count - few) / (
                    seconds_of(command, folder, out) - seconds_of(command, part, out)
                )
            else:
                call([*command, str(out)])
                own = rate(out)
                shutil.rmtree(out)
            after = alone(model, processes, seconds)
            found.append(((before + after) / 2, own))
            before = after
        ratios = [own / base for base, own in found]
        base, own = np.mean(found, axis=0)
        print(
            f"| {name} | {processes} | {base:.2f} | {own:.2f} | {np.mean(ratios):.2f} "
            f"| {min(ratios):.2f} |",
            flush=True,
        )


def workers(work, model, short):
    """1, 2 and 4 workers against the model of docs/scale.md: rate = min(workers, cores) · rate of 1."""
    folder = photos(work / "many", 24 if short else 80)
    print("| workers | images/s | model | measured / model |\n| ---: | ---: | ---: | ---: |")
    one = None
    for count in (1, 2, 4):
        out = work / "workers"
        call(hfgd("predict", model, folder, "--devices", count, "--out", out))
        found = rate(out)
        shutil.rmtree(out)
        one = one or found
        expected = one * min(count, CORES)
        print(f"| {count} | {found:.2f} | {expected:.2f} | {found / expected:.2f} |", flush=True)


def stages(work, model, short):
    """Milliseconds of processor time and bytes of an image in each stage, one after the other, in this
    process: other programs hardly move them. The wait for a disk is not in them."""
    import torch

    from hfgd.data.images import read_image
    from hfgd.data.prediction import Prediction
    from hfgd.inference.confidence import label
    from hfgd.inference.labeller import InferenceConfig, open_labeller
    from hfgd.predict.storage import Folder
    from hfgd.predict.writer import save_png

    torch.set_num_threads(1)
    paths = sorted(photos(work / "stages", 8 if short else 30).iterdir())
    labeller, place = (
        open_labeller(str(model), InferenceConfig(device="cpu")),
        Folder(work / "written"),
    )
    labeller(read_image(paths[0]))
    names = ["decode", "network, labels alone", "network, with confidence", "overlay", "label map"]
    spent = {name: [] for name in names}

    def timed(name, work, *arguments):
        began = time.process_time()
        result = work(*arguments)
        spent[name].append(1000 * (time.process_time() - began))
        return result

    for i, path in enumerate(paths):
        pixels = timed("decode", read_image, path)
        timed("network, labels alone", labeller, pixels)
        labels = timed("network, with confidence", label, labeller, pixels).labels
        result = Prediction(pixels, labels, labeller.classes)
        timed("overlay", lambda i=i, r=result: save_png(
            r.overlay(), place, f"overlays/{i}.png", compress_level=1))  # fmt: skip
        timed(
            "label map", lambda i=i, r=result: save_png(r.label_image(), place, f"labels/{i}.png")
        )
    print("| stage | ms of one core an image |\n| --- | ---: |")
    for name in names:
        print(f"| {name} | {np.median(spent[name]):.1f} |")

    def size(files):
        files = list(files)
        return sum(path.stat().st_size for path in files) / len(files) / 1000

    written = Path(place.root)
    print(
        f"\nkB an image: {size(paths):.0f} in, {size((written / 'labels').iterdir()):.0f} label map, "
        f"{size((written / 'overlays').iterdir()):.0f} overlay."
    )


def memory(work, model, short):
    print("| images | peak memory, MB | seconds |\n| ---: | ---: | ---: |")
    for count in (1000, 5000, 20_000) if short else (1000, 10_000, 100_000):
        folder = work / "tiny"
        pixels = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
        (folder / "0").mkdir(parents=True)
        pixels.save(folder / "one.png")
        data = (folder / "one.png").read_bytes()
        (folder / "one.png").unlink()
        for i in range(count):
            if i % 1000 == 0:
                (folder / f"{i // 1000}").mkdir(exist_ok=True)
            (folder / f"{i // 1000}/{i:06}.png").write_bytes(data)
        words = [sys.executable, "-c", MEMORY, str(model), str(folder), str(work / "o"), str(count)]
        began = time.perf_counter()
        done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        seconds = time.perf_counter() - began
        print(f"| {count:,} | {float(done.stdout.split()[-1]):.0f} | {seconds:.0f} |", flush=True)
        for name in ("tiny", "o"):
            shutil.rmtree(work / name)


def restart(work, model, short):
    """SIGKILL in the middle: the work since the last label map is what has to be done again."""
    folder = photos(work / "restart", 24 if short else 60)
    out = work / "killed"
    command = hfgd("predict", model, folder, "--out", out)
    total = len(list(folder.iterdir()))
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    while len(list((out / "labels").glob("*.png"))) < total // 2:
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(0.5)
    killed = time.time()
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = list((out / "labels").glob("*.png"))
    lost = killed - max(path.stat().st_mtime for path in there)
    own = 1 / rate(out)
    times = {path: path.stat().st_mtime_ns for path in there}
    call(command)
    kept = all(path.stat().st_mtime_ns == at for path, at in times.items())
    print(
        f"Killed with {len(there)} of {total} label maps written, {lost:.2f} s after the last one: "
        f"at most {lost + 5 * own:.1f} s of work had to be repeated (what was under way, and up to "
        f"five finished images that waited to be written, {own:.2f} s each). "
        f"Written before and kept: {'all' if kept else 'NOT ALL'}."
    )
    assert kept


PRESSURE = """
import sys, time
from pathlib import Path
import numpy as np
import ray
count, work, store = int(sys.argv[1]), Path(sys.argv[2]), 300_000_000
ray.init(num_cpus=4, object_store_memory=store, include_dashboard=False, log_to_driver=False)
def read(row):
    (work / f"read-{row['id']}").touch()
    return {"id": row["id"], "pixels": np.full((720, 960, 3), row["id"] % 255, np.uint8)}
class Slow:
    def __call__(self, batch):
        time.sleep(0.05 * len(batch["id"]))
        for number in batch["id"]:
            (work / f"done-{number}").touch()
        return {"id": batch["id"]}
# another share of a core than the workers', or Ray runs both steps in one process
rows = ray.data.range(count, override_num_blocks=count // 8).map(read, num_cpus=0.5)
pool = ray.data.ActorPoolStrategy(size=1)
found = rows.map_batches(Slow, batch_size=8, compute=pool, num_cpus=1).take_all()
assert sorted(row["id"] for row in found) == list(range(count))
steps = {"read": 1, "done": -1}
times = sorted((p.stat().st_mtime_ns, steps[p.name[:4]]) for p in work.iterdir())
ahead = max(np.cumsum([step for _, step in times]))
size = 720 * 960 * 3 / 1e6
spilled = sum(p.stat().st_size for p in Path("/tmp/ray/session_latest").rglob("*spill*/*"))
print(f"| {count} | {count * size:.0f} | {ahead} | {ahead * size:.0f} | {spilled / 1e6:.0f} |")
"""


def pressure(work, model, short):
    """Ray Data with a worker of 20 images a second, which reading outruns: how far it gets ahead."""
    print("| images | MB, decoded | read ahead at most | MB of a store of 300 | MB on disk |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for count in (200,) if short else (400, 1000):
        folder = work / f"pressure-{count}"
        folder.mkdir()
        words = [sys.executable, "-c", PRESSURE, str(count), str(folder)]
        done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        print(done.stdout.splitlines()[-1], flush=True)


LARGE = """
import sys
from pathlib import Path
from hfgd.inference.labeller import InferenceConfig
from hfgd.predict import run as running
from hfgd.predict.large_files import LargeFileConfig
{cheap}
how, extent = InferenceConfig(), LargeFileConfig(1024)
outcome = running.predict_files(sys.argv[1], [sys.argv[2]], sys.argv[3], how, extent=extent)
assert outcome.done == 1, outcome.failed
status = Path("/proc/self/status").read_text()
print(int(status.partition("VmHWM:")[2].split()[0]) / 1000)
"""
# a network that costs next to nothing, with scores of as many classes
CHEAP = f"""
import torch
from hfgd.data.classes import ClassSet
from hfgd.types import Grid
from hfgd.inference.protocol import Protocol
class Cheap:
    branch, precision, protocol, grid = "fine", "fp32", Protocol(), Grid.CORNERS
    classes, slopes = ClassSet.numbered({CLASSES}), torch.linspace(-1, 1, {CLASSES})
    def reduced(self, image, reduce):
        grey = image[0].float()[..., None] / 128 - 1
        scores = self.slopes * grey - self.slopes**2  # (height, width, classes)
        return reduce(slice(0, image.shape[1]), scores)
running.open_labeller = lambda path, how: Cheap()
"""


def tiff(work, model, short, side=12_000, cheap=""):
    """A large TIFF on one core: peak memory and seconds."""
    import rasterio

    side = 3000 if short else side
    path = work / f"{side}.tif"
    rng = np.random.default_rng(0)
    options = {"driver": "GTiff", "height": side, "width": side, "count": 3, "dtype": "uint8"}
    with rasterio.open(
        path, "w", tiled=True, compress="deflate", BIGTIFF="IF_SAFER", **options
    ) as f:
        for top in range(0, side, 1024):
            height = min(1024, side - top)
            small = Image.fromarray(rng.integers(0, 256, (height // 8 + 1, side // 8, 3), np.uint8))
            strip = np.array(small.resize((side, height), Image.Resampling.BICUBIC))
            f.write(strip.transpose(2, 0, 1), window=((top, top + height), (0, side)))
    code = LARGE.format(cheap=cheap)
    began = time.perf_counter()
    words = [sys.executable, "-c", code, str(model), str(path), str(work / f"tiles-{side}")]
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    seconds = time.perf_counter() - began
    print(
        f"{side:,} × {side:,}: {float(done.stdout.split()[-1]):.0f} MB at most, {seconds:.0f} s, "
        "one core.",
        flush=True,
    )


def mosaic(work, model, short):
    """Up to 900 megapixels, with a network that costs next to nothing: what the rest of it holds."""
    for side in (3000, 10_000) if short else (3000, 10_000, 30_000):
        tiff(work, model, False, side, CHEAP)


def seams(work, model, short):
    """An image whole and by tiles: the share of pixels whose label differs where tiles meet (the
    overlap is mixed there), and elsewhere."""
    import torch

    from hfgd.inference.labeller import InferenceConfig, open_labeller
    from hfgd.predict.tiles import choose_tiles, label_tiles

    torch.set_num_threads(1)
    labeller = open_labeller(str(model), InferenceConfig(device="cpu"))
    side = 1100
    small = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    image = np.array(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))
    whole = labeller(image)
    print("| tiles | overlap | changed in the bands where tiles meet, % | elsewhere, % |")
    print("| ---: | ---: | ---: | ---: |")
    for tile in (384, 768):
        tiles = choose_tiles(CLASSES, labeller.grid, tile)
        labels = np.zeros_like(whole)

        def read(top, left, height, width):
            return np.ascontiguousarray(image[top : top + height, left : left + width])

        for block in label_tiles(labeller, (side, side), read, tiles):
            height, width = block.labels.shape
            labels[block.top : block.top + height, block.left : block.left + width] = block.labels
        place = np.arange(side)
        # weights are mixed between a cell's border and the overlap behind it
        near = (place >= tiles.cell) & ((place % tiles.cell) < tiles.overlap)
        band = near[:, None] | near[None, :]
        changed = labels != whole
        print(
            f"| {tiles.side} | {tiles.overlap} | {100 * changed[band].mean():.2f} "
            f"| {100 * changed[~band].mean():.2f} |",
            flush=True,
        )


PARTS = {
    f.__name__: f for f in (ways, pressure, workers, stages, memory, restart, tiff, mosaic, seams)
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="few images, one round")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--way", default="", help="of the ways, those that begin so")
    given = parser.parse_args()
    import torch

    import hfgd as package

    print(
        f"{RECIPE}, {CLASSES} classes, {SIZE[0]} × {SIZE[1]}; {platform.machine()}, {CORES} cores, "
    )
    print(f"no GPU; {date.today()}{'; the short version' if given.short else ''}\n")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model = package.create(RECIPE, num_classes=CLASSES).save(work / "model")
        for name in given.parts:
            print(f"\n## {name}\n", flush=True)
            began = time.perf_counter()
            PARTS[name](work, model, given.short, *([given.way] if name == "ways" else []))
            print(f"\n({name}: {time.perf_counter() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
