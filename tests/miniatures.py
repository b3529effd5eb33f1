"""The same four pictures as every annotation tool would write them down.

Each builder writes a project folder and is written from the format's description, apart from the
readers. The truth is made of blocks, which every format can hold exactly; later blocks are on top.
"""

import base64
import csv
import io
import json
import zlib
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import yaml
from PIL import Image

NAMES = ["car", "road", "tree"]  # in alphabetical order, as some readers sort them
COLOURS = {"car": (0, 0, 142), "road": (128, 64, 128), "tree": (107, 142, 35)}
NOBODY = -1
SIZE = (24, 40)


class Block(NamedTuple):
    name: str
    left: int
    top: int
    right: int
    bottom: int

    def mask(self):
        mask = np.zeros(SIZE, dtype=bool)
        mask[self.top : self.bottom, self.left : self.right] = True
        return mask

    def corners(self):
        left, top, right, bottom = self[1:]
        return [[left, top], [right, top], [right, bottom], [left, bottom]]


class Picture(NamedTuple):
    name: str
    split: str
    pixels: np.ndarray
    blocks: list

    def truth(self):
        """Class indices, NOBODY where there is no block."""
        truth = np.full(SIZE, NOBODY)
        for block in self.blocks:
            truth[block.mask()] = NAMES.index(block.name)
        return truth

    def visible(self):
        """For each block what the later ones leave of it."""
        masks, taken = [], np.zeros(SIZE, dtype=bool)
        for block in reversed(self.blocks):
            masks.append((block, block.mask() & ~taken))
            taken |= block.mask()
        return masks[::-1]


