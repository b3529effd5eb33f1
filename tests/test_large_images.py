"""TIFFs by windows, films by frames: against the whole image, against what was put in."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hfgd.data.classes import ClassSet
from hfgd.inference.protocol import Protocol
from hfgd.inference.torch_labeller import NetworkLabeller
from hfgd.model import SegOutput
from hfgd.predict import run as running
from hfgd.predict.manifest import merge
from hfgd.predict.tiles import Tiles, choose_tiles, label_tiles
from hfgd.types import Frame, Grid

ABC = ClassSet.of(["a", "b", "c"])


class Local(nn.Module):
    """A network that looks at 13 × 13 pixels around each sample of stride 4."""

    classes = ABC
    config = None

    def __init__(self, grid=Grid.CORNERS):
        super().__init__()
        self.grid = grid
        corners = grid is Grid.CORNERS
        torch.manual_seed(1)
        self.first = nn.Conv2d(3, 8, 5 if corners else 4, 4, padding=2 if corners else 0)
        self.second = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, image, all_branches=None):
        size = (image.shape[-2], image.shape[-1])
        frame = Frame(size, self.grid.padded(size), self.grid)
        below, right = (a - b for a, b in zip(frame.padded, size, strict=True))
        x = nn.functional.pad(image - 0.5, (0, right, 0, below))
        return SegOutput(self.second(self.first(x).relu()), None, None, None, None, frame)


def smooth(height, width):
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("length", [1, 100, 321, 322, 353, 600, 1000, 1153])
@pytest.mark.parametrize("extra", [0, 1])
def test_tiles_share_every_pixel_once(length, extra):
    tiles = Tiles(256, 64, extra)
    total = np.zeros(length)
    for start in tiles.starts(length):
        share = tiles.weights(start, length)
        assert len(share) <= tiles.side
        total[start : start + len(share)] += share
    np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize("grid", Grid)
def test_tiles_of_a_local_network_are_the_whole_image(grid):
    """Its context is inside the overlap's first quarter, so that labels are the same to rounding."""
    image = smooth(700, 600)
    labeller = NetworkLabeller(Local(grid))
    whole = labeller(image)
    assert len(np.unique(whole)) > 1
    tiles = choose_tiles(3, grid, 256)
    assert (tiles.side, len(tiles.starts(700))) == (320 + tiles.extra, 3)
    seen = np.zeros((700, 600), dtype=int)
    labels = np.zeros((700, 600), dtype=np.uint8)

    def read(top, left, height, width):
        assert max(height, width) <= tiles.side
        return np.ascontiguousarray(image[top : top + height, left : left + width])

    for block in label_tiles(labeller, (700, 600), read, tiles):
        where = np.s_[block.top :, block.left :]
        height, width = block.labels.shape
        labels[where][:height, :width] = block.labels
        seen[where][:height, :width] += 1
    assert (seen == 1).all()
    assert (labels != whole).mean() < 1e-5


@pytest.fixture
def local(monkeypatch, tmp_path):
    """``hfgd predict`` with the local network, wherever a model is asked for."""
    from conftest import toy
    from hfgd.model.build import build

    labeller = NetworkLabeller(Local())
    monkeypatch.setattr(running, "open_labeller", lambda path, how: labeller)
    path = build(toy(width=16).config.model, ABC).save(tmp_path / "model")
    return path, labeller


