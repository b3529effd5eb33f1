"""One door to every data set: a folder, a data.yaml, or the embedded ``scenes``."""

from pathlib import Path

from hfgd.data.dataset import Part, SegDataset
from hfgd.data.folder import FolderData, FolderDataset
from hfgd.data.scenes import ScenesDataset
from hfgd.errors import HfgdError

SCENES = "scenes"


def open_dataset(
    location: str, split: str, data_yaml: Path | None = None, limit: int | None = None
) -> SegDataset:
    """The ``split`` of a data set: 'scenes', a data folder, or a data.yaml with a ``path``.

    ``limit``: only that many of its images, spread evenly. Raises HfgdError where there is none.
    """
    dataset = _open(location, split, data_yaml)
    return dataset if limit is None or limit >= len(dataset) else Part(dataset, limit)


def _open(location: str, split: str, data_yaml: Path | None) -> SegDataset:
    if location == SCENES:
        return ScenesDataset(split)
    path = Path(location).expanduser()
    if not path.exists():
        raise HfgdError(
            f"there is no data folder '{location}'; give the folder that holds images/ and "
            "labels/, or 'scenes' for the embedded data set."
        )
    return FolderDataset(FolderData(path, data_yaml), split)
