"""One door to every data set: a folder, a data.yaml, or the embedded ``scenes``."""

from pathlib import Path

from hfgd.data.dataset import Part, SegDataset
from hfgd.data.folder import FolderData, FolderDataset, PairedFiles
from hfgd.data.known import KNOWN, KnownData
from hfgd.data.scenes import ScenesDataset
from hfgd.errors import HfgdError, unknown

SCENES = "scenes"


def open_dataset(
    location: str, split: str, data_yaml: Path | None = None, limit: int | None = None
) -> SegDataset:
    """The ``split`` of a data set: 'scenes', a data folder, a data.yaml with a ``path``, NAME:PATH.

    ``limit``: only that many of its images, spread evenly. Raises HfgdError where there is none.
    """
    dataset = _open(location, split, data_yaml)
    return dataset if limit is None or limit >= len(dataset) else Part(dataset, limit)


def _open(location: str, split: str, data_yaml: Path | None) -> SegDataset:
    if location == SCENES:
        return ScenesDataset(split)
    return FolderDataset(open_files(location, data_yaml), split)


def open_files(location: str, data_yaml: Path | None = None) -> PairedFiles:
    """A data folder, or a known data set written as ``NAME:PATH`` ('cityscapes:/data/city')."""
    name, separator, place = location.partition(":")
    if separator and name in KNOWN:
        return KnownData(KNOWN[name], Path(place).expanduser())
    path = Path(location).expanduser()
    if not path.exists():
        if separator and "/" not in name and len(name) > 1:
            raise unknown("known data set", name, KNOWN)
        raise HfgdError(
            f"there is no data folder '{location}'; give the folder that holds images/ and "
            "labels/, NAME:PATH for a known data set, or 'scenes' for the embedded one."
        )
    return FolderData(path, data_yaml)
