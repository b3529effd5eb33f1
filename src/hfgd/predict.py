"""``hfgd predict``: label PNGs and overlays for images and folders of images."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hfgd.checkpoint import load_model
from hfgd.data.images import IMAGE_SUFFIXES
from hfgd.errors import HfgdError
from hfgd.evaluation.run import pick_device
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
) -> Outcome:
    """Write ``out/labels`` and ``out/overlays``; a broken image is passed over and named."""
    files = find_images(inputs)
    model = load_model(model_path, pick_device(device))
    outcome = Outcome()
    with Progress("labelling", len(files)) as progress:
        for number, (source, target) in enumerate(files, start=1):
            try:
                result = model.predict(source)
            except HfgdError as error:
                outcome.failed.append(str(error))
            else:
                result.save(out / "labels" / target)
                overlay = out / "overlays" / target
                overlay.parent.mkdir(parents=True, exist_ok=True)
                result.overlay(opacity).save(overlay)
                outcome.done += 1
            progress.update(number, source.name)
    return outcome


def find_images(inputs: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Every image with the relative path (.png) its results go to.

    A folder's structure is kept; of several inputs each folder keeps its own name on top. Where
    two images would land on one name, both keep their suffix in it.
    """
    found: list[tuple[Path, Path]] = []
    for entry in inputs:
        if entry.is_dir():
            top = Path(entry.resolve().name) if len(inputs) > 1 else Path()
            images = [p for p in sorted(entry.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES]
            if not images:
                raise HfgdError(f"there are no images in '{entry}'.")
            found += [(path, top / path.relative_to(entry)) for path in images]
        elif entry.is_file():
            found.append((entry, Path(entry.name)))
        else:
            raise HfgdError(f"there is no image or folder '{entry}'.")
    uses = Counter(target.with_suffix("") for _, target in found)
    placed = [
        (
            source,
            target.with_suffix(".png")
            if uses[target.with_suffix("")] == 1
            else target.with_name(f"{target.stem}_{target.suffix[1:]}.png"),
        )
        for source, target in found
    ]
    twice = [target for target, uses in Counter(t for _, t in placed).items() if uses > 1]
    if twice:
        raise HfgdError(
            f"two of the images would both be written to '{twice[0]}'; "
            "rename one, or predict them into two folders."
        )
    return placed
