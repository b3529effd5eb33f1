"""Many images without an engine: shares, kills, merging, archives, lists, addresses, faults."""

import csv
import io
import os
import signal
import sys
import tarfile
import threading
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from conftest import check_same_files, toy
from hfgd.data.classes import ClassSet
from hfgd.errors import HfgdError
from hfgd.inference.protocol import Protocol
from hfgd.model.build import build
from hfgd.predict import find_images, merge, parse_shard
from hfgd.predict import run as running
from hfgd.predict import storage as places_module
from hfgd.predict.shards import Shard
from processes import Command, finished

ABC = ClassSet.of(["a", "b", "c"])


class Plain:
    """A labeller whose labels are known: the red channel modulo 3."""

    branch, precision, classes, protocol = "fine", "fp32", ABC, Protocol()
    gives_scores, calibrated_on = False, None

    def __init__(self, *rest):
        self.seen = []

    def __call__(self, pixels):
        self.seen.append(int(pixels[0, 0, 2]))
        return pixels[..., 0] % 3


@pytest.fixture
def plain(monkeypatch):
    labeller = Plain()
    monkeypatch.setattr(running, "open_labeller", lambda path, how: labeller)
    return labeller


@pytest.fixture
def model(tmp_path):
    return build(toy(width=16).config.model, ABC).save(tmp_path / "model")


def pixels_of(i):
    pixels = np.random.default_rng(i).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    pixels[0, 0, 2] = i
    return pixels


def png(i):
    file = io.BytesIO()
    Image.fromarray(pixels_of(i)).save(file, "PNG")
    return file.getvalue()


NAMES = [f"{'abc'[i % 3]}/{i:02}.png" for i in range(20)]


@pytest.fixture
def pictures(tmp_path):
    for i, name in enumerate(NAMES):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(png(i))
    return tmp_path / "in"


def tree(out):
    """What lies in labels and overlays, and what has failed, byte for byte."""
    files = [p for p in out.rglob("*") if p.is_file() and "parts" not in p.parts]
    return {
        p.relative_to(out).as_posix(): p.read_bytes()
        for p in files
        if p.suffix != ".parquet" and p.name != "manifest.csv"
    }


def rows(out):
    import pyarrow.parquet as pq

    return pq.read_table(out / "manifest.parquet").to_pylist()


def but_time(out):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows(out)]


def labels_below(out):
    return sorted(p.relative_to(out / "labels").as_posix() for p in (out / "labels").rglob("*.png"))


def check_labels(out, names=NAMES, start=0):
    assert labels_below(out) == sorted(names)
    for i, name in enumerate(names, start):
        assert np.array_equal(np.array(Image.open(out / "labels" / name)), pixels_of(i)[..., 0] % 3)


# ---- shares --------------------------------------------------------------------------------------


def test_a_share_is_a_matter_of_the_path_alone():
    paths = [f"folder/{i}.png" for i in range(3000)]
    for count in (1, 2, 3, 7):
        owners = [[i for i in range(count) if Shard(i, count).owns(p)] for p in paths]
        assert all(len(owner) == 1 for owner in owners)
        sizes = np.bincount([owner[0] for owner in owners], minlength=count)
        assert sizes.min() > 0.8 * len(paths) / count
    # it must not change with versions: shares of one work may run under several
    assert [Shard(0, 3).owns(f"{i}.png") for i in range(8)] == FIRST_OF_THREE
    for text in ("0/3", "4/3", "1", "a/b", "1/0", "-1/3"):
        with pytest.raises(HfgdError, match="--shard takes i/n"):
            parse_shard(text)
    assert parse_shard("3/3") == Shard(2, 3)


FIRST_OF_THREE = [False, True, False, False, True, False, False, False]


