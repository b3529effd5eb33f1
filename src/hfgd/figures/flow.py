"""The picture of a Flow: boxes in the order of the arrows, and what each output trains below."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor, nn

from hfgd.data.classes import ClassSet
from hfgd.errors import HfgdError
from hfgd.figures.common import FigureRequest
from hfgd.model.aux_fcn import AuxFCN
from hfgd.model.build import build, find_builder
from hfgd.model.hfgm import HFGM
from hfgd.model.network import Network
from hfgd.recipes import Recipe, find_recipe
from hfgd.recipes.tables import CLASS_COUNTS
from hfgd.types import Size

STEP, LANE = 2.35, 1.55  # inches from a box to the next one, to the right and down
WIDE, HIGH = 1.25, 0.62  # of a box
FLOWS, STOPPED = "#2b6a3d", "#c22020"
Place = tuple[float, float]


def picture(flow: "Flow", title: str) -> Figure:
    """Boxes and arrows above; below, part by part, where each output's gradient arrives."""
    places = laid_out(flow)
    right = max(x for x, _ in places.values()) + WIDE
    low = min(y for _, y in places.values()) - HIGH
    rows = 0.26 * (len(flow.trains) + 1) + 0.2
    width, height = max(right + 0.8, 8.0), -low + 1.3 + rows
    figure = Figure(figsize=(width, height))
    axis = figure.add_axes((0, rows / height, 1, 1 - rows / height))
    axis.set_xlim(-0.8, width - 0.8)
    axis.set_ylim(low - 0.2, 1.1)
    axis.axis("off")
    axis.text(-0.65, 0.9, title, fontsize=10, weight="bold", va="center")
    for i, (colour, text) in enumerate(((FLOWS, "gradient flows back"), (STOPPED, "stopped"))):
        x = -0.6 + 2.0 * i
        axis.plot([x, x + 0.35], [0.64, 0.64], color=colour, ls="--" if i else "-", lw=1.6)
        axis.text(x + 0.42, 0.64, text, fontsize=8, va="center")
    pairs = sorted(flow.arrows, key=lambda arrow: (arrow.start, arrow.end))
    for (start, end), group in groupby(pairs, key=lambda arrow: (arrow.start, arrow.end)):
        _arrows(axis, list(group), places[start], places[end])
    for name, place in places.items():
        _box(axis, flow, name, place)
    _table(figure.add_axes((0, 0, 1, rows / height)), flow, width)
    return figure


def laid_out(flow: "Flow") -> dict[str, Place]:
    """Where each box's middle is: right of all it gets something from, in their lane if free."""
    depth: dict[str, int] = {}
    lane: dict[str, int] = {}
    before = {name: [a.start for a in flow.arrows if a.end == name] for name in flow.boxes}
    for name in flow.boxes:  # in the order of their calls: what is before is placed
        depth[name] = 1 + max((depth[b] for b in before[name]), default=-1)
    for name in sorted(flow.boxes, key=lambda box: depth[box]):
        parent = max(before[name], key=lambda b: depth[b], default=None)
        taken = {lane[other] for other in lane if depth[other] == depth[name]}
        row = lane[parent] if parent is not None else 0
        while row in taken:
            row += 1
        lane[name] = row
    return {name: (STEP * depth[name], -LANE * lane[name]) for name in flow.boxes}


def _box(axis: Axes, flow: "Flow", name: str, place: Place) -> None:
    x, y = place
    count = flow.boxes[name]
    frozen = name in flow.frozen
    colour = "#dfe9f5" if count else "#f4f4f4"
    axis.add_patch(
        FancyBboxPatch(
            (x - WIDE / 2, y - HIGH / 2), WIDE, HIGH, boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=colour, edgecolor=STOPPED if frozen else "black",
            linestyle="--" if frozen else "-", zorder=3,
        )
    )  # fmt: skip
    lines = [name.removeprefix("→ ").replace(" #2", "\n(second call)")]
    if count:
        lines.append(f"{count:,} weights")
    if frozen:
        lines.append("stopped here")
    axis.text(x, y, "\n".join(lines), ha="center", va="center", fontsize=7, zorder=4)


