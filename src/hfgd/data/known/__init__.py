"""Known data sets: one small file of facts each. A new one is its file and one line in ``KNOWN``."""

from hfgd.data.known.ade20k import ADE20K
from hfgd.data.known.base import Known, KnownData, Layout
from hfgd.data.known.camvid import CAMVID
from hfgd.data.known.cityscapes import CITYSCAPES
from hfgd.data.known.coco_stuff import COCO_STUFF10K, COCO_STUFF164K
from hfgd.data.known.pascal_context import PASCAL_CONTEXT, PASCAL_CONTEXT60

KNOWN: dict[str, Known] = {
    facts.name: facts
    for facts in (
        PASCAL_CONTEXT,
        PASCAL_CONTEXT60,
        COCO_STUFF164K,
        COCO_STUFF10K,
        CITYSCAPES,
        ADE20K,
        CAMVID,
    )
}

__all__ = ["KNOWN", "Known", "KnownData", "Layout"]
