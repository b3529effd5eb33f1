"""Cityscapes, fine annotations: 19 classes. Official folders or zips; labelIds are mapped at load."""

from hfgd.data.classes import ClassSet
from hfgd.data.known.base import TRAIN_IDS, Known, Layout, ids

# id of each training class in the official label files (cityscapesScripts, labels.py)
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
OTHER_IDS = tuple(i for i in range(34) if i not in LABEL_IDS)
SPLITS = {"train": "train", "val": "val", "test": "test"}
IMAGE = r"leftImg8bit/{split}/(?P<key>.+)_leftImg8bit\.png"

CITYSCAPES = Known(
    name="cityscapes",
    title="Cityscapes",
    classes=ClassSet.of(
        ["road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
         "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
         "motorcycle", "bicycle"],
        [(128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153),
         (153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152),
         (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100),
         (0, 80, 100), (0, 0, 230), (119, 11, 32)],
    ),
    layouts=(
        Layout("official labelIds", IMAGE, r"gtFine/{split}/(?P<key>.+)_gtFine_labelIds\.png",
               ids(*LABEL_IDS, ignored=(*OTHER_IDS, 255)), SPLITS),
        Layout("MMSegmentation", IMAGE, r"gtFine/{split}/(?P<key>.+)_gtFine" + TRAIN_IDS,
               ids(*range(19)), SPLITS),
    ),
    expected={"train": 2975, "val": 500, "test": 1525},
    labels="labelIds 0..33 (19 of them are classes, the others are ignored), or trainIds 0..18 and 255",
)  # fmt: skip