def test_three_shares_with_a_broken_image_are_one_run(run, model, pictures, tmp_path):
    (pictures / "broken.jpg").write_bytes(b"\xff\xd8 no JPEG")
    words = ["predict", model, pictures, "--precision", "fp32", "--out"]
    assert run(*words, tmp_path / "one")[0] == 1
    codes = [run(*words, tmp_path / "three", "--shard", f"{i}/3")[0] for i in (3, 1)]
    assert sorted(codes) in ([0, 0], [0, 1])
    code, _, err = run("predict", "--merge", tmp_path / "three")
    assert code == 1
    assert "not ended: 2/3" in err
    run(*words, tmp_path / "three", "--shard", "2/3")
    code, out, err = run("predict", "--merge", tmp_path / "three")
    assert (code, "20 label maps" in out) == (1, True)
    assert "1 could not be labelled" in err
    assert "not ended" not in err
    check_same_files(tree(tmp_path / "one"), tree(tmp_path / "three"))
    assert but_time(tmp_path / "one") == but_time(tmp_path / "three")
    failed = list(csv.reader((tmp_path / "one/failed.csv").open()))
    assert failed[0] == ["path", "reason"]
    assert [path for path, _ in failed[1:]] == [str(pictures / "broken.jpg")]


def test_the_manifest_counts_what_lies_in_the_label_maps(run, model, pictures, tmp_path):
    words = ("--precision", "fp32")  # not auto: that is bf16 where the CPU has it
    assert run("predict", model, pictures, "--out", tmp_path / "out", *words)[0] == 0
    found = rows(tmp_path / "out")
    assert [row["label"] for row in found] == sorted(NAMES)
    import torch

    import hfgd

    network = hfgd.load(model).eval()
    for row in found:
        labels = np.array(Image.open(tmp_path / "out/labels" / row["label"]))
        assert (row["height"], row["width"]) == labels.shape
        counts = [int((labels == k).sum()) for k in range(3)]
        assert [row[f"pixels.{name}"] for name in "abc"] == counts
        assert row["path"] == str(pictures / row["label"])
        assert row["seconds"] > 0
        image = torch.from_numpy(np.array(Image.open(row["path"]))).permute(2, 0, 1)[None] / 255
        with torch.inference_mode():
            scores = network(image).full_size("fine").softmax(1).amax(1)
        assert abs(row["mean_confidence"] - float(scores.mean())) < 1e-4


def test_a_share_says_where_it_ended_and_goes_on(
    plain, run, model, pictures, tmp_path, monkeypatch
):
    """Half a row, a row whose label map is not there, a label map whose row is not there."""
    words = ["predict", model, pictures, "--out", tmp_path / "out"]
    assert run(*words)[0] == 0
    before = but_time(tmp_path / "out")
    part = tmp_path / "out/parts/1-of-1.csv"
    lines = part.read_text().splitlines(keepends=True)
    (tmp_path / "out/labels" / NAMES[3]).unlink()
    kept = [line for line in lines if not line.startswith(NAMES[4])]
    part.write_text("".join(kept) + lines[0][:20])
    merged = merge(tmp_path / "out")
    assert merged.labels == 19
    lost = next(row for row in rows(tmp_path / "out") if row["label"] == NAMES[4])
    whole = next(row for row in before if row["label"] == NAMES[4])
    assert lost["seconds"] is None
    assert [lost[f"pixels.{k}"] for k in "abc"] == [whole[f"pixels.{k}"] for k in "abc"]
    plain.seen.clear()
    assert run(*words)[0] == 0
    assert plain.seen == [3]
    assert [row["label"] for row in rows(tmp_path / "out")] == sorted(NAMES)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    merge(tmp_path / "out")
    assert not (tmp_path / "out/manifest.parquet").exists()
    table = list(csv.reader((tmp_path / "out/manifest.csv").open()))
    assert [row[0] for row in table] == ["label", *sorted(NAMES)]


def test_two_processes_do_not_work_on_one_share(plain, run, model, pictures, tmp_path):
    from hfgd.predict.image_rows import RowWriter
    from hfgd.predict.storage import Folder

    rows = RowWriter(Folder(tmp_path / "out"), Shard(0, 2))
    words = ["predict", model, pictures, "--out", tmp_path / "out", "--shard"]
    code, _, err = run(*words, "1/2")
    assert (code, "another process is at work on share 1/2" in err) == (2, True)
    assert run(*words, "2/2")[0] == 0
    rows.leave()
    assert run(*words, "1/2")[0] == 0