def _arrows(axis: Axes, arrows: "list[Arrow]", start: Place, end: Place) -> None:
    """All tensors between two boxes, side by side."""
    (x0, y0), (x1, y1) = start, end
    skips = x1 - x0 > 1.5 * STEP
    for i, arrow in enumerate(arrows):
        side = i - (len(arrows) - 1) / 2
        colour = STOPPED if arrow.stopped else FLOWS
        style = "--" if arrow.stopped else "-"
        shift = 0.13 * side
        if y0 == y1:
            a, b = (x0 + WIDE / 2, y0 + shift), (x1 - WIDE / 2, y1 + shift)
            bend = 0.0
            if skips:  # around what stands between
                a, b = (x0 + 0.2, y0 - HIGH / 2), (x1 - 0.2, y1 - HIGH / 2)
                bend = 0.22
        else:
            a, b = (x0 + 0.2 + 0.3 * side, y0 - HIGH / 2), (x1 - WIDE / 2, y1 + shift)
            bend = 0.12
        patch = FancyArrowPatch(
            a, b, arrowstyle="-|>", mutation_scale=10, color=colour, linestyle=style, lw=1.3,
            connectionstyle=f"arc3,rad={bend}", shrinkA=0, shrinkB=0,
        )  # fmt: skip
        axis.add_patch(patch)
        along = 0.5 + 0.16 * side if y0 != y1 else 0.5
        x, y = _on_curve(a, b, bend, along)
        lift = 0.1 if y0 == y1 else 0
        text = "×".join(map(str, arrow.shape)) + (" ‖" if arrow.stopped else "")
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.9}
        axis.text(
            x, y + lift, text, fontsize=6.5, color=colour, ha="center", va="center",
            bbox=box, zorder=2.5,
        )  # fmt: skip


def _on_curve(a: Place, b: Place, bend: float, t: float) -> Place:
    """A point of matplotlib's arc3: a parabola whose control point stands off the middle."""
    start, end = np.array(a), np.array(b)
    across = end - start
    control = (start + end) / 2 + bend * np.array([across[1], -across[0]])
    x, y = (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end
    return float(x), float(y)


def _table(axis: Axes, flow: "Flow", width: float) -> None:
    """A line for each output: the parts that its gradient reaches."""
    parts = list(next(iter(flow.trains.values())))
    axis.set_xlim(0, width)
    axis.set_ylim(len(flow.trains) + 0.6, -0.7)
    axis.axis("off")
    axis.text(0.15, 0, "a loss on … trains (asked of autograd)", fontsize=8, va="center")
    left, step = 2.9, min(1.5, (width - 3.2) / len(parts))
    for j, part in enumerate(parts):
        axis.text(left + step * (j + 0.5), 0, part, fontsize=7, ha="center", va="center")
    for i, (output, reached) in enumerate(flow.trains.items(), start=1):
        axis.text(0.15, i, output, fontsize=8, va="center")
        for j, part in enumerate(parts):
            yes = reached[part]
            axis.text(
                left + step * (j + 0.5), i, "yes" if yes else "no", fontsize=8, ha="center",
                va="center", color=FLOWS if yes else STOPPED, weight="bold" if yes else "normal",
            )  # fmt: skip


# ---- the network as built ------------------------------------------------------------------------


Shape = tuple[int, ...]
IMAGE = "image"


@dataclass(frozen=True)
class Arrow:
    """A tensor from one box to another: its shape (C, H, W), and whether its gradient is stopped."""

    start: str
    end: str
    shape: Shape
    stopped: bool


@dataclass
class Flow:
    """What passed: ``boxes`` by the order of their calls, with their parameters; ``arrows``;
    ``trains``: for each output the parts that its gradient reaches; ``frozen``: the calls whose own
    weights get no gradient from what the call gives."""

    boxes: dict[str, int] = field(default_factory=dict)
    arrows: list[Arrow] = field(default_factory=list)
    trains: dict[str, dict[str, bool]] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)


def draw(wanted: FigureRequest) -> str:
    """flow.png, flow.svg, flow.csv (an arrow a line), flow-gradients.csv (an output a line)."""
    if len(wanted.runs) != 1:
        raise HfgdError("figure flow takes one recipe: a name of 'hfgd recipes' or a YAML file.")
    recipe = _recipe(wanted.runs[0])
    size = wanted.size or recipe.augment.crop
    if min(size) < 1:
        raise HfgdError(f"--size takes a height and a width of at least 1, not {size}.")
    flow = traced(_built(recipe, wanted.how.code), size)
    wanted.table(
        {
            "from": arrow.start,
            "to": arrow.end.removeprefix("→ "),
            "shape": "×".join(map(str, arrow.shape)),
            "gradient": "stopped" if arrow.stopped else "flows",
        }
        for arrow in flow.arrows
    )
    wanted.table(
        (
            {"output": name, **{part: "yes" if v else "no" for part, v in parts.items()}}
            for name, parts in flow.trains.items()
        ),
        "gradients",
    )
    wanted.save(picture(flow, f"{recipe.name}, {size[0]}×{size[1]} (height × width)"))
    lines = [
        f"{name} trains {', '.join(part for part, yes in parts.items() if yes) or 'nothing'}"
        for name, parts in flow.trains.items()
    ]
    return "\n".join(lines)


def _recipe(name: str) -> Recipe:
    stored = Path(name) / "recipe.yaml"  # a run's own
    return find_recipe(str(stored) if stored.is_file() else name)