def write_tiff(path, image, **more):
    import rasterio

    height, width = image.shape[:2]
    options = {"driver": "GTiff", "height": height, "width": width, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", **{**options, **more}) as file:
        file.write(image.transpose(2, 0, 1))


def test_a_geotiff_keeps_its_place_and_palette(run, local, tmp_path):
    import rasterio
    from rasterio.transform import from_origin

    model, labeller = local
    image = smooth(600, 520)
    image[:300, :100] = 0
    place = {"crs": "EPSG:32632", "transform": from_origin(500000, 5400000, 0.2, 0.2)}
    (tmp_path / "in").mkdir()
    write_tiff(tmp_path / "in/map.tif", image, nodata=0, tiled=True, BIGTIFF="YES", **place)
    words = ["predict", model, tmp_path / "in", "--out", tmp_path / "out", "--tile", "256"]
    code, _, err = run(*words)
    assert code == 0, err
    with rasterio.open(tmp_path / "out/labels/map.tif") as file:
        labels = file.read(1)
        assert file.crs.to_epsg() == 32632
        assert file.transform == place["transform"]
        assert file.block_shapes == [(256, 256)]
        assert file.compression.name == "deflate"
        assert [file.colormap(1)[i][:3] for i in range(3)] == list(ABC.palette)
        assert file.nodata == 255
    empty = (image == 0).all(-1)
    assert empty[:300, :100].all()
    assert (labels[empty] == 255).all()
    assert (labels[~empty] != labeller(image)[~empty]).mean() < 1e-5
    with Image.open(tmp_path / "out/overlays/map.png") as overlay:
        assert overlay.width == 520
    import pyarrow.parquet as pq

    (row,) = pq.read_table(tmp_path / "out/manifest.parquet").to_pylist()
    assert (row["label"], row["height"], row["width"]) == ("map.tif", 600, 520)
    assert [row[f"pixels.{n}"] for n in "abc"] == [int((labels == i).sum()) for i in range(3)]
    before = (tmp_path / "out/labels/map.tif").stat().st_mtime_ns
    assert "1 had been before" in run(*words)[1]
    assert (tmp_path / "out/labels/map.tif").stat().st_mtime_ns == before
    assert merge(tmp_path / "out").labels == 1


def test_channels_in_pages_and_one_channel(run, local, tmp_path):
    """As OME-TIFF has them: a page for each channel; and a grey picture."""
    model, labeller = local
    image = smooth(330, 300)
    (tmp_path / "in").mkdir()
    pages = [Image.fromarray(np.ascontiguousarray(image[..., i])) for i in range(3)]
    told = '<?xml version="1.0"?><OME><Image><Pixels SizeC="3" SizeX="300"/></Image></OME>'
    pages[0].save(
        tmp_path / "in/cells.ome.tif", save_all=True, append_images=pages[1:], tiffinfo={270: told}
    )
    pages[0].save(tmp_path / "in/grey.tif")
    deep = np.full((300, 300), 1000, dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "in/deep.tif")
    (tmp_path / "in/cut.tif").write_bytes((tmp_path / "in/grey.tif").read_bytes()[:5000])
    words = ["predict", model, tmp_path / "in", "--out", tmp_path / "out", "--tile", "256"]
    code, _, err = run(*words)
    assert code == 1
    assert "deep.tif' has other than 8 bits a channel (uint16)" in err
    assert "cut.tif' is broken or truncated" in err
    for name, wanted in (("cells.ome", image), ("grey", image[..., :1].repeat(3, 2))):
        labels = np.array(Image.open(tmp_path / f"out/labels/{name}.tif"))
        assert (labels != labeller(np.ascontiguousarray(wanted))).mean() < 1e-4


# ---- memory: the window's, not the image's --------------------------------------------------------

MEASURE = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_large_images import Local
from hfgd.inference.torch_labeller import NetworkLabeller
from hfgd.inference.labeller import InferenceConfig
from hfgd.predict import run as running
from hfgd.predict.large_files import LargeFileConfig
import torch
torch.set_num_threads(1)
labeller = NetworkLabeller(Local())
running.open_labeller = lambda path, how: labeller
extent = LargeFileConfig(1024)
result = running.predict_files({model!r}, [{image!r}], {out!r}, InferenceConfig(), extent=extent)
assert result.done == 1, result.failed
# not ru_maxrss: that starts at what the process that started this one held
status = Path("/proc/self/status").read_text()
print(int(status.partition("VmHWM:")[2].split()[0]) * 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_height(local, tmp_path):
    """Twice the pixels, 72 MB more, and memory as before: a band of tiles is held, and GDAL's cache."""
    import rasterio

    peaks = []
    for number, size in enumerate(((6000, 3000), (14000, 3000))):
        path = tmp_path / f"{number}.tif"
        options = {"driver": "GTiff", "height": size[0], "width": size[1], "count": 3}
        row = smooth(512, size[1])
        with rasterio.open(
            path, "w", dtype="uint8", tiled=True, compress="deflate", **options
        ) as f:
            for top in range(0, size[0], 512):
                height = min(512, size[0] - top)
                f.write(row[:height].transpose(2, 0, 1), window=((top, top + height), (0, size[1])))
        code = MEASURE.format(
            tests=str(__file__).rpartition("/")[0],
            model=str(local[0]),
            image=str(path),
            out=str(tmp_path / f"out{number}"),
        )
        # large blocks go back to the system at once: holes in the heap are tens of megabytes of chance
        env = os.environ | {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, check=True, capture_output=True, env=env)
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 30_000_000
    assert max(peaks) < 2_000_000_000


# ---- films ---------------------------------------------------------------------------------------

TIMES = [0, 40, 80, 200, 210, 400, 440, 480, 900, 940, 1000, 1040]  # milliseconds: no constant rate


def write_film(path, sound=True):
    from fractions import Fraction

    import av

    with av.open(str(path), "w") as sink:
        pictures = sink.add_stream("libx264", rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        pictures.codec_context.time_base = pictures.time_base = Fraction(1, 1000)
        pictures.options = {"crf": "1", "bf": "2"}
        voice = sink.add_stream("aac", rate=16000) if sound else None
        for i, at in enumerate(TIMES):
            pixels = np.full((48, 64, 3), 20 * i, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 1000)
            sink.mux(pictures.encode(frame))
        sink.mux(pictures.encode())
        if voice is not None:
            wave = np.sin(np.arange(17 * 1024) / 10).astype(np.float32)
            for start in range(0, len(wave), 1024):
                piece = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], "fltp", "mono")
                piece.sample_rate, piece.pts = 16000, start
                piece.time_base = Fraction(1, 16000)
                sink.mux(voice.encode(piece))
            sink.mux(voice.encode())


def film_facts(path):
    """Times and mean brightness of the pictures, and the bytes of the sound."""
    import av

    with av.open(str(path)) as file:
        times = [(round(1000 * float(f.time)), f.to_ndarray(format="rgb24").mean())
                 for f in file.decode(video=0)]  # fmt: skip
    with av.open(str(path)) as file:
        sound = [bytes(p) for p in file.demux() if p.stream.type == "audio" and p.size]
    return [t for t, _ in times], [value for _, value in times], sound


class Bright:
    """Class 1 where a picture is bright, 0 elsewhere; counts its calls."""

    branch, precision, classes, protocol = "fine", "fp32", ABC, Protocol()
    gives_scores, calibrated_on = False, None

    def __init__(self):
        self.calls = 0

    def __call__(self, pixels):
        self.calls += 1
        return (pixels[..., 0] > 110).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_film_keeps_its_times_and_its_sound(run, local, tmp_path, monkeypatch, suffix):
    labeller = Bright()
    monkeypatch.setattr(running, "open_labeller", lambda path, how: labeller)
    write_film(tmp_path / f"clip.{suffix}")
    words = ["predict", local[0], tmp_path / f"clip.{suffix}", "--out", tmp_path / "out"]
    code, _, err = run(*words, "--opacity", "0")
    assert code == 0, err
    before, after = (film_facts(p) for p in (words[2], tmp_path / f"out/overlays/clip.{suffix}"))
    assert before[0] == TIMES
    assert after[0] == TIMES
    np.testing.assert_allclose(after[1], before[1], atol=6)
    assert before[2]
    assert after[2] == before[2]
    frames = sorted((tmp_path / "out/labels/clip").iterdir())
    assert [path.name for path in frames] == [f"{i:06}.png" for i in range(12)]
    for i, path in enumerate(frames):
        assert (np.array(Image.open(path)) == (20 * i > 110)).all()
    calls = labeller.calls
    assert run(*words, "--opacity", "0")[0] == 0
    assert labeller.calls == calls  # it is there
    (tmp_path / f"out/overlays/clip.{suffix}").unlink()
    frames[5].unlink()
    assert run(*words, "--opacity", "0")[0] == 0
    assert labeller.calls == calls + 1  # the frames that are there are not labelled again
    assert film_facts(tmp_path / f"out/overlays/clip.{suffix}") == after


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_a_film_of_a_turned_camera(run, local, tmp_path, monkeypatch, degrees):
    """Labelled and shown upright: what a player shows of the film, its matrix applied."""
    import av

    monkeypatch.setattr(running, "open_labeller", lambda path, how: Bright())
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:20, :30] = 200
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as sink:
        pictures = sink.add_stream("libx264", rate=25)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        pictures.options = {"crf": "1"}
        pictures.set_display_rotation(degrees)
        for _ in range(3):
            sink.mux(pictures.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        sink.mux(pictures.encode())
    code, _, err = run("predict", local[0], path, "--out", tmp_path / "out", "--opacity", "0")
    assert code == 0, err
    # counterclockwise, as FFmpeg counts the degrees
    upright = np.array(Image.fromarray(pixels).rotate(degrees, expand=True))
    label = np.array(Image.open(tmp_path / "out/labels/clip/000002.png"))
    assert label.shape == upright.shape[:2]
    assert (label != (upright[..., 0] > 110)).mean() < 0.02
    with av.open(str(tmp_path / "out/overlays/clip.mp4")) as film:
        frame = next(film.decode(video=0))
        assert frame.rotation == 0
        shown = frame.to_ndarray(format="rgb24")
    assert np.abs(shown.astype(int) - upright).mean() < 6


def test_every_nth_frame_of_a_film_and_a_broken_one(run, local, tmp_path, monkeypatch):
    labeller = Bright()
    monkeypatch.setattr(running, "open_labeller", lambda path, how: labeller)
    write_film(tmp_path / "clip.mp4", sound=False)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "clip.mp4").read_bytes()[:300])
    words = ["predict", local[0], tmp_path / "clip.mp4", tmp_path / "cut.mp4", "--every", "5"]
    code, _, err = run(*words, "--out", tmp_path / "out")
    assert code == 1
    assert f"film '{tmp_path / 'cut.mp4'}' is broken" in err
    frames = sorted(path.name for path in (tmp_path / "out/labels/clip").iterdir())
    assert frames == ["000000.png", "000005.png", "000010.png"]
    assert labeller.calls == 3
    assert film_facts(tmp_path / "out/overlays/clip.mp4")[0] == TIMES
    assert not list((tmp_path / "out").rglob(".*.part"))