@pytest.mark.parametrize("kind", ["torchrun", "slurm"])
def test_the_share_is_taken_from_who_started_it(
    plain, run, model, pictures, tmp_path, monkeypatch, kind
):
    names = {"torchrun": ("RANK", "WORLD_SIZE"), "slurm": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")}
    for rank in range(3):
        monkeypatch.setenv(names[kind][0], str(rank))
        monkeypatch.setenv(names[kind][1], "3")
        code, out, _ = run("predict", model, pictures, "--out", tmp_path / "out")
        assert (code, out.startswith(f"shard {rank + 1}/3: ")) == (0, True)
    assert sorted(plain.seen) == list(range(20))
    check_labels(tmp_path / "out")


# ---- inputs --------------------------------------------------------------------------------------


def pack_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


FILES = {name: png(i) for i, name in enumerate(NAMES)}


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "list", "memory"])
def test_inputs_that_are_no_folders_give_the_same(plain, run, model, pictures, tmp_path, kind):
    source = tmp_path / f"images.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(source, "w") as archive:
            for name, data in FILES.items():
                archive.writestr(name, data)
    elif kind == "list":
        source = tmp_path / "in" / "list.txt"
        source.write_text("".join(f"{name}\n" for name in NAMES))
    elif kind == "memory":
        import fsspec

        source = "memory://bucket/in"
        for name, data in FILES.items():
            fsspec.filesystem("memory").pipe_file(f"/bucket/in/{name}", data)
    else:
        pack_tar(source, FILES, "w:gz" if kind == "tar.gz" else "w")
    for i in (1, 2, 3):
        code, _, err = run("predict", model, source, "--out", tmp_path / "out", "--shard", f"{i}/3")
        assert code == 0, err
    assert run("predict", "--merge", tmp_path / "out")[0] == 0
    assert sorted(plain.seen) == list(range(20))
    check_labels(tmp_path / "out")
    assert run("predict", model, source, "--out", tmp_path / "out")[0] == 0
    assert len(plain.seen) == 20


def test_webdataset_shards_are_dealt_whole(plain, run, model, tmp_path):
    for number in range(4):
        files = {}
        for i in range(5 * number, 5 * number + 5):
            files |= {f"{i:02}.png": png(i), f"{i:02}.seg.png": png(99), f"{i:02}.json": b"{}"}
        pack_tar(tmp_path / f"s-{number:03}.tar", files)
    source = f"{tmp_path}/s-{{000..003}}.tar"
    wanted = {f"s-{i // 5:03}/{i:02}.png" for i in range(20)}
    seen = []
    for i in range(2):
        items = find_images([source], shard=Shard(i, 2))
        archives = {item.source.archive for item in items}
        assert len(items) == 5 * len(archives)
        seen += [item.target for item in items]
        run("predict", model, source, "--out", tmp_path / "out", "--shard", f"{i + 1}/2")
    assert (len(seen), set(seen)) == (20, wanted)
    assert set(labels_below(tmp_path / "out")) == wanted


def test_names_in_archives_lead_out_of_nothing(tmp_path):
    evil = pack_tar(tmp_path / "evil.tar", {"../../up.png": png(0), "/root/top.png": png(1)})
    assert {item.target for item in find_images([evil])} == {"up.png", "root/top.png"}


# ---- labels at an address ------------------------------------------------------------------------


