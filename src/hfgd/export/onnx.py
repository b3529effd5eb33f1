"""From a network to one ONNX file that was checked before it is left behind."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from hfgd import __version__
from hfgd.checkpoint import describe
from hfgd.errors import HfgdError
from hfgd.export.check import Checked, Pair, check_dynamic, compare, noise
from hfgd.export.facts import UNKNOWN, Facts, Input
from hfgd.export.runtime import CPU, open_session
from hfgd.export.whole import Whole
from hfgd.geometry import Size
from hfgd.model.config import ModelConfig
from hfgd.model.network import Network
from hfgd.progress import say

TRACED = (75, 107)  # on neither grid exact, and no side a multiple of the other
ONE_FILE = 1_500_000_000  # bytes of weights; protobuf ends at 2 GiB with all that is around them


def export_onnx(
    network: Network,
    path: str | Path,
    *,
    size: Size | None = None,
    logits: bool = False,
    input: Input = "uint8",
) -> list[Checked]:
    """Write ``path``, a file that onnxruntime alone can run; returns how it was checked.

    In: ``image`` (N, 3, H, W) RGB, uint8 or float of [0, 1]. Out: ``labels`` (N, H, W) uint8, and
    ``logits`` (N, K, H, W) where asked for. ``size``: the only height and width that the file takes,
    one image at a time; any without it. Raises HfgdError for what cannot be exported and, before a
    file is left behind, where its labels are not those of the network.
    """
    path = Path(path)
    if size is not None and min(size) < 1:
        raise HfgdError(f"--size takes a height and a width of at least 1, not {size}.")
    if path.suffix != ".onnx":
        raise HfgdError(f"'{path}' should end in .onnx, by which hfgd knows such files.")
    config = describe(network)
    whole = Whole(network, config.branch, input)
    say("export: tracing the network, which takes a while")
    program = traced(whole, size, config)
    path.parent.mkdir(parents=True, exist_ok=True)
    # beside the target, so that it is moved there at once, and an older one stays if a check fails
    with TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        full, final = Path(folder) / "full.onnx", Path(folder) / path.name
        split = _bytes(whole) > ONE_FILE
        program.save(full, external_data=split)
        if not logits:
            program.model.graph.outputs.pop()
        program.save(final, external_data=split)
        pair = Pair(whole, path, open_session(full, CPU), open_session(final, CPU))
        checked, smallest = _checked(pair, size, config)
        del pair
        facts = facts_of(network, config, input, size, smallest)
        program.model.metadata_props.update(facts.as_properties())
        program.save(final, external_data=split)
        open_session(final, CPU, optimise=False)  # the properties were written last
        for file in sorted(Path(folder).glob(f"{path.name}*"), reverse=True):  # weights first
            os.replace(file, path.parent / file.name)
    if split:
        say(f"export: too large for one file: '{path.name}.data' belongs to '{path.name}'")
    return checked


def traced(whole: Whole, size: Size | None, config: ModelConfig) -> Any:
    """The ONNX program; raises HfgdError, naming the model's parts, where it cannot be made."""
    _require("onnx", "onnxscript", "onnxruntime")
    axes = None if size else ({0: "batch", 2: "height", 3: "width"},)
    image = whole.as_input(noise(size or TRACED, count=1 if size else 2))
    try:
        with torch.no_grad(), _quiet():
            program: Any = torch.onnx.export(
                whole,
                (image,),
                input_names=["image"],
                output_names=["labels", "logits"],
                dynamic_shapes=axes,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # torch.export and the translation raise what they like
        raise HfgdError(
            f"{_parts(config)} cannot be exported to ONNX: {_reason(error)}; choose another part, "
            "or run it with PyTorch."
        ) from error
    for node in _nodes(program.model):
        node.metadata_props.clear()  # stack traces, with the paths of this machine
    return program


def facts_of(
    network: Network, config: ModelConfig, input: Input, size: Size | None, smallest: int
) -> Facts:
    """What the file is to say of itself."""
    mean: Tensor = network.mean.flatten()
    return Facts(
        version=__version__,
        name=config.name,
        classes=network.classes.names,
        palette=network.classes.palette,
        grid=network.grid,
        input=input,
        branch=config.branch,
        size=size,
        smallest=size or (smallest, smallest),
        crop=config.crop,
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=config.std,
        licence_of_weights=str(config.facts.get("licence", UNKNOWN)),
        licence_of_backbone=config.licence_of_backbone or UNKNOWN,
    )


def _checked(pair: Pair, size: Size | None, config: ModelConfig) -> tuple[list[Checked], int]:
    if size is not None:
        return [compare(pair, f"image {i + 1}", size, seed=i) for i in range(3)], min(size)
    with torch.no_grad():
        frame = pair.network.network(noise(config.crop).float() / 255).frame
    return check_dynamic(pair, TRACED, frame.padded)


def _bytes(whole: Whole) -> int:
    return sum(tensor.nbytes for tensor in whole.state_dict().values())


def _nodes(model: Any) -> Iterator[Any]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def _require(*packages: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise HfgdError(f"exporting needs {', '.join(missing)}; install hfgd[export].")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks to its own developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _parts(config: ModelConfig) -> str:
    spec = config.model
    if spec is None:
        return f"the network '{config.name}'"
    return (
        f"'{config.name}' (backbone '{spec.backbone.name}', encoder '{spec.encoder}', upsampler "
        f"'{spec.upsampler}')"
    )


def _reason(error: BaseException) -> str:
    """The innermost cause, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
