"""What annotation tools write: one reader a file. A new one is its file and one line in ``FORMATS``."""

from hfgd.data.formats.base import Annotated, AnnotationFormat, Annotations
from hfgd.data.formats.coco import COCO
from hfgd.data.formats.coco_panoptic import COCO_PANOPTIC
from hfgd.data.formats.cvat import CVAT
from hfgd.data.formats.cvat_images import CVAT_IMAGES
from hfgd.data.formats.kaggle import KAGGLE
from hfgd.data.formats.labelme import LABELME
from hfgd.data.formats.labelstudio import LABELSTUDIO
from hfgd.data.formats.parquet import PARQUET
from hfgd.data.formats.roboflow import ROBOFLOW
from hfgd.data.formats.supervisely import SUPERVISELY
from hfgd.data.formats.tree import Tree
from hfgd.data.formats.ultralytics import ULTRALYTICS
from hfgd.data.formats.voc import VOC
from hfgd.errors import HfgdError, unknown

FORMATS: dict[str, AnnotationFormat] = {
    format.name: format
    for format in (
        COCO,
        COCO_PANOPTIC,
        LABELME,
        CVAT,
        CVAT_IMAGES,
        VOC,
        ROBOFLOW,
        LABELSTUDIO,
        ULTRALYTICS,
        KAGGLE,
        PARQUET,
        SUPERVISELY,
    )
}
AUTO = "auto"


def find_format(name: str, tree: Tree) -> tuple[AnnotationFormat, str]:
    """The format of that name, or with 'auto' the one that fits, and why it was taken.

    Raises HfgdError where none fits, or more than one.
    """
    if name != AUTO:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS)
        return FORMATS[name], "as asked for by --format"
    _refuse_own(tree)
    reasons = {format.name: format.sniff(tree) for format in FORMATS.values()}
    fitting = {name: reason for name, reason in reasons.items() if reason}
    if len(fitting) == 1:
        return next((FORMATS[name], reason) for name, reason in fitting.items())
    if fitting:
        listed = "; ".join(f"{name} ({reason})" for name, reason in fitting.items())
        raise HfgdError(
            f"'{tree.root}' fits {len(fitting)} formats: {listed}. Say which with --format."
        )
    raise tree.broken or HfgdError(
        f"'{tree.root}' looks like none of the formats {', '.join(FORMATS)}; give the folder, zip "
        "or file that the tool exported, or --format. Plain images and label images need no import: "
        "put them into images/train and labels/train beside a data.yaml."
    )


def _refuse_own(tree: Tree) -> None:
    if "data.yaml" in tree.files and "\nclasses:" in f"\n{tree.text('data.yaml')}":
        raise HfgdError(
            f"'{tree.root}' is an ordinary data folder already; use it as it is, and look at it "
            f"with 'hfgd data check {tree.root}'."
        )


__all__ = ["AUTO", "FORMATS", "Annotated", "AnnotationFormat", "Annotations", "Tree", "find_format"]
