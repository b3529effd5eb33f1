"""What is fuzzed: for each kind the valid files, and the commands that a user would run on them."""

import asyncio
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from fuzz_mutations import (
    ODD_VALUES,
    mutate_bytes,
    mutate_file,
    mutate_folder,
    mutate_png,
    mutate_tree,
)
from miniatures import BUILDERS, NAMES, pictures

# ---- the valid files, made once -------------------------------------------------------------


def make_templates(root):
    """Every kind's valid files below ``root``."""
    for name, build in BUILDERS.items():
        build(root / "import" / name, pictures())
    _data_folder(root / "folder")
    _model(root / "model" / "toy")
    _onnx(root / "model" / "toy.onnx")
    _images(root / "images")
    (root / "recipe").mkdir()
    (root / "recipe" / "recipe.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    (root / "recipe" / "protocol.yaml").write_text(yaml.safe_dump(PROTOCOL))


RECIPE = {
    "base": "demo_sfpn",
    "model": {
        "backbone": {"name": "test_resnet", "options": {}},
        "width": 16,
        "encoder": "identity",
    },
    "data": {"location": "nowhere", "limit": 4},
    "optim": {"lr": 0.01, "name": "adamw"},
    "augment": {"crop": [65, 65], "scales": [0.5, 1.0]},
    "train": {"iterations": 4, "batch_size": 2, "workers": 0, "freeze": ["backbone"]},
}
PROTOCOL = {"window": [32, 32], "stride": [16, 16], "scales": [0.5, 1.0], "flip": True}
KEYS = ["model.width", "optim.lr", "data", "train.freeze", "augment.crop", "loss", "x", "a.b.c", ""]


def _data_folder(root):
    for shot in pictures():
        for kind, array in (("images", shot.pixels), ("labels", shot.truth().astype(np.uint8))):
            path = root / kind / shot.split / f"{shot.name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    content = {
        "classes": NAMES,
        "colours": {"car": [0, 0, 142]},
        "label_map": {0: "car", 1: "road", 2: "tree", 255: "ignore"},
    }
    (root / "data.yaml").write_text(yaml.safe_dump(content))


def _images(root):
    root.mkdir(parents=True)
    (root / "sub").mkdir()
    for i, suffix in enumerate((".png", ".jpg", ".webp", ".bmp", ".tif")):
        Image.fromarray(pictures(1, i)[0].pixels).save(root / f"shot{i}{suffix}")
    Image.fromarray(pictures(1, 9)[0].pixels).save(root / "sub" / "a.png")


def _model(root):
    from conftest import toy
    from hfgd.checkpoint import save_model

    save_model(toy(3), root, {"iteration": 4})


