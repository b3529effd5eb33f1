"""What all figures share: what is asked for, the runs behind it, and the files that come of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from hfgd.checkpoint import load_model
from hfgd.errors import HfgdError
from hfgd.evaluation.compare import titles
from hfgd.evaluation.run import What, what_to_score
from hfgd.export.sessions import is_exported
from hfgd.files import write_text
from hfgd.geometry import Size
from hfgd.inference.open import How
from hfgd.model.class_tokens import ClassTokens
from hfgd.model.network import Network
from hfgd.model.segmenter import Segmenter
from hfgd.model.spec import ModelSpec
from hfgd.parallel.device import pick_device
from hfgd.text import csv_text
from hfgd.values import Branch

DPI = 110


@dataclass(frozen=True)
class Wanted:
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
    how: How = field(default_factory=How)
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

    def what(self) -> What:
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
class Run:
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


def open_runs(wanted: Wanted) -> list[Run]:
    """The runs' networks with their class tokens, in evaluation mode.

    Raises HfgdError for what is no such run and for runs of different classes.
    """
    opened: list[Run] = []
    for title, path in wanted.named_runs().items():
        network = _network(path, wanted.name, wanted.how)
        config = network.config
        branch: Branch = config.branch if config is not None else "fine"
        opened.append(Run(title, network, branch, config.name if config is not None else title))
    check_same_classes({run.title: run.network for run in opened})
    return opened


def _network(path: str, figure: str, how: How) -> Segmenter:
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
