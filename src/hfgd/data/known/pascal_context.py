"""Pascal Context: 59 classes, or 60 with the background. VOC 2010 images.

The order is that of the sorted 459 original ids, which is alphabetical; other releases of the 59
classes come in another order, so everything is mapped by name.
"""

from hfgd.data.classes import ClassSet
from hfgd.data.known.base import Known, Layout, ids

CLASSES_459 = {  # original id of 1..459 → name
    2: "aeroplane", 9: "bag", 18: "bed", 19: "bedclothes", 22: "bench", 23: "bicycle", 25: "bird",
    31: "boat", 33: "book", 34: "bottle", 44: "building", 45: "bus", 46: "cabinet", 59: "car",
    65: "cat", 68: "ceiling", 72: "chair", 80: "cloth", 85: "computer", 98: "cow", 104: "cup",
    105: "curtain", 113: "dog", 115: "door", 144: "fence", 158: "floor", 159: "flower", 162: "food",
    187: "grass", 189: "ground", 207: "horse", 220: "keyboard", 232: "light", 258: "motorbike",
    259: "mountain", 260: "mouse", 284: "person", 295: "plate", 296: "platform",
    308: "pottedplant", 324: "road", 326: "rock", 347: "sheep", 349: "shelves", 354: "sidewalk",
    355: "sign", 360: "sky", 366: "snow", 368: "sofa", 397: "table", 415: "track", 416: "train",
    420: "tree", 424: "truck", 427: "tvmonitor", 440: "wall", 445: "water", 454: "window",
    458: "wood",
}  # fmt: skip
NAMES = tuple(CLASSES_459.values())
# names that the releases write differently
SYNONYMS = {
    "table": "table",
    "diningtable": "table",
    "tv": "tvmonitor",
    "potted plant": "pottedplant",
}
IMAGE, LABEL = r"JPEGImages/(?P<key>[^/]+)\.jpg", r"SegmentationClassContext/(?P<key>[^/]+)\.png"
LISTS = r"ImageSets/SegmentationContext/{split}\.txt"
SPLITS = {"train": "train", "val": "val"}
EXPECTED = {"train": 4_998, "val": 5_105}
LABELS = (
    "MMSegmentation's PNGs, 0 = background and 1..59 = classes; the .mat files of 459 labels, the "
    "59-label PNGs and trainval_merged.json go through 'hfgd data prepare pascal_context'"
)

PASCAL_CONTEXT = Known(
    name="pascal_context",
    title="Pascal Context (59 classes)",
    classes=ClassSet.of(NAMES),
    layouts=(
        Layout("MMSegmentation", IMAGE, LABEL, ids(*range(1, 60), ignored=(0, 255)), SPLITS,
               split_list=LISTS),
    ),
    expected=EXPECTED,
    labels=LABELS,
)  # fmt: skip

PASCAL_CONTEXT60 = Known(
    name="pascal_context60",
    title="Pascal Context (59 classes and background)",
    classes=ClassSet.of(["background", *NAMES]),
    layouts=(Layout("MMSegmentation", IMAGE, LABEL, ids(*range(60)), SPLITS, split_list=LISTS),),
    expected=EXPECTED,
    labels=LABELS,
)
