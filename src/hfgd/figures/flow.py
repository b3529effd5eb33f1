"""``hfgd figure flow RECIPE``: the network as built, with shapes and where gradients stop.

Nothing of it is drawn by hand. The network of the recipe is built on the meta device, where nothing is
computed, and one image passes. Boxes are the modules that were called; an arrow is a tensor that
left one and reached another, found by its memory or through autograd's graph; it is stopped where
the tensor had a gradient to give and no longer has. Which loss trains which part is what autograd
answers for each of the network's outputs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hfgd.data.classes import ClassSet
from hfgd.errors import HfgdError
from hfgd.figures.flow_picture import picture
from hfgd.figures.wanted import Wanted
from hfgd.geometry import Size
from hfgd.model.aux_fcn import AuxFCN
from hfgd.model.build import build, find_builder
from hfgd.model.hfgm import HFGM
from hfgd.model.network import Network
from hfgd.recipes import Recipe, find_recipe
from hfgd.recipes.tables import CLASS_COUNTS

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


def draw(wanted: Wanted) -> str:
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
