"""``scenes``: a generated street, the embedded data set. No files, no download.

Every scene is a pure function of (seed, index): a pinhole camera over a street with walls of
houses, painted from far to near. Objects run from houses that fill the picture to poles and signs a
pixel wide, so that a coarse model visibly fails on them and a fine one does not.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from hfgd.data.classes import IGNORE, ClassSet, Rgb
from hfgd.data.dataset import Sample
from hfgd.data.images import Pixels
from hfgd.errors import HfgdError
from hfgd.types import Size

SKY, BUILDING, ROAD, PAVEMENT, TREE, CAR, PERSON, POLE, SIGN = range(9)
CLASSES = ClassSet.of(
    ["sky", "building", "road", "pavement", "tree", "car", "person", "pole", "sign"],
    [
        (70, 130, 180),
        (70, 70, 70),
        (128, 64, 128),
        (244, 35, 232),
        (107, 142, 35),
        (0, 0, 142),
        (220, 20, 60),
        (190, 153, 153),
        (220, 220, 0),
    ],
)
# how strongly the surface of each class is textured, in units of brightness
TEXTURE = np.array([0.02, 0.09, 0.07, 0.1, 0.22, 0.05, 0.1, 0.05, 0.04], dtype=np.float32)
SPLITS = {"train": (0, 400), "val": (1_000_000, 100)}  # first index, default count
SIZE: Size = (192, 256)

Colour = tuple[float, float, float]  # of [0, 1]
Point = tuple[float, float]


class ScenesDataset:
    """``count`` scenes of a split ('train' or 'val'), each generated once per process."""

    classes = CLASSES

    def __init__(
        self, split: str, count: int | None = None, seed: int = 0, size: Size = SIZE
    ) -> None:
        if split not in SPLITS:
            raise HfgdError(f"scenes has the splits {sorted(SPLITS)}, not '{split}'.")
        first, default = SPLITS[split]
        self.title = f"scenes/{split}"
        self.indices = range(first, first + (default if count is None else count))
        self.seed, self.size = seed, size
        self._made: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Sample:
        if position not in self._made:
            index = self.indices[position]
            image, label = scene(self.seed, index, self.size)
            self._made[position] = Sample(
                torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(label), f"{index:07d}"
            )
        return self._made[position]


def scene(seed: int, index: int, size: Size = SIZE) -> tuple[Pixels, Pixels]:
    """Image (H, W, 3) uint8 RGB and label (H, W) uint8 of one street, 255 where void."""
    rng = np.random.default_rng([seed, index])
    street = _Street(rng, size)
    things: list[tuple[float, Callable[[], None]]] = []  # distance and how to paint it
    for side in (-1, 1):
        things += street.houses(side) + street.furniture(side)
    things += street.traffic()
    street.paint_sky()
    street.paint_ground()
    for _, paint in sorted(things, key=lambda thing: -thing[0]):
        paint()
    return street.finish()


class _Street:
    """A canvas for image and label, and a camera: f in pixels, metres in the world."""

    def __init__(self, rng: np.random.Generator, size: Size) -> None:
        self.rng = rng
        self.height, self.width = size
        self.f = self.width * rng.uniform(0.75, 1.0)
        self.centre = self.width * rng.uniform(0.38, 0.62)
        self.horizon = self.height * rng.uniform(0.36, 0.5)
        self.eye = rng.uniform(1.3, 2.0)  # camera height in metres
        self.road = rng.uniform(3.0, 4.5)  # half width in metres
        self.kerb = self.road + rng.uniform(2.5, 4.5)  # outer edge of the pavement
        self.light = rng.uniform(0.65, 1.1)
        self.sun_side = rng.choice([-1, 1])
        self.haze = rng.uniform(0.004, 0.02)  # per metre
        self.sky = self.mix((0.45, 0.62, 0.9), (0.82, 0.83, 0.85), rng.uniform())
        self.image = Image.new("RGB", (self.width, self.height))
        self.label = Image.new("L", (self.width, self.height), IGNORE)
        self.draw, self.mark = ImageDraw.Draw(self.image), ImageDraw.Draw(self.label)

    @staticmethod
    def mix(a: Colour, b: Colour, share: float) -> Colour:
        red, green, blue = (x + (y - x) * share for x, y in zip(a, b, strict=True))
        return red, green, blue

    def colour(self, low: Colour, high: Colour) -> Colour:
        return self.mix(low, high, self.rng.uniform())

    def at(self, x: float, y: float, z: float) -> Point:
        """The pixel of a point x to the right, y above the ground, z ahead, in metres."""
        return self.centre + self.f * x / z, self.horizon + self.f * (self.eye - y) / z

    def tone(self, colour: Colour, z: float, shade: float = 1.0) -> Rgb:
        """A surface colour under this light, at this distance."""
        lit = [c * self.light * shade for c in colour]
        veil = 1 - np.exp(-self.haze * z)
        mixed = [c + (s * self.light - c) * veil for c, s in zip(lit, self.sky, strict=True)]
        red, green, blue = (int(np.clip(255 * c, 0, 255)) for c in mixed)
        return red, green, blue

    def polygon(self, points: list[Point], fill: Rgb, label: int) -> None:
        self.draw.polygon(points, fill=fill)
        self.mark.polygon(points, fill=label)

    def ellipse(self, centre: Point, rx: float, ry: float, fill: Rgb, label: int | None) -> None:
        box = (centre[0] - rx, centre[1] - ry, centre[0] + rx, centre[1] + ry)
        self.draw.ellipse(box, fill=fill)
        if label is not None:
            self.mark.ellipse(box, fill=label)

    def box(
        self, left: float, right: float, y: tuple[float, float], z: float, fill: Rgb, label: int
    ) -> None:
        """An upright rectangle facing the camera, at least one pixel wide."""
        (x0, y0), (x1, y1) = self.at(left, y[1], z), self.at(right, y[0], z)
        corners = (x0, y0, max(x1 - 1, x0), max(y1, y0))
        self.draw.rectangle(corners, fill=fill)
        self.mark.rectangle(corners, fill=label)

    # ---- the parts of a street -------------------------------------------------------------

    def paint_sky(self) -> None:
        """A gradient with soft clouds."""
        rows = np.linspace(0.82, 1.12, self.height)[:, None, None]
        clouds = _noise(self.rng, (self.height, self.width), 40)[..., None]
        sky = np.array(self.sky) * self.light * rows + 0.18 * np.maximum(clouds, 0) * self.light
        self.image.paste(Image.fromarray((255 * np.clip(sky, 0, 1)).astype(np.uint8)))
        self.label.paste(SKY, (0, 0, self.width, self.height))

    def paint_ground(self) -> None:
        """Open ground to the horizon, pavements, the road and its markings."""
        far, near = 120.0, 0.9

        def strip(a: float, b: float, colour: Colour, label: int, shade: float = 1.0) -> None:
            depths = np.geomspace(near, far, 12)
            for z0, z1 in pairwise(depths.tolist()):
                corners = [self.at(x, 0, z) for x, z in ((a, z0), (a, z1), (b, z1), (b, z0))]
                self.polygon(corners, self.tone(colour, (z0 + z1) / 2, shade), label)

        asphalt = self.colour((0.25, 0.25, 0.27), (0.42, 0.41, 0.4))
        paving = self.colour((0.5, 0.47, 0.44), (0.66, 0.63, 0.6))
        strip(-200, 200, self.colour((0.3, 0.36, 0.22), (0.5, 0.46, 0.36)), IGNORE)
        for side in (-1, 1):
            shade = 1 + 0.06 * side * self.sun_side
            strip(side * self.road, side * self.kerb, paving, PAVEMENT, shade)
        strip(-self.road, self.road, asphalt, ROAD)
        paint: Colour = (0.85, 0.85, 0.82)
        for z in np.arange(2.5, 60, 5.0):
            corners = [
                self.at(x, 0, d) for x, d in ((-0.08, z), (-0.08, z + 2), (0.08, z + 2), (0.08, z))
            ]
            self.polygon(corners, self.tone(paint, z), ROAD)

    def houses(self, side: int) -> list[tuple[float, Callable[[], None]]]:
        """A row of houses along one side, with gaps that show the sky."""
        things: list[tuple[float, Callable[[], None]]] = []
        z = self.rng.uniform(2, 8)
        while z < 90:
            depth, tall = self.rng.uniform(8, 20), self.rng.uniform(4, 15)
            if self.rng.uniform() < 0.8:
                wall = self.colour((0.5, 0.32, 0.25), (0.8, 0.75, 0.66))
                x = side * (self.kerb + self.rng.uniform(0.2, 3.0))
                things.append(
                    (z + depth / 2, partial(self.paint_house, side, x, z, z + depth, tall, wall))
                )
            z += depth + self.rng.choice([0.0, 0.0, 3.0, 6.0])
        return things

    def paint_house(
        self, side: int, x: float, z0: float, z1: float, tall: float, wall: Colour
    ) -> None:
        shade = 1.05 if side != self.sun_side else 0.7  # the lit wall faces the sun
        front = self.tone(self.mix(wall, (0, 0, 0), 0.25), z0, 1.0)
        back = x + side * 40
        self.polygon(
            [
                self.at(x, 0, z0),
                self.at(x, tall, z0),
                self.at(back, tall, z0),
                self.at(back, 0, z0),
            ],
            front,
            BUILDING,
        )
        self.polygon(
            [self.at(x, 0, z0), self.at(x, tall, z0), self.at(x, tall, z1), self.at(x, 0, z1)],
            self.tone(wall, (z0 + z1) / 2, shade),
            BUILDING,
        )
        glass = self.mix((0.12, 0.15, 0.2), self.sky, self.rng.uniform(0, 0.5))
        for y in np.arange(1.2, tall - 1.2, 3.0):
            for z in np.arange(z0 + 1, z1 - 1.5, 3.0):
                pane = [
                    self.at(x, y, z),
                    self.at(x, y + 1.5, z),
                    self.at(x, y + 1.5, z + 1.4),
                    self.at(x, y, z + 1.4),
                ]
                self.polygon(pane, self.tone(glass, z, shade), BUILDING)

    def furniture(self, side: int) -> list[tuple[float, Callable[[], None]]]:
        """Trees, lamp posts, signs, people and (void) bins on one pavement."""
        rng, pavement = self.rng, (self.road + 0.3, self.kerb - 0.3)
        plan = [
            (self.paint_tree, rng.integers(0, 5), (6, 60)),
            (self.paint_lamp, rng.integers(1, 5), (5, 45)),
            (self.paint_sign, rng.integers(1, 4), (4, 28)),
            (self.paint_person, rng.integers(1, 6), (4, 32)),
            (self.paint_bin, rng.integers(0, 2), (4, 20)),
        ]
        things: list[tuple[float, Callable[[], None]]] = []
        for paint, count, (near, far) in plan:
            for _ in range(count):
                z = float(np.exp(rng.uniform(np.log(near), np.log(far))))
                things.append((z, partial(paint, side * rng.uniform(*pavement), z)))
        return things

    def traffic(self) -> list[tuple[float, Callable[[], None]]]:
        things: list[tuple[float, Callable[[], None]]] = []
        for _ in range(self.rng.integers(1, 6)):
            z = float(np.exp(self.rng.uniform(np.log(5), np.log(50))))
            x = self.rng.choice([-1, 1]) * self.rng.uniform(0.35, 0.8) * self.road
            things.append((z, partial(self.paint_car, x, z)))
        if self.rng.uniform() < 0.3:  # somebody crosses
            z = float(self.rng.uniform(8, 25))
            things.append((z, partial(self.paint_person, self.rng.uniform(-1, 1) * self.road, z)))
        return things

    def paint_tree(self, x: float, z: float) -> None:
        tall, crown = self.rng.uniform(4, 9), self.rng.uniform(1.0, 2.2)
        self.box(x - 0.15, x + 0.15, (0, tall - crown), z, self.tone((0.32, 0.24, 0.16), z), TREE)
        leaf = self.colour((0.13, 0.3, 0.1), (0.36, 0.48, 0.18))
        for _ in range(14):
            dx, dy = self.rng.normal(0, 0.5, 2) * crown
            radius = self.f * crown * self.rng.uniform(0.35, 0.6) / z
            shade = self.rng.uniform(0.75, 1.2)
            self.ellipse(
                self.at(x + dx, tall - 0.5 + dy, z), radius, radius, self.tone(leaf, z, shade), TREE
            )

    def paint_lamp(self, x: float, z: float) -> None:
        tall, metal = (
            self.rng.uniform(4.5, 7),
            self.tone(self.colour((0.2, 0.2, 0.2), (0.55, 0.55, 0.55)), z),
        )
        self.box(x - 0.07, x + 0.07, (0, tall), z, metal, POLE)
        arm = x - np.sign(x) * 1.2
        self.box(min(x, arm), max(x, arm), (tall - 0.12, tall), z, metal, POLE)

    def paint_sign(self, x: float, z: float) -> None:
        tall, half = self.rng.uniform(2.2, 3.0), self.rng.uniform(0.3, 0.45)
        self.box(x - 0.04, x + 0.04, (0, tall), z, self.tone((0.5, 0.5, 0.5), z), POLE)
        kinds: list[Colour] = [(0.8, 0.1, 0.1), (0.1, 0.25, 0.7), (0.9, 0.75, 0.1)]
        colour, white = kinds[self.rng.integers(3)], (0.92, 0.92, 0.92)
        radius = max(1.0, self.f * half / z)
        centre = self.at(x, tall, z)
        if self.rng.uniform() < 0.5:
            self.ellipse(centre, radius, radius, self.tone(colour, z), SIGN)
            self.ellipse(centre, radius * 0.6, radius * 0.6, self.tone(white, z), None)
        else:
            self.box(x - half, x + half, (tall - half, tall + half), z, self.tone(colour, z), SIGN)

    def paint_person(self, x: float, z: float) -> None:
        tall = self.rng.uniform(1.5, 1.9)
        coat = self.colour((0.1, 0.1, 0.15), (0.8, 0.5, 0.4))
        self.box(x - 0.17, x - 0.02, (0, 0.5 * tall), z, self.tone((0.15, 0.15, 0.22), z), PERSON)
        self.box(x + 0.03, x + 0.18, (0, 0.5 * tall), z, self.tone((0.17, 0.17, 0.25), z), PERSON)
        radius = self.f * 0.27 / z
        self.ellipse(self.at(x, 0.65 * tall, z), radius, radius * 1.35, self.tone(coat, z), PERSON)
        head = max(0.8, self.f * 0.12 / z)
        skin = self.colour((0.35, 0.24, 0.18), (0.85, 0.68, 0.56))
        self.ellipse(self.at(x, 0.93 * tall, z), head, head * 1.2, self.tone(skin, z), PERSON)

    def paint_bin(self, x: float, z: float) -> None:
        """Something no class names: void."""
        self.box(x - 0.35, x + 0.35, (0, 1.1), z, self.tone((0.2, 0.35, 0.25), z), IGNORE)

    def paint_car(self, x: float, z: float) -> None:
        paint = self.colour((0.08, 0.08, 0.1), (0.85, 0.85, 0.85))
        if self.rng.uniform() < 0.5:
            paint = self.colour((0.6, 0.1, 0.08), (0.12, 0.25, 0.6))
        ground = self.at(x, 0, z)
        self.ellipse(
            ground, self.f * 1.1 / z, self.f * 0.16 / z, self.tone((0.08, 0.08, 0.08), z), None
        )
        for wheel in (-0.72, 0.72):
            self.box(
                x + wheel - 0.13,
                x + wheel + 0.13,
                (0, 0.6),
                z,
                self.tone((0.05, 0.05, 0.05), z),
                CAR,
            )
        cabin = [
            self.at(x + dx, y, z)
            for dx, y in ((-0.72, 0.85), (-0.55, 1.45), (0.55, 1.45), (0.72, 0.85))
        ]
        self.polygon(cabin, self.tone(self.mix(paint, (0, 0, 0), 0.15), z), CAR)
        self.box(x - 0.88, x + 0.88, (0.28, 0.95), z, self.tone(paint, z), CAR)
        glass = [
            self.at(x + dx, y, z)
            for dx, y in ((-0.6, 0.95), (-0.48, 1.36), (0.48, 1.36), (0.6, 0.95))
        ]
        self.polygon(glass, self.tone((0.16, 0.2, 0.25), z), CAR)
        for lamp in (-0.72, 0.72):
            self.box(
                x + lamp - 0.1, x + lamp + 0.1, (0.65, 0.8), z, self.tone((0.75, 0.15, 0.1), z), CAR
            )

    def finish(self) -> tuple[Pixels, Pixels]:
        """Surface texture, a little blur and sensor noise."""
        label = np.asarray(self.label, dtype=np.uint8)
        strength = np.append(TEXTURE, np.full(256 - len(TEXTURE), 0.08, np.float32))[label]
        size = (self.height, self.width)
        texture = 0.6 * _noise(self.rng, size, 3) + 0.4 * _noise(self.rng, size, 12)
        sharp = np.asarray(self.image, dtype=np.float32) * (1 + strength * texture)[..., None]
        soft = Image.fromarray(np.clip(sharp, 0, 255).astype(np.uint8)).filter(
            ImageFilter.GaussianBlur(0.45)
        )
        noisy = np.asarray(soft, dtype=np.float32) + self.rng.normal(0, 3, (*size, 1))
        return np.clip(noisy, 0, 255).astype(np.uint8), label.copy()


def _noise(rng: np.random.Generator, size: Size, cell: int) -> np.ndarray:
    """Smooth noise (H, W) of unit deviation whose features are ``cell`` pixels wide."""
    height, width = size
    coarse = rng.normal(size=(height // cell + 2, width // cell + 2)).astype(np.float32)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(smooth)