def pictures(count=4, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        blocks = []
        for j in range(4):
            left, right = sorted(rng.choice(SIZE[1] + 1, 2, replace=False).tolist())
            top, bottom = sorted(rng.choice(SIZE[0] + 1, 2, replace=False).tolist())
            blocks.append(Block(NAMES[(i + j) % 3], left, top, right, bottom))
        pixels = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        made.append(Picture(f"shot{i}", "val" if i == count - 1 else "train", pixels, blocks))
    return made


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(path, **options)


def dump(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def column_runs(mask):
    """Lengths of runs down the columns, zeros first: COCO's counts, by a loop."""
    counts, value = [0], 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def png(array, mode=None):
    packed = io.BytesIO()
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(packed, "PNG")
    return packed.getvalue()


# ---- builders: (root, pictures) → the folder -------------------------------------------------


def coco(root, shots):
    for split in ("train", "val"):
        data = {"images": [], "annotations": [], "categories": []}
        data["categories"] = [{"id": 10 * (i + 1), "name": n} for i, n in enumerate(NAMES)]
        for i, shot in enumerate(s for s in shots if s.split == split):
            save(root / split / f"{shot.name}.png", shot.pixels)
            image = {"id": i, "file_name": f"{shot.name}.png", "height": SIZE[0], "width": SIZE[1]}
            data["images"].append(image)
            for j, block in enumerate(shot.blocks):
                ring = [[v for corner in block.corners() for v in corner]]
                runs = {"size": list(SIZE), "counts": column_runs(block.mask())}
                data["annotations"].append(
                    {
                        "id": 100 * i + j,
                        "image_id": i,
                        "category_id": 10 * (NAMES.index(block.name) + 1),
                        "segmentation": ring if j % 2 else runs,
                        "iscrowd": 0,
                    }
                )
        dump(root / "annotations" / f"instances_{split}.json", data)


def coco_panoptic(root, shots):
    categories = [{"id": i + 1, "name": n, "isthing": 1} for i, n in enumerate(NAMES)]
    for split in ("train", "val"):
        data = {"images": [], "annotations": [], "categories": categories}
        for i, shot in enumerate(s for s in shots if s.split == split):
            save(root / split / f"{shot.name}.png", shot.pixels)
            data["images"].append(
                {"id": i, "file_name": f"{shot.name}.png", "height": SIZE[0], "width": SIZE[1]}
            )
            ids = np.zeros((*SIZE, 3), dtype=np.uint8)
            segments = []
            for j, block in enumerate(shot.blocks):
                number = 70_001 * (j + 1)  # more than two bytes
                ids[block.mask()] = (number % 256, number // 256 % 256, number // 65536)
                segments.append({"id": number, "category_id": NAMES.index(block.name) + 1})
            save(root / f"annotations/panoptic_{split}" / f"{shot.name}.png", ids)
            record = {"image_id": i, "file_name": f"{shot.name}.png", "segments_info": segments}
            data["annotations"].append(record)
        dump(root / "annotations" / f"panoptic_{split}.json", data)


def labelme(root, shots):
    for shot in shots:
        shapes = []
        for j, block in enumerate(shot.blocks):
            shape = {"label": block.name, "points": block.corners(), "shape_type": "polygon"}
            if j == 1:
                ends = [[block.right, block.bottom], [block.left, block.top]]
                shape |= {"shape_type": "rectangle", "points": ends}
            if j == 2:
                patch = np.full((block.bottom - block.top, block.right - block.left), True)
                ends = [[block.left, block.top], [block.right - 1.0, block.bottom - 1.0]]
                mask = base64.b64encode(png(patch)).decode()
                shape |= {"shape_type": "mask", "points": ends, "mask": mask}
            shapes.append(shape)
        record = {"version": "5.4.1", "shapes": shapes, "imagePath": f"{shot.name}.png"}
        record |= {"imageData": None, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        dump(root / shot.split / f"{shot.name}.json", record)
        save(root / shot.split / f"{shot.name}.png", shot.pixels)


def colours_of(shot):
    rgb = np.zeros((*SIZE, 3), dtype=np.uint8)
    for block in shot.blocks:
        rgb[block.mask()] = COLOURS[block.name]
    return rgb


def lists(root, shots):
    folder = root / "ImageSets/Segmentation"
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        names = [s.name for s in shots if s.split == split]
        (folder / f"{split}.txt").write_text("\n".join(names) + "\n")
    (folder / "trainval.txt").write_text("\n".join(s.name for s in shots) + "\n")


def cvat(root, shots):
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    lines += [f"{name}:{','.join(map(str, COLOURS[name]))}::" for name in NAMES]
    root.mkdir(parents=True, exist_ok=True)
    (root / "labelmap.txt").write_text("\n".join(lines) + "\n")
    lists(root, shots)
    for shot in shots:
        save(root / "JPEGImages" / f"{shot.name}.png", shot.pixels)
        save(root / "SegmentationClass" / f"{shot.name}.png", colours_of(shot))
        save(root / "SegmentationObject" / f"{shot.name}.png", colours_of(shot))


def cvat_images(root, shots):
    """Polygons, boxes and masks by turns; the file's order is not that of z_order."""
    top = ElementTree.Element("annotations")
    ElementTree.SubElement(top, "version").text = "1.1"
    kinds = ElementTree.SubElement(
        ElementTree.SubElement(ElementTree.SubElement(top, "meta"), "task"), "labels"
    )
    for name in NAMES:
        kind = ElementTree.SubElement(kinds, "label")
        ElementTree.SubElement(kind, "name").text = name
        ElementTree.SubElement(kind, "color").text = "#{:02x}{:02x}{:02x}".format(*COLOURS[name])
    for number, shot in enumerate(shots):
        save(root / "images" / shot.split / f"{shot.name}.png", shot.pixels)
        image = ElementTree.SubElement(
            top, "image", id=str(number), name=f"{shot.name}.png", subset=shot.split,
            width=str(SIZE[1]), height=str(SIZE[0]),
        )  # fmt: skip
        for z, block in reversed(list(enumerate(shot.blocks))):
            common = {"label": block.name, "occluded": "0", "z_order": str(z)}
            if z % 3 == 0:
                points = ";".join(f"{x:.2f},{y:.2f}" for x, y in block.corners())
                ElementTree.SubElement(image, "polygon", points=points, **common)
            elif z % 3 == 1:
                sides = zip(("xtl", "ytl", "xbr", "ybr"), map(str, block[1:]), strict=True)
                ElementTree.SubElement(image, "box", **dict(sides), **common)
            else:
                width, height = block.right - block.left, block.bottom - block.top
                ElementTree.SubElement(
                    image, "mask", rle=f"0, {width * height}", left=str(block.left),
                    top=str(block.top), width=str(width), height=str(height), **common,
                )  # fmt: skip
    (root / "annotations.xml").write_text(ElementTree.tostring(top, "unicode"))


def voc(root, shots):
    """labelme2voc's folder: palette PNGs, 0 = _background_, class_names.txt."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "class_names.txt").write_text("\n".join(["_background_", *NAMES]) + "\n")
    lists(root, shots)
    palette = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
    for shot in shots:
        save(root / "JPEGImages" / f"{shot.name}.png", shot.pixels)
        picture = Image.fromarray((shot.truth() + 1).astype(np.uint8))
        picture.putpalette([v for colour in palette for v in colour])
        (root / "SegmentationClass").mkdir(exist_ok=True)
        picture.save(root / "SegmentationClass" / f"{shot.name}.png")


def roboflow(root, shots):
    for shot in shots:
        folder = root / {"train": "train", "val": "valid"}[shot.split]
        save(folder / f"{shot.name}_png.rf.0a1b.jpg", shot.pixels)
        save(folder / f"{shot.name}_png.rf.0a1b_mask.png", shot.truth() + 1)
        names = ["background", *NAMES]
        rows = "\n".join(f"{i}, {name}" for i, name in enumerate(names))
        (folder / "_classes.csv").write_text(f"Pixel Value, Class\n{rows}\n")


def brush(mask, lengths=(3, 4, 8, 16), word=8):
    """A mask as Label Studio's bit stream: runs of up to 2^longest values, single ones as they are."""
    values = np.repeat(mask.ravel() * 255, 4).tolist()
    bits = f"{len(values):032b}{word - 1:05b}" + "".join(f"{n - 1:04b}" for n in lengths)
    at = 0
    while at < len(values):
        end = at
        while end < len(values) and values[end] == values[at] and end - at < 2 ** max(lengths):
            end += 1
        count = end - at
        which = next(i for i, n in enumerate(lengths) if count <= 2**n)
        bits += f"{int(count > 1)}{which:02b}{count - 1:0{lengths[which]}b}{values[at]:0{word}b}"
        at = end
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def labelstudio(root, shots):
    tasks = []
    for i, shot in enumerate(shots):
        save(root / "images" / f"{shot.name}.png", shot.pixels)
        result = []
        for j, block in enumerate(shot.blocks):
            frame = {"original_width": SIZE[1], "original_height": SIZE[0], "image_rotation": 0}
            left, top = 100 * block.left / SIZE[1], 100 * block.top / SIZE[0]
            right, bottom = 100 * block.right / SIZE[1], 100 * block.bottom / SIZE[0]
            if j % 3 == 0:
                kind, value = "brushlabels", {"format": "rle", "rle": brush(block.mask())}
            elif j % 3 == 1:
                corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
                kind, value = "polygonlabels", {"points": corners}
            else:
                kind = "rectanglelabels"
                value = {"x": left, "y": top, "width": right - left, "height": bottom - top}
                value["rotation"] = 0
            value[kind] = [block.name]
            result.append({"id": f"r{j}", "type": kind, "value": value} | frame)
        annotations = [
            {"id": 7, "was_cancelled": True, "result": []},
            {"id": 8, "was_cancelled": False, "result": result},
        ]
        upload = f"3f2a9c1e-{shot.name}.png"
        data = {"image": f"/data/upload/1/{upload}"}
        task = {"id": i, "annotations": annotations, "file_upload": upload, "data": data}
        tasks.append(task)
    dump(root / "project-1.json", tasks)


def ultralytics(root, shots):
    for shot in shots:
        save(root / "images" / shot.split / f"{shot.name}.png", shot.pixels)
        lines = []
        for block in shot.blocks:
            shares = [f"{x / SIZE[1]:.9f} {y / SIZE[0]:.9f}" for x, y in block.corners()]
            lines.append(f"{NAMES.index(block.name)} {' '.join(shares)}")
        path = root / "labels" / shot.split / f"{shot.name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    spec = {"path": ".", "train": "images/train", "val": "images/val"}
    (root / "set.yaml").write_text(yaml.safe_dump(spec | {"names": dict(enumerate(NAMES))}))


def kaggle(root, shots):
    """The visible parts, a row a class: Kaggle's masks do not overlap."""
    rows = [["ImageId", "EncodedPixels", "ClassId"]]
    for shot in shots:
        save(root / "train_images" / f"{shot.name}.png", shot.pixels)
        for index, name in enumerate(NAMES):
            counts = column_runs(shot.truth() == index)
            starts = np.cumsum(counts)
            runs = [f"{starts[k - 1] + 1} {counts[k]}" for k in range(1, len(counts), 2)]
            rows.append([f"{shot.name}.png", " ".join(runs), name])
    with (root / "masks.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def parquet(root, shots):
    import pyarrow as pa
    from pyarrow import parquet as pq

    root.mkdir(parents=True, exist_ok=True)
    dump(root / "id2label.json", {0: "unlabeled"} | {i + 1: n for i, n in enumerate(NAMES)})
    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for split, theirs in (("train", "train"), ("val", "validation")):
        chosen = [s for s in shots if s.split == split]
        images = [{"bytes": png(s.pixels), "path": f"{s.name}.png"} for s in chosen]
        labels = [{"bytes": png((s.truth() + 1).astype(np.uint8)), "path": None} for s in chosen]
        table = pa.table({"image": pa.array(images, cell), "label": pa.array(labels, cell)})
        pq.write_table(table, root / f"{theirs}-00000-of-00001.parquet", row_group_size=2)


def supervisely(root, shots):
    classes = [
        {"title": n, "shape": "any", "color": "#{:02x}{:02x}{:02x}".format(*COLOURS[n])}
        for n in NAMES
    ]
    dump(root / "meta.json", {"classes": classes, "tags": []})
    for shot in shots:
        save(root / shot.split / "img" / f"{shot.name}.png", shot.pixels)
        objects = []
        for j, block in enumerate(shot.blocks):
            thing = {"id": j, "classTitle": block.name}
            if j % 2:
                ends = [[block.right - 1, block.top], [block.left, block.bottom - 1]]
                thing |= {"geometryType": "rectangle", "points": {"exterior": ends, "interior": []}}
            else:
                patch = np.full((block.bottom - block.top, block.right - block.left), 255, np.uint8)
                data = base64.b64encode(zlib.compress(png(patch))).decode()
                origin = [block.left, block.top]
                thing |= {"geometryType": "bitmap", "bitmap": {"data": data, "origin": origin}}
            objects.append(thing)
        record = {"size": {"height": SIZE[0], "width": SIZE[1]}, "objects": objects}
        dump(root / shot.split / "ann" / f"{shot.name}.png.json", record)


BUILDERS = {
    f.__name__: f
    for f in (
        coco,
        coco_panoptic,
        labelme,
        cvat,
        cvat_images,
        voc,
        roboflow,
        labelstudio,
        ultralytics,
        kaggle,
        parquet,
        supervisely,
    )
}
# what pixels without a block become by default
BACKGROUND = {"cvat", "voc", "roboflow", "ultralytics", "kaggle"}
# no split in the source
SPLITLESS = {"labelstudio", "kaggle"}
