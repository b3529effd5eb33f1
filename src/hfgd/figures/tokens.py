"""Figure 6: how much each class token answers to itself, and how much to the others.

Shown is the row-softmax of W·Wᵀ/√D, with the tokens as the rows of W (K, D): the attention that the
tokens would pay to each other. A diagonal near 1 is a class that needs no other; 1/K everywhere is
what tokens without any direction would give. It grows with the tokens' length as with the angles
between them, which is why the mean length stands beside it.
"""

import math
from dataclasses import dataclass
from textwrap import wrap

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from hfgd.evaluation.scores import Floats
from hfgd.figures.common import FigureRequest, TrainedRun, open_runs

PAPER = "SemanticFPN's diagonal is about 20 % lower than that of FCN and of SemanticFPN (HFG)"
ROW = 0.125  # inches of a class in the picture: its name in 6 points fits


@dataclass(frozen=True)
class Dependencies:
    """A run's picture: ``matrix`` (K, K), rows sum to 1; ``norm``: the tokens' mean length."""

    title: str
    kind: str
    width: int
    matrix: Floats
    norm: float

    @property
    def diagonal(self) -> float:
        """The diagonal's mean."""
        return float(np.diag(self.matrix).mean())

    @property
    def guided(self) -> bool:
        """Whether the tokens are trained by the high-level feature: an FCN's, or guided ones."""
        return "HFG" in self.kind or "FCN" in self.kind


def dependencies(weight: Tensor) -> Floats:
    """Class tokens (K, D) → row-softmax of W·Wᵀ/√D, (K, K)."""
    weight = weight.detach().double().cpu()
    matrix: Floats = torch.softmax(weight @ weight.T / math.sqrt(weight.shape[1]), 1).numpy()
    return matrix


def draw(wanted: FigureRequest) -> str:
    """figure6.png, figure6.svg, figure6.csv (a run a line), figure6-RUN.csv (its matrix)."""
    runs = open_runs(wanted)
    names = runs[0].network.classes.names
    found = [_dependencies(run) for run in runs]
    sentences = compared(found)
    for each in found:
        rows = [
            {"class": name, **dict(zip(names, row, strict=True))}
            for name, row in zip(names, each.matrix, strict=True)
        ]
        wanted.table(rows, each.title.replace("/", "-"))
    wanted.table(
        {
            "run": each.title,
            "network": each.kind,
            "classes": len(names),
            "width": each.width,
            "diagonal mean": each.diagonal,
            "uniform": 1 / len(names),
            "relative to the first": each.diagonal / found[0].diagonal - 1,
            "mean length of a token": each.norm,
        }
        for each in found
    )
    wanted.save(_picture(found, names, sentences))
    return "\n".join(sentences)


def _dependencies(run: TrainedRun) -> Dependencies:
    weight = run.tokens.weight
    norm = float(weight.detach().float().norm(dim=1).mean())
    return Dependencies(run.title, run.kind, weight.shape[1], dependencies(weight), norm)


def compared(found: list[Dependencies]) -> list[str]:
    """The diagonals in words, and the paper's statement beside ours where the runs allow it."""
    uniform = 1 / len(found[0].matrix)
    lines = [
        f"{each.title} ({each.kind}): diagonal mean {each.diagonal:.4f}, "
        f"{each.diagonal / uniform:.2f} times the {uniform:.4f} of tokens that know nothing; "
        f"mean length {each.norm:.2f}"
        for each in found
    ]
    pairs = [(a, b) for a in found if not a.guided for b in found if b.guided]
    said = []
    for plain, guided in pairs:
        change = 100 * (plain.diagonal / guided.diagonal - 1)
        how = f"{abs(change):.1f} % {'lower' if change < 0 else 'higher'}"
        said.append(f"{plain.title}'s is {how} than {guided.title}'s")
    ours = "; ".join(said) or "no pair of such runs was given"
    return [*lines, f"paper: {PAPER}; here: {ours}"]


def _picture(found: list[Dependencies], names: tuple[str, ...], sentences: list[str]) -> Figure:
    count = len(names)
    side = max(3.2, ROW * count)
    font = 8 if count <= 25 else 6
    label = 0.07 * max(map(len, names)) * font / 8 + 0.15  # inches that the longest name takes
    cell = side + label
    width = cell * len(found) + 0.8
    lines = [line for text in sentences for line in wrap(text, int(15 * width))]
    below = 0.15 * len(lines) + 0.15
    height = cell + 0.6 + below
    figure = Figure(figsize=(width, height))
    low = min(float(each.matrix.min()) for each in found)
    top = max(float(each.matrix.max()) for each in found)
    for i, each in enumerate(found):
        box = (label + i * cell) / width, (below + label) / height, side / width, side / height
        axis = figure.add_axes((box[0], box[1], 0.96 * box[2], box[3]))
        image = axis.imshow(each.matrix, cmap="turbo", vmin=low, vmax=top, aspect="auto")
        axis.set_xticks(range(count), names, rotation=90, fontsize=font)
        axis.set_yticks(range(count), names, fontsize=font)
        axis.tick_params(length=1.5, pad=1.5)
        title = f"{each.title}\n{each.kind}\ndiagonal mean {each.diagonal:.4f}"
        axis.set_title(title, fontsize=8)
    bar = figure.add_axes((cell * len(found) / width, box[1], 0.1 / width, box[3]))
    figure.colorbar(image, cax=bar).ax.tick_params(labelsize=7)
    figure.text(0.1 / width, 0.08 / height, "\n".join(lines), fontsize=8, va="bottom")
    return figure
