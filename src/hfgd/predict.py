"""``hfgd predict``: label PNGs and overlays for images and folders of images."""

import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hfgd.checkpoint import load_model, read_recipe
from hfgd.data.draw import Prediction
from hfgd.data.images import Pixels, images_below, read_image, without_suffix
from hfgd.data.known.cityscapes import LABEL_IDS
from hfgd.errors import HfgdError, unknown
from hfgd.evaluation.inference import label_image
from hfgd.evaluation.protocol import Protocol, find_protocol
from hfgd.evaluation.run import pick_device
from hfgd.files import write_whole
from hfgd.model.segmenter import Segmenter, evaluating
from hfgd.progress import Progress


@dataclass
class Outcome:
    """How many images were labelled, and one sentence for each that could not be."""

    done: int = 0
    failed: list[str] = field(default_factory=list)


def predict_files(
    model_path: str,
    inputs: Sequence[Path],
    out: Path,
    opacity: float = 0.5,
    device: str | None = None,
    protocol: str = "ss",
    server: str | None = None,
) -> Outcome:
    """Write ``out/labels`` and ``out/overlays``; a broken image is passed over and named.

    ``server``: also write what the test server of 'cityscapes' or 'ade20k' takes, as
    ``out/submission`` and ``out/submission.zip``: the image's own name, the data set's own ids.
    """
    files = find_images(inputs)
    sent = {} if server is None else submission_names([source for source, _ in files])
    written: list[Path] = []  # for the server, in this call
    model = load_model(model_path, pick_device(device))
    chosen = find_protocol(protocol, read_recipe(model_path).augment.crop)
    server_ids = None if server is None else _server_ids(server, len(model.classes))
    outcome = Outcome()
    with Progress("labelling", len(files)) as progress:
        for number, (source, target) in enumerate(files, start=1):
            try:
                result = _label(model, source, chosen)
            except HfgdError as error:
                outcome.failed.append(str(error))
            else:
                result.save(out / "labels" / target)
                overlay = out / "overlays" / target
                overlay.parent.mkdir(parents=True, exist_ok=True)
                result.overlay(opacity).save(overlay)
                if server_ids is not None:
                    submission = out / "submission" / sent[source]
                    submission.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(server_ids[result.labels]).save(submission)
                    written.append(submission)
                outcome.done += 1
            progress.update(number, source.name)
    if server_ids is not None:
        _zip(written, out / "submission.zip")
    return outcome


def _label(model: Segmenter, source: Path, protocol: Protocol) -> Prediction:
    pixels = read_image(source)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(model.hfgm.tokens.weight) / 255
    with evaluating(model):
        labels = label_image(model, image, protocol).cpu().numpy()
    return Prediction(pixels, labels, model.classes)


def _server_ids(server: str, num_classes: int) -> Pixels:
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


def submission_names(sources: Sequence[Path]) -> dict[Path, str]:
    """The file name of each image in a submission: its own, as a PNG, without folders.

    Raises HfgdError where two images would have one name.
    """
    by_name: dict[str, Path] = {}
    for source in sources:
        name = f"{without_suffix(source).name}.png"
        if name in by_name:
            raise HfgdError(
                f"'{by_name[name]}' and '{source}' would both be '{name}' in the submission, which "
                "has no folders; rename one, or label them in two calls with an --out of each."
            )
        by_name[name] = source
    return {source: name for name, source in by_name.items()}


def _zip(files: Sequence[Path], path: Path) -> None:
    """These files in a zip, without folders."""

    def write(part: Path) -> None:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, file.name)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, write)


def find_images(inputs: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Every image with the relative path (.png) its results go to.

    A folder's structure is kept; of several inputs each folder keeps its own name on top. Where
    two images would land on one name, both keep their suffix in it.
    """
    found: list[tuple[Path, Path]] = []
    for entry in inputs:
        if entry.is_dir():
            top = Path(entry.resolve().name) if len(inputs) > 1 else Path()
            images = images_below(entry)
            if not images:
                raise HfgdError(f"there are no images in '{entry}'.")
            found += [(path, top / path.relative_to(entry)) for path in images]
        elif entry.is_file():
            found.append((entry, Path(entry.name)))
        else:
            raise HfgdError(f"there is no image or folder '{entry}'.")
    bare = [without_suffix(target) for _, target in found]
    uses = Counter(bare)
    placed: list[tuple[Path, Path]] = []
    for (source, target), name in zip(found, bare, strict=True):
        kept = target.name.removeprefix(name.name) if uses[name] > 1 else ""  # '.jpg', or nothing
        placed.append((source, Path(f"{name}{kept.replace('.', '_')}.png")))
    twice = [target for target, uses in Counter(t for _, t in placed).items() if uses > 1]
    if twice:
        raise HfgdError(
            f"two of the images would both be written to '{twice[0]}'; "
            "rename one, or predict them into two folders."
        )
    return placed