def _built(recipe: Recipe, code: Path | None) -> Network:
    classes = ClassSet.numbered(CLASS_COUNTS.get(recipe.dataset or "", 59))
    with torch.device("meta"):
        if recipe.network is not None:
            return find_builder(recipe.network.name, code)(classes, **recipe.network.arguments)
        return build(recipe.model.with_backbone(pretrained=False), classes)


def parts_of(network: Network) -> dict[str, nn.Module]:
    """The modules that become boxes: the network's own, and those of its HFGM and auxiliary FCN."""
    names = {"tokens": "class tokens", "axial": "axial attention"}
    parts: dict[str, nn.Module] = {}
    for name, child in network.named_children():
        if isinstance(child, HFGM | AuxFCN):  # what may stop a gradient stands open
            before = "auxiliary " if isinstance(child, AuxFCN) else ""
            inside = child.named_children()
            parts |= {before + names.get(inner, inner): part for inner, part in inside}
        else:
            parts[name] = child
    return parts


def traced(network: Network, size: Size) -> Flow:
    """What happens to a batch of two images of ``size`` in training."""
    parts = parts_of(network)
    flow, seen = Flow(), _Seen()
    handles = [
        part.register_forward_hook(_watch(name, part, flow, seen)) for name, part in parts.items()
    ]
    network.train()
    device = next(network.parameters()).device
    image = torch.zeros(2, 3, *size, device=device)  # batch norm wants more than one value
    seen.add(IMAGE, image)
    flow.boxes[IMAGE] = 0
    flow.arrows.clear()
    try:
        output = network(image, all_branches=True)
    finally:
        for handle in handles:
            handle.remove()
    for name, tensor in output._asdict().items():
        if not isinstance(tensor, Tensor):
            continue
        title = f"→ {name.replace('_', ' ')}"
        flow.boxes[title] = 0
        flow.arrows += seen.arrows_to(title, tensor)
        flow.trains[title.removeprefix("→ ")] = {
            part: _reaches(tensor, module) for part, module in parts.items() if _size(module)
        }
    return flow


def _watch(name: str, part: nn.Module, flow: Flow, seen: "_Seen") -> Any:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        given, made = list(_tensors(inputs)), list(_tensors(output))
        if all(any(o is i for i in given) for o in made):
            return  # it hands on what it was given: no box
        calls = sum(box.split(" #")[0] == name for box in flow.boxes)
        title = f"{name} #{calls + 1}" if calls else name
        flow.boxes[title] = _size(part)
        for tensor in given:
            flow.arrows += seen.arrows_to(title, tensor)
        for tensor in made:
            seen.add(title, tensor)
        if _size(part) and not any(_reaches(o, part) for o in made):
            flow.frozen.add(title)

    return hook


class _Seen:
    """Which box made which tensor."""

    def __init__(self) -> None:
        self._alive: list[Any] = []  # so that no memory or node is used for another
        self._of_memory: dict[int, tuple[str, Tensor]] = {}
        self._of_node: dict[Any, tuple[str, Tensor]] = {}

    def add(self, box: str, tensor: Tensor) -> None:
        self._alive += [tensor, tensor.grad_fn]
        self._of_memory[tensor.untyped_storage()._cdata] = (box, tensor)
        if tensor.grad_fn is not None:
            self._of_node[tensor.grad_fn] = (box, tensor)

    def arrows_to(self, end: str, tensor: Tensor) -> list[Arrow]:
        """The arrows by which a tensor that is given to a box came from earlier ones."""
        made = self._of_memory.get(tensor.untyped_storage()._cdata)
        if made is not None:  # itself, or itself detached
            box, original = made
            stopped = original.requires_grad and not tensor.requires_grad
            return [Arrow(box, end, tuple(original.shape[1:]), stopped)]
        found = [self._of_node[node] for node in self._sources(tensor.grad_fn)]
        return [Arrow(box, end, tuple(x.shape[1:]), stopped=False) for box, x in found]

    def _sources(self, node: Any) -> list[Any]:
        """The nearest nodes before ``node`` that are a box's output, each once."""
        found, waiting, been = [], [node], set()
        while waiting:
            here = waiting.pop(0)
            if here is None or here in been:
                continue
            been.add(here)
            if here in self._of_node:
                found.append(here)
            else:
                waiting += [before for before, _ in here.next_functions]
        return found


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _reaches(output: Tensor, part: nn.Module) -> bool:
    """Whether a gradient of ``output`` arrives at any parameter of a part."""
    parameters = [p for p in part.parameters() if p.requires_grad]
    if not parameters or not output.requires_grad:
        return False
    grads = torch.autograd.grad(
        output, parameters, torch.ones_like(output), retain_graph=True, allow_unused=True
    )
    return any(grad is not None for grad in grads)


def _size(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())
