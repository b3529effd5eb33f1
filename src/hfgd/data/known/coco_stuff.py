"""COCO-Stuff: 171 classes, 80 things and 91 stuff. 164k as pixel maps; 10k after 'prepare'.

The two number their labels differently: 164k has classes from 0 and 255 = unlabelled, 10k has
0 = unlabelled and classes from 1.
"""

from hfgd.data.classes import ClassSet
from hfgd.data.known.base import TRAIN_IDS, Known, Layout, ids

# ids of 0..181 that COCO never annotated: street sign, hat, shoe, eye glasses, plate, mirror,
# window, desk, door, blender, hair brush
ABSENT = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
RAW_IDS = tuple(i for i in range(182) if i not in ABSENT)

NAMES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire "
    "hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, "
    "zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports "
    "ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine "
    "glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot "
    "dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, "
    "mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, "
    "clock, vase, scissors, teddy bear, hair drier, toothbrush, banner, blanket, branch, bridge, "
    "building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other, ceiling-tile, cloth, "
    "clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence, "
    "floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other, "
    "fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal, "
    "mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, "
    "platform, playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea, "
    "shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, "
    "table, tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other, "
    "wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, "
    "window-other, wood"
).split(", ")
CLASSES = ClassSet.of(NAMES)  # VOC's bit-shift colours, as in the authors' code

SPLITS_2017 = {"train": "train2017", "val": "val2017"}
SPLITS_10K = {"train": "train2014", "val": "test2014", "test": "test2014"}

COCO_STUFF164K = Known(
    name="coco_stuff164k",
    title="COCO-Stuff 164k",
    classes=CLASSES,
    layouts=(
        Layout("official pixel maps", r"{split}/(?P<key>\d+)\.jpg", r"{split}/(?P<key>\d+)\.png",
               ids(*RAW_IDS, ignored=(*ABSENT, 255)), SPLITS_2017),
        Layout("MMSegmentation", r"images/{split}/(?P<key>\d+)\.jpg",
               r"annotations/{split}/(?P<key>\d+)" + TRAIN_IDS, ids(*range(171)), SPLITS_2017),
    ),
    expected={"train": 118_287, "val": 5_000},
    labels="0..181 with 11 ids that never occur, 255 = unlabelled; or MMSegmentation's 0..170",
)  # fmt: skip

COCO_STUFF10K = Known(
    name="coco_stuff10k",
    title="COCO-Stuff 10k",
    classes=CLASSES,
    layouts=(
        Layout("MMSegmentation", r"images/{split}/(?P<key>[^/]+)\.jpg",
               r"annotations/{split}/(?P<key>[^/]+)" + TRAIN_IDS,
               ids(*range(1, 172), ignored=(0, 255)), SPLITS_10K),
    ),
    expected={"train": 9_000, "val": 1_000},
    labels=".mat files with 0 = unlabelled and 1..182 ('hfgd data prepare coco_stuff10k'); "
    "or MMSegmentation's PNGs with 0 = unlabelled and 1..171",
    refuse={r"annotations/[^/]+\.mat$": "these are COCO-Stuff 10k's .mat files; run 'hfgd data "
            "prepare coco_stuff10k --from FOLDER --out DIR' once and use DIR."},
)  # fmt: skip