def test_labels_go_to_an_address(plain, run, model, pictures, tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    words = ["predict", model, pictures, "--out", "memory://results/here"]
    assert run(*words, "--shard", "1/2")[0] == 0
    assert run(*words, "--shard", "2/2")[0] == 0
    assert run("predict", "--merge", "memory://results/here")[0] == 0
    assert run("predict", model, pictures, "--out", tmp_path / "out")[0] == 0
    start = len("/results/here/")
    there = {path[start:]: memory.cat_file(path) for path in memory.find("/results/here")}
    ours = tree(tmp_path / "out")
    assert {name: there[name] for name in ours} == ours
    plain.seen.clear()
    assert run(*words)[0] == 0
    assert plain.seen == []


@pytest.mark.slow
def test_a_bucket_for_images_in_and_labels_out(plain, run, model, pictures, tmp_path, monkeypatch):
    """Against a server that speaks S3, on this machine."""
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
            monkeypatch.delenv(name, raising=False)
        bucket = fsspec.filesystem("s3")
        bucket.mkdir("images")
        for name, data in FILES.items():
            bucket.pipe_file(f"images/in/{name}", data)
        bucket.put_file(str(pack_tar(tmp_path / "a.tar", FILES)), "images/a.tar")
        for source, out in (("s3://images/in", "s3://images/out"), ("s3://images/a.tar", "x")):
            out = out if out.startswith("s3") else str(tmp_path / out)
            code, _, err = run("predict", model, source, "--out", out)
            assert code == 0, err
        bucket.get("images/out/", str(tmp_path / "got"), recursive=True)
        check_labels(tmp_path / "got")
        check_labels(tmp_path / "x")
        plain.seen.clear()
        assert run("predict", model, "s3://images/in", "--out", "s3://images/out")[0] == 0
        assert plain.seen == []
    finally:
        server.stop()
        fsspec.filesystem("s3").clear_instance_cache()


# ---- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "between"])
def test_a_truncated_archive_is_named_and_the_rest_is_done(
    plain, run, model, pictures, tmp_path, kind
):
    suffix = "tar" if kind == "between" else kind
    source = tmp_path / f"cut.{suffix}"
    files = {f"{i:02}.png": png(i) for i in range(20, 40)}
    if kind == "zip":
        with zipfile.ZipFile(source, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        pack_tar(source, files, "w:gz" if kind == "tar.gz" else "w")
    whole = source.read_bytes()
    if kind == "between":  # behind the third of its files
        with tarfile.open(source) as archive:
            cut = archive.getmembers()[3].offset
    else:
        cut = len(whole) // 2
    source.write_bytes(whole[:cut])
    code, _, err = run("predict", model, pictures, source, "--out", tmp_path / "out")
    assert code == 1
    assert str(source) in err
    assert "Traceback" not in err
    assert {f"in/{name}" for name in NAMES} <= set(labels_below(tmp_path / "out"))
    if kind == "between":
        assert len(labels_below(tmp_path / "out")) == 23
    failed = list(csv.reader((tmp_path / "out/failed.csv").open()))[1:]
    assert any(path == str(source) for path, _ in failed)
    assert len(rows(tmp_path / "out")) == len(labels_below(tmp_path / "out"))


def test_a_network_that_times_out_is_asked_again_and_then_named(
    plain, run, model, tmp_path, monkeypatch
):
    from fsspec.implementations.memory import MemoryFileSystem

    memory = MemoryFileSystem()
    for i in range(4):
        memory.pipe_file(f"/slow/{i}.png", png(i))
    asked = {}
    read = MemoryFileSystem.cat_file

    def failing(self, path, *rest, **named):
        name = path.rpartition("/")[2]
        asked[name] = asked.get(name, 0) + 1
        if name == "1.png" and asked[name] == 1:
            raise TimeoutError("read timed out")
        if name == "2.png":
            raise TimeoutError("read timed out")
        if name == "3.png":
            raise PermissionError("Forbidden")
        return read(self, path, *rest, **named)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", failing)
    monkeypatch.setattr(places_module, "PAUSE", 0.001)
    code, _, err = run("predict", model, "memory://slow", "--out", tmp_path / "out")
    assert code == 1
    assert labels_below(tmp_path / "out") == ["0.png", "1.png"]
    assert "'memory:///slow/2.png' was tried 3 times (TimeoutError: read timed out)" in err
    assert "no permission to read 'memory:///slow/3.png'" in err
    assert asked == {"0.png": 1, "1.png": 2, "2.png": 3, "3.png": 1}


def test_a_read_that_hangs_is_left_behind(plain, run, model, pictures, tmp_path, monkeypatch):
    """A network file system may never answer."""
    answered, read = threading.Event(), running.read_item
    (pictures / "a/hangs.png").write_bytes((pictures / "c/17.png").read_bytes())

    def slow(item, *rest):
        if str(item.source).endswith("hangs.png"):
            answered.wait(60)
        return read(item, *rest)

    monkeypatch.setattr(running, "read_item", slow)
    monkeypatch.setattr(running, "PATIENCE", 0.2)
    code, _, err = run("predict", model, pictures, "--out", tmp_path / "out")
    assert code == 1
    assert f"'{pictures / 'a/hangs.png'}' gave nothing for" in err
    check_labels(tmp_path / "out")
    answered.set()  # lets the thread go


def test_a_full_disk_ends_it_and_room_lets_it_go_on(
    plain, run, model, pictures, tmp_path, monkeypatch
):
    import errno

    fsync, calls = os.fsync, []

    def filling(file):
        calls.append(file)
        if len(calls) > 15:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(file)

    monkeypatch.setattr(os, "fsync", filling)
    words = ["predict", model, pictures, "--out", tmp_path / "out", "--no-overlays"]
    code, _, err = run(*words)
    assert code == 2
    assert f"the disk is full while writing '{tmp_path / 'out'}" in err
    written = labels_below(tmp_path / "out")
    assert 0 < len(written) < 20
    monkeypatch.setattr(os, "fsync", fsync)
    plain.seen.clear()
    assert run(*words)[0] == 0
    assert len(plain.seen) == 20 - len(written)
    check_labels(tmp_path / "out")
    assert len(rows(tmp_path / "out")) == 20
    assert not (tmp_path / "out/overlays").exists()


# ---- a real kill -----------------------------------------------------------------------------------


def wait_for(process, out, count):
    """Until so many label maps are there."""
    deadline = time.monotonic() + 300
    while len(list((out / "labels").glob("*.png"))) < count:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"ended or hung before {count} label maps")
        time.sleep(0.002)


@pytest.mark.slow
def test_a_killed_share_repeated_gives_what_one_run_gives(model, tmp_path):
    source = tmp_path / "many"
    source.mkdir()
    for i in range(240):
        (source / f"{i:03}.png").write_bytes(png(i))
    words = ["hfgd", "predict", model, source, "--out"]

    def call(*more):
        finished([*words, *more])

    call(tmp_path / "one")
    out = tmp_path / "three"
    for share in ("1/3", "3/3"):
        call(out, "--shard", share)
    before = len(list((out / "labels").iterdir()))
    process = Command([*words, out, "--shard", "2/3"])
    wait_for(process, out, before + 15)
    process.send(signal.SIGKILL)
    process.end()
    done = {p.name: p.stat().st_mtime_ns for p in (out / "labels").glob("*.png")}
    assert before < len(done) < 240
    call(out, "--shard", "2/3")
    assert all((out / "labels" / n).stat().st_mtime_ns == at for n, at in done.items())
    finished(["hfgd", "predict", "--merge", out])
    check_same_files(tree(tmp_path / "one"), tree(out))
    assert but_time(tmp_path / "one") == but_time(out)


@pytest.mark.slow
def test_devices_start_again_what_is_killed(model, tmp_path):
    source = tmp_path / "many"
    source.mkdir()
    for i in range(150):
        (source / f"{i:03}.png").write_bytes(png(i))
    out = tmp_path / "out"
    process = Command(["hfgd", "predict", model, source, "--out", out, "--devices", 2])
    wait_for(process, out, 5)
    os.kill(process.children()[0], signal.SIGKILL)
    ended = process.end()
    assert ended.code == 0, ended.err
    assert "was killed by SIGKILL; it goes on" in ended.err
    assert "150 label maps" in ended.out
    assert len(rows(out)) == 150
