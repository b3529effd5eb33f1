"""``hfgd data info DATA --augment RECIPE``: a sheet of what training will see."""

from collections.abc import Sequence
from pathlib import Path

from hfgd.errors import HfgdError


def show_augmented(
    location: str, split: str, name: str, settings: Sequence[str], out: Path
) -> None:
    """Draw the sheet of a recipe's augmentation on a data set, and say where it is."""
    from hfgd.data.loader import TrainStream, class_counts, needs_counts
    from hfgd.data.open import open_dataset
    from hfgd.data.statistics import augmented_sheet
    from hfgd.data.transforms.pipeline import Augment
    from hfgd.model.backbones import make_backbone
    from hfgd.progress import Progress
    from hfgd.recipes import find_recipe, parse_overrides

    if not location:
        raise HfgdError("--augment needs data: hfgd data info DATA --augment RECIPE.")
    recipe = find_recipe(name).with_(**parse_overrides(settings))
    dataset = open_dataset(location, split)
    spec = recipe.model.with_backbone(pretrained=False).backbone
    backbone = make_backbone(**dict(spec))  # says the mean colour and the grid
    counts = None
    if needs_counts(recipe.augment):
        with Progress("counting classes", len(dataset)) as progress:
            counts = class_counts(dataset, progress.update)
    augment = Augment(recipe.augment, backbone.mean, backbone.grid)
    augmented_sheet(TrainStream(dataset, augment, recipe.train.seed, counts), out)
    told = recipe.augment.model_dump(mode="json", exclude_defaults=True)
    print(f"augment: {', '.join(f'{k}={v}' for k, v in told.items()) or 'the defaults'}")
    print("rows:    images of the split as they are, then draws of them; last: the first samples")
    print(f"sheet:   {out}")
