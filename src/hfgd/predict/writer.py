"""Writing what belongs to one image: overlay, label map, what a test server takes."""

import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from hfgd.data.images import Pixels
from hfgd.data.known.cityscapes import LABEL_IDS
from hfgd.data.prediction import Prediction
from hfgd.errors import HfgdError, unknown
from hfgd.files import write_whole
from hfgd.inference.labeller import Labeller, origin
from hfgd.parse import parse_json
from hfgd.predict.image_rows import ImageRow, RowWriter
from hfgd.predict.inputs import InputImage
from hfgd.predict.storage import Bucket, Folder

Place = Folder | Bucket


class Writer:
    """Writes what belongs to one image; each file whole, the label map last."""

    def __init__(
        self,
        place: Place,
        opacity: float,
        rows: RowWriter,
        server_ids: Pixels | None = None,
        sent: Mapping[InputImage, str] | None = None,
        overlays: bool = True,
        confidence: bool = False,
    ) -> None:
        self.overlays, self.confidence = overlays, confidence
        self.place, self.opacity, self.rows = place, opacity, rows
        self.server_ids, self.sent = server_ids, sent or {}
        self.extras: list[str] = []  # what of the images is not read, as in images.EXTRAS

    def __call__(self, item: InputImage, result: Prediction, row: ImageRow) -> None:
        if self.overlays:  # for looking at: quickly written, a little larger
            overlay = result.overlay(self.opacity)
            save_png(overlay, self.place, f"overlays/{item.target}", compress_level=1)
        if self.server_ids is not None:
            submission = Image.fromarray(self.server_ids[result.labels])
            save_png(submission, self.place, f"submission/{self.sent[item]}")
        if self.confidence and result.confidence is not None:
            save_png(Image.fromarray(result.confidence), self.place, f"confidence/{item.target}")
        self.rows.add(row)
        save_png(result.label_image(), self.place, f"labels/{item.target}")

    def is_done(self, item: InputImage, files: Sequence[str]) -> bool:
        """Whether an earlier call wrote everything of this image, as it is now."""
        files = list(files)
        if self.server_ids is not None:
            files.append(f"submission/{self.sent[item]}")
        if self.confidence:
            files.append(f"confidence/{item.target}")
        return all(self.place.is_newer(file, item.path) for file in files)


def save_png(image: Image.Image, place: Place, name: str, **options: int) -> None:
    """Write a PNG whole, making its folder."""
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    place.write(name, file.getvalue())


def claim(
    place: Place, model_path: str, labeller: Labeller, opacity: float, more: Mapping[str, object]
) -> None:
    """Say in ``predict.json`` what makes the results; raises HfgdError where it was another."""
    weights = origin(model_path).weights
    state = weights.stat()
    settings = {
        "model": str(weights.resolve()),
        "bytes": state.st_size,
        "written": state.st_mtime_ns,
        "protocol": labeller.protocol.model_dump(mode="json"),
        "branch": labeller.branch,
        "precision": labeller.precision,
        "opacity": opacity,
        **more,
    }
    written = settings | {"classes": list(labeller.classes.names)}
    name = "predict.json"
    before = read_settings(place)
    if not before or before == settings:  # an older hfgd wrote no classes
        text = (json.dumps(written, indent=1) + "\n").encode()
        if isinstance(place, Folder):  # shares begin at one moment, each with a file of its own
            part = place.path(f".predict.json.{os.getpid()}.part")
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(text)
            os.replace(part, place.path(name))
        else:
            place.write(name, text)
    elif before != written:
        raise HfgdError(
            f"'{place.root}' holds results of another model or of other settings (see "
            f"{place.root}/{name}); choose another --out, or delete the folder."
        )


def read_settings(place: Place) -> dict[str, Any]:
    """What ``predict.json`` says, empty where there is none; raises HfgdError where it is damaged."""
    where = f"'{place.root}/predict.json'"
    data = place.read("predict.json")
    if data is None:
        return {}
    try:
        found = parse_json(data.decode(), where)
        if isinstance(found, dict) and isinstance(found.get("classes", []), list):
            return found
    except (HfgdError, UnicodeDecodeError):
        pass
    raise HfgdError(f"{where} is damaged; delete it to begin anew, or choose another --out.")


def server_ids(server: str, num_classes: int) -> Pixels:
    """The id that a server wants for each class index."""
    tables = {"cityscapes": LABEL_IDS, "ade20k": range(1, 151)}
    if server not in tables:
        raise unknown("server format", server, tables)
    if num_classes != len(tables[server]):
        raise HfgdError(
            f"{server} has {len(tables[server])} classes, and the model knows {num_classes}; "
            "use a model that was trained on it."
        )
    return np.array(tables[server], dtype=np.uint8)


def submission_names(items: Sequence[InputImage]) -> dict[InputImage, str]:
    """The file name of each image in a submission: its own, as a PNG, without folders.

    Raises HfgdError where two images would have one name.
    """
    by_name: dict[str, InputImage] = {}
    for item in items:
        name = f"{_own_name(item)}.png"
        if name in by_name:
            raise HfgdError(
                f"'{by_name[name].source}' and '{item.source}' would both be '{name}' in the "
                "submission, which has no folders; rename one, or label them in two calls with an "
                "--out of each."
            )
        by_name[name] = item
    return {item: name for name, item in by_name.items()}


def _own_name(item: InputImage) -> str:
    path = PurePosixPath(str(item.source))
    known = path.suffix.lower() in Image.registered_extensions()
    return path.stem if known else path.name


def zip_files(files: Sequence[Path], path: Path) -> None:
    """These files in a zip, without folders."""

    def write(part: Path) -> None:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, file.name)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, write)