def _onnx(path):
    """A network of one layer with what 'hfgd export' says of a file."""
    import onnx
    from onnx import TensorProto, helper

    from hfgd.export.metadata import Facts
    from hfgd.types import Grid

    graph = helper.make_graph(
        [
            helper.make_node("ArgMax", ["image"], ["best"], axis=1, keepdims=0),
            helper.make_node("Cast", ["best"], ["labels"], to=TensorProto.UINT8),
        ],
        "toy",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("labels", TensorProto.UINT8, ["n", "h", "w"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    facts = Facts(
        version="1",
        name="toy",
        classes=tuple(NAMES),
        palette=((0, 0, 1), (0, 0, 2), (0, 0, 3)),
        grid=Grid.CELLS,
        crop=(32, 32),
        mean=(0.5, 0.5, 0.5),
    )
    helper.set_model_props(model, facts.as_properties())
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


# ---- kinds: (rng, templates) in the case's folder → commands, one after the other -------------
# a command is a list of words, or a function that changes files in between


def fuzz_import(rng, templates):
    """Every annotation format."""
    name = rng.choice(sorted(BUILDERS))
    shutil.copytree(templates / "import" / name, "in")
    source = "in"
    mutate_folder(rng, Path("in"))
    if rng.random() < 0.15:
        source = "in.zip"
        _zip(Path("in"), source)
        if rng.random() < 0.5:
            mutate_file(rng, Path(source))
    words = ["data", "import", source, "--out", "out"]
    if rng.random() < 0.6:
        words += ["--format", name]
    if rng.random() < 0.3:
        words += ["--on-overlap", rng.choice(["first", "smallest"])]
    if rng.random() < 0.2:
        words += ["--unlabelled", rng.choice(["background", "ignore", "car", "\udcff"])]
    if rng.random() < 0.1:
        words.append("--link")
    again = [words] if rng.random() < 0.2 else []
    return [words, *again, ["data", "check", "out"]]


def fuzz_folder(rng, templates):
    """A data folder: images, labels, data.yaml."""
    shutil.copytree(templates / "folder", "in")
    mutate_folder(rng, Path("in"))
    commands = [["data", "check", "in"]]
    more = rng.random()
    if more < 0.2:
        commands.append(["data", "class-weights", "in"])
    elif more < 0.5:
        by = rng.choice(["(.)$", "shot", "(", "x", "(a+)+$"])
        commands.append(["data", "split", "in", "--by", by, "--out", "out"])
    return commands


def fuzz_recipe(rng, templates):
    """Recipes, protocols and --set."""
    shutil.copytree(templates / "recipe", "in")
    name = rng.choice(["recipe.yaml", "recipe.yaml", "protocol.yaml"])
    mutate_file(rng, Path("in") / name)
    if name == "protocol.yaml":
        model = str(templates / "model" / "toy")
        image = str(templates / "images" / "shot0.png")
        return [["predict", model, image, "--out", "out", "--protocol", "in/protocol.yaml"]]
    value = mutate_tree(rng, [rng.choice(ODD_VALUES)])
    setting = f"{rng.choice(KEYS)}={json.dumps(value)[1:-1]}"
    train = ["train", "in/recipe.yaml", "--data", "nowhere", "--out", "run", "--set", setting]
    return [["info", "in/recipe.yaml", "--size", "64", "64"], train]


def fuzz_model(rng, templates):
    """A model folder and an exported file."""
    shutil.copytree(templates / "model", "in")
    image = str(templates / "images" / "shot0.png")
    if rng.random() < 0.3:
        model = "in/toy.onnx"
        _mutate_onnx(rng, Path(model))
    else:
        model = "in/toy"
        file = rng.choice(["config.json", "config.json", "config.json", "model.safetensors"])
        mutate_file(rng, Path(model) / file)
    return [["info", model], ["predict", model, image, "--out", "out"]]


def _mutate_onnx(rng, path):
    """What it says of itself; never its graph, which is the runtime's own affair."""
    import onnx

    model = onnx.load(path)
    entry = rng.choice(model.metadata_props)
    if rng.random() < 0.8:
        try:
            entry.value = json.dumps(mutate_tree(rng, [json.loads(entry.value)])[0:1])[1:-1]
        except (ValueError, IndexError, TypeError):
            entry.value = rng.choice(["", "[" * 3000, "nan", "9" * 5000])
    else:
        entry.key = rng.choice(["hfgd.size", "hfgd.smallest", "hfgd.std", "x", "hfgd.format"])
    onnx.save(model, path)


def fuzz_predict(rng, templates):
    """Images in folders, archives and lists; then damaged results, and the same call again."""
    shutil.copytree(templates / "images", "in")
    mutate_folder(rng, Path("in"))
    if rng.random() < 0.15:
        (Path("in") / "shot1.png").mkdir(exist_ok=True)
        shutil.copy(templates / "images" / "shot0.png", Path("in") / "shot1.png" / "x.png")
    inputs = ["in"]
    how = rng.random()
    if how < 0.15:
        _zip(Path("in"), "in.zip")
        mutate_file(rng, Path("in.zip"))
        inputs = ["in.zip"]
    elif how < 0.3:
        name = rng.choice(["in.tar", "in.tar.gz"])
        with tarfile.open(name, "w:gz" if name.endswith("gz") else "w") as archive:
            for path in sorted(p for p in Path("in").rglob("*") if p.is_file()):
                archive.add(path, recursive=False)
        Path(name).write_bytes(mutate_bytes(rng, Path(name).read_bytes()))
        inputs = [name]
    elif how < 0.4:
        Path("list.txt").write_text("in/shot0.png\nin/shot1.jpg\nin/sub/a.png\n")
        mutate_file(rng, Path("list.txt"))
        inputs = ["list.txt"]
    elif how < 0.5:
        inputs = [
            rng.choice(["in{0..9}", "in/{1..999999999}.png", "in/shot{0..4}.png", "/dev/zero"])
        ]
    model = str(templates / "model" / ("toy" if rng.random() < 0.3 else "toy.onnx"))
    words = ["predict", model, *inputs, "--out", "out"]
    return [words, lambda: _damage(rng, Path("out")), words, ["predict", "--merge", "out"]]


def _damage(rng, out):
    if not out.is_dir():
        return
    if rng.random() < 0.3:
        (out / "labels").mkdir(exist_ok=True)
        (out / "labels" / "zz.png").write_bytes(rng.randbytes(20))
        return
    if rng.random() < 0.2:
        (out / "parts").mkdir(exist_ok=True)
        (out / "parts" / rng.choice(["notes.txt", "1-of-99999999999.csv", "x.failed.csv"])).touch()
        return
    mutate_folder(rng, out)


def fuzz_http(rng, templates):
    """Requests to the service, without a network between."""
    image = (
        templates / "images" / rng.choice(["shot0.png", "shot1.jpg", "shot2.webp"])
    ).read_bytes()
    requests = [_request(rng, image) for _ in range(12)]
    return [lambda: asyncio.run(_ask(requests))]


def _request(rng, image):
    body = rng.choice([image, mutate_bytes(rng, image), mutate_png(rng, image), b"", b"x" * 1000])
    headers = {}
    if rng.random() < 0.4:
        start = '--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        body = start.encode() + body + b"\r\n--b--\r\n"
        headers["Content-Type"] = "multipart/form-data; boundary=b"
        body = mutate_bytes(rng, body) if rng.random() < 0.6 else body
    if rng.random() < 0.5:
        kinds = [
            "image/png",
            "application/json",
            "*/*",
            "x",
            "image/png;q=nan",
            ",,,;=",
            "a" * 9000,
        ]
        headers["Accept"] = rng.choice(kinds)
    if rng.random() < 0.2:
        headers["Content-Length"] = rng.choice(["-1", "99999999999", "x", "0"])
    if rng.random() < 0.2:
        headers["Content-Type"] = rng.choice(
            ["multipart/form-data", "multipart/form-data; boundary=", "x/y; \xff", "image/png"]
        )
    method = rng.choice(["POST", "POST", "POST", "POST", "GET", "PUT", "HEAD", "OPTIONS"])
    path = rng.choice(
        ["/predict"] * 6 + ["/", "/healthz", "/metrics", "/docs", "/x", "/..%2f", "//"]
    )
    return method, path, headers, body


async def _ask(requests):
    import httpx

    from hfgd.data.classes import ClassSet
    from hfgd.serve.app import make_app
    from hfgd.serve.limits import Limits

    class ByRed:
        classes = ClassSet.of(["dark", "bright"])

        def __call__(self, pixels):
            return (pixels[..., 0] > 127).astype(np.uint8)

    transport = httpx.ASGITransport(make_app(ByRed(), Limits(pixels=4_000_000), "toy"))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
        for method, path, headers, body in requests:
            headers = {name: value.encode("latin-1") for name, value in headers.items()}
            answer = await client.request(method, path, headers=headers, content=body)
            if answer.status_code >= 500:
                raise AssertionError(f"{method} {path} {headers}: {answer.status_code}")


def _zip(folder, name):
    with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            try:
                archive.writestr(str(path.relative_to(folder)), path.read_bytes()[: 1 << 20])
            except (UnicodeEncodeError, OSError):
                continue


KINDS = {
    "import": fuzz_import,
    "folder": fuzz_folder,
    "recipe": fuzz_recipe,
    "model": fuzz_model,
    "predict": fuzz_predict,
    "http": fuzz_http,
}
__all__ = ["KINDS", "make_templates"]
