"""Pixels drawn evenly from a whole data set, at most so many of a class, in one pass.

Every pixel gets a random number, and of each class those with the smallest numbers stay: a reservoir
whose memory does not grow with the data. The numbers depend on (seed, image) alone, so the same
seed draws the same pixels whatever is drawn beside them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from hfgd.checkpoint import load_model
from hfgd.data.dataset import SegDataset
from hfgd.errors import HfgdError
from hfgd.evaluation.compare import titles
from hfgd.evaluation.evaluate_model import EvalConfig, what_to_score
from hfgd.export.sessions import is_exported
from hfgd.files import write_text
from hfgd.inference.labeller import InferenceConfig
from hfgd.model.config import ModelSpec
from hfgd.model.hfgm import ClassTokens
from hfgd.model.network import Network
from hfgd.model.segmenter import Segmenter
from hfgd.parallel.device import pick_device
from hfgd.progress import Progress
from hfgd.text import csv_text
from hfgd.types import Branch, Size

Ints = npt.NDArray[np.int64]


class PixelSample(NamedTuple):
    """Where pixels lie: image, row, column and class of each, (N,) int64, sorted by image."""

    image: Ints
    row: Ints
    column: Ints
    label: Ints


class Reservoir:
    """At most ``most`` pixels of each of ``classes`` (ids), drawn with one seed."""

    def __init__(self, classes: Sequence[int], most: int, seed: int) -> None:
        self.classes, self.most, self.seed = classes, most, seed
        empty = np.empty(0), np.empty((0, 3), dtype=np.int64)  # numbers; image, row, column
        self._kept = dict.fromkeys(classes, empty)

    def add(self, image: int, label: np.ndarray) -> None:
        """Let the pixels of an image's label map (H, W) take part."""
        flat, width = label.ravel(), label.shape[1]
        for k in self.classes:
            places = np.flatnonzero(flat == k)
            if not len(places):
                continue
            # a stream for each class: which others are drawn changes nothing
            numbers = np.random.default_rng([self.seed, image, k]).random(len(places))
            old, kept = self._kept[k]
            if len(places) > self.most:
                least = np.argpartition(numbers, self.most)[: self.most]
                places, numbers = places[least], numbers[least]
            fresh = np.stack([np.full(len(places), image), places // width, places % width], 1)
            numbers, kept = np.concatenate([old, numbers]), np.concatenate([kept, fresh])
            order = np.argsort(numbers)[: self.most]
            self._kept[k] = numbers[order], kept[order]

    def pixels(self) -> PixelSample:
        """All pixels that stayed."""
        places = np.concatenate([places for _, places in self._kept.values()])
        labels = np.repeat(self.classes, [len(places) for _, places in self._kept.values()])
        order = np.lexsort((places[:, 2], places[:, 1], labels, places[:, 0]))
        image, row, column = places[order].T
        return PixelSample(image, row, column, labels[order].astype(np.int64))


def sampled(
    dataset: SegDataset, classes: Sequence[int], most: int, seeds: Sequence[int]
) -> list[PixelSample]:
    """A sample of the data set for each seed."""
    reservoirs = [Reservoir(classes, most, seed) for seed in seeds]
    with Progress("drawing pixels", len(dataset)) as progress:
        for i in range(len(dataset)):
            label = dataset[i].label.numpy()
            for reservoir in reservoirs:
                reservoir.add(i, label)
            progress.update(i + 1)
    return [reservoir.pixels() for reservoir in reservoirs]


# ---- requests and runs ---------------------------------------------------------------------------


DPI = 110


@dataclass(frozen=True)
class FigureRequest:
    """A figure that is asked for; what a figure does not need it does not read.

    ``runs``: run or model folders; for 'flow' one recipe. ``data``: what the first run was validated
    on where None. ``classes``: those of figure 4, otherwise the ``most`` confused ones. ``pixels``: at
    most so many of a class in a sample; ``samples``: so many samples, of seeds ``seed``, ``seed`` + 1,
    …. ``images``: names for the panels, otherwise the ``count`` on which the models differ most.
    ``size``: (height, width) of the image that flows, the recipe's crop where None.
    """

    name: str
    runs: Sequence[str]
    out: Path
    data: str | None = None
    split: str | None = None
    data_yaml: Path | None = None
    limit: int | None = None
    how: InferenceConfig = field(default_factory=InferenceConfig)
    classes: Sequence[str] = ()
    most: int = 8
    pixels: int = 200
    samples: int = 10
    seed: int = 0
    images: Sequence[str] = ()
    count: int = 4
    size: Size | None = None

    @property
    def stem(self) -> str:
        """What its files are called: figure4, flow."""
        return f"figure{self.name}" if self.name.isdecimal() else self.name

    def what(self) -> EvalConfig:
        """The data; raises HfgdError where neither --data nor the first run says which."""
        given = (self.data, self.split, self.data_yaml, self.limit)
        return replace(what_to_score(self.runs[0], *given, f"figure {self.name}"), boundary=None)

    def named_runs(self, least: int = 1) -> dict[str, str]:
        """A short title for each run; raises HfgdError for fewer than ``least`` and for twins."""
        if len(self.runs) < least:
            few = "a run" if least == 1 else f"{least} runs"
            raise HfgdError(f"figure {self.name} takes {few} or more, not {len(self.runs)}.")
        places = [Path(run).resolve() for run in self.runs]
        for place, run in zip(places, self.runs, strict=True):
            if places.count(place) > 1:
                raise HfgdError(f"figure {self.name} was given '{run}' twice; give each run once.")
        return dict(zip(titles(self.runs), self.runs, strict=True))

    def save(self, figure: Figure) -> None:
        """Write OUT/figureN.png and OUT/figureN.svg."""
        self.out.mkdir(parents=True, exist_ok=True)
        # the same figure is the same file: no date and no random ids in it
        with matplotlib.rc_context({"svg.hashsalt": "hfgd"}):
            figure.savefig(self.out / f"{self.stem}.png", dpi=DPI)
            figure.savefig(self.out / f"{self.stem}.svg", dpi=DPI, metadata={"Date": None})

    def table(self, rows: Iterable[Mapping[str, Any]], suffix: str = "") -> None:
        """Write rows of the same keys as OUT/figureN-SUFFIX.csv; NaN and None stay empty."""
        rows = list(rows)
        path = self.out / f"{self.stem}{f'-{suffix}' if suffix else ''}.csv"
        self.out.mkdir(parents=True, exist_ok=True)
        keys = list(rows[0])
        lines = [["" if row[key] != row[key] else row[key] for key in keys] for row in rows]
        write_text(path, csv_text([keys, *lines]))


@dataclass(frozen=True)
class TrainedRun:
    """An opened run: its network, and the branch that answers."""

    title: str
    network: Segmenter
    branch: Branch
    recipe: str

    @property
    def tokens(self) -> ClassTokens:
        """The class tokens of the branch that answers."""
        if self.branch == "aux":
            assert self.network.aux_fcn is not None
            return self.network.aux_fcn.tokens
        return self.network.hfgm.tokens

    @property
    def kind(self) -> str:
        """What the paper calls such a network."""
        config = self.network.config
        spec = config.model if config is not None else None
        if self.branch == "aux" and spec is not None:
            return f"auxiliary FCN, {spec.aux_fcn}"
        return "network" if spec is None else kind_of(spec)


def kind_of(spec: ModelSpec) -> str:
    """The paper's name of a composition: FCN, SemanticFPN, SemanticFPN + HFG, HFGD, …"""
    names = {"none": "FCN", "sfpn": "SemanticFPN", "u_sfpn": "U-SFPN"}
    upsampler = names.get(spec.upsampler, spec.upsampler)
    guided = spec.guidance.share_tokens
    if guided and spec.axial_attention and (spec.encoder, spec.upsampler) == ("cae", "u_sfpn"):
        return "HFGD"
    module = "HFGM" if guided and spec.axial_attention else "HFG" if guided else ""
    parts = [spec.encoder if spec.encoder != "identity" else "", upsampler, module]
    if spec.axial_attention and not guided:
        parts.append("AA")
    return " + ".join(filter(None, parts))


def open_runs(wanted: FigureRequest) -> list[TrainedRun]:
    """The runs' networks with their class tokens, in evaluation mode.

    Raises HfgdError for what is no such run and for runs of different classes.
    """
    opened: list[TrainedRun] = []
    for title, path in wanted.named_runs().items():
        network = _network(path, wanted.name, wanted.how)
        config = network.config
        branch: Branch = config.branch if config is not None else "fine"
        opened.append(
            TrainedRun(title, network, branch, config.name if config is not None else title)
        )
    check_same_classes({run.title: run.network for run in opened})
    return opened


def _network(path: str, figure: str, how: InferenceConfig) -> Segmenter:
    if is_exported(path):
        raise HfgdError(
            f"'{path}' is an exported file, whose class tokens cannot be told from its other "
            f"weights; give figure {figure} the run it was exported from."
        )
    network = load_model(path, pick_device(how.device), code=how.code)
    if not isinstance(network, Segmenter):
        raise HfgdError(
            f"'{path}' is a network of another kind, without class tokens; figure {figure} needs "
            "a run of a recipe's own model."
        )
    return network


def check_same_classes(networks: Mapping[str, Network | Any]) -> None:
    """Refuse models (anything with ``classes``) that do not share one set of class names."""
    (first, known), *others = ((title, n.classes.names) for title, n in networks.items())
    for title, names in others:
        if names != known:
            odd = next((n for n in names if n not in known), None) or next(
                (n for n in known if n not in names), "their order"
            )
            raise HfgdError(
                f"'{first}' knows {len(known)} classes and '{title}' {len(names)}, and they differ "
                f"('{odd}'); a figure shows runs of the same classes."
            )
