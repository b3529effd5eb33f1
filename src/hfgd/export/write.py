"""From a network to an exported file that was checked before it is left behind."""

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hfgd import __version__
from hfgd.checkpoint import describe
from hfgd.errors import HfgdError
from hfgd.export.check import Checked, ComparedPair, check_dynamic, compare, noise
from hfgd.export.html import export_html
from hfgd.export.int8 import CalibrationImages, compare_int8, quantised
from hfgd.export.metadata import UNKNOWN, Facts, Input
from hfgd.export.onnx import TRACED, put_onnx, write_onnx
from hfgd.export.openvino import put_openvino, write_openvino
from hfgd.export.pt2 import put_pt2, write_pt2
from hfgd.export.runtime import read_facts
from hfgd.export.sessions import open_session
from hfgd.export.wrapper import ExportWrapper
from hfgd.files import made
from hfgd.model.config import ModelConfig
from hfgd.model.memory import inference_memory
from hfgd.model.network import Network
from hfgd.progress import say
from hfgd.types import Size


class ExportFormat(NamedTuple):
    """How a kind of file is written: the network's two files, and what the file says of itself; and
    the packages that it needs, of an extra."""

    write: Callable[[ExportWrapper, Size | None, str, bool, Path, Path], None]
    put: Callable[[Path, Mapping[str, str]], None]
    needs: tuple[str, ...] = ()
    extra: str = "export"


ONNX = ("onnx", "onnxscript", "onnxruntime")
FORMATS = {  # by suffix; a new one is its file, its session, and one line
    ".onnx": ExportFormat(write_onnx, put_onnx, ONNX),
    ".xml": ExportFormat(write_openvino, put_openvino, ("openvino", *ONNX), "openvino"),
    ".pt2": ExportFormat(write_pt2, put_pt2),
}


def export_model(
    network: Network,
    path: str | Path,
    *,
    size: Size | None = None,
    logits: bool = False,
    input: Input = "uint8",
    int8: CalibrationImages | None = None,
) -> list[Checked]:
    """Write ``path``, a file that its runtime can run; returns how it was checked.

    The suffix says which kind: .onnx (onnxruntime), .xml and .bin (OpenVINO), .pt2 (AOTInductor) or
    .html (a page for a browser, see ``export_html``).
    In: ``image`` (N, 3, H, W) RGB, uint8 or float of [0, 1]. Out: ``labels`` (N, H, W) uint8, and
    ``logits`` (N, K, H, W) where asked for. ``size``: the only height and width that the file takes,
    one image at a time; any without it. ``int8``: images to calibrate an 8-bit file with; how
    much those change is told, not judged. Raises HfgdError for what cannot be exported and, before a
    file is left behind, where its fp32 labels are not those of the network.
    """
    path = Path(path)
    if path.suffix == ".html":
        return export_html(network, path, size=size, logits=logits, input=input, int8=int8)
    if size is not None and min(size) < 1:
        raise HfgdError(f"--size takes a height and a width of at least 1, not {size}.")
    if path.suffix not in FORMATS:
        raise HfgdError(
            f"'{path}' should end in {', '.join([*FORMATS, '.html'])}, by which hfgd knows such files."
        )
    if int8 is not None and path.suffix == ".pt2":
        raise HfgdError("--int8 is for ONNX and OpenVINO files; pt2 holds fp32 numbers.")
    format = FORMATS[path.suffix]
    _require(*format.needs, extra=format.extra)
    if int8 is not None:
        _require("nncf", extra="openvino")
    config = describe(network)
    whole = ExportWrapper(network, config.branch, input)
    say("export: tracing the network, which takes a while")
    with made(path.parent):
        return _written(network, path, config, whole, size, logits, int8)


def _require(*packages: str, extra: str) -> None:
    """Raise HfgdError where one of these packages is not installed."""
    lacking = [name for name in packages if find_spec(name) is None]
    if lacking:
        raise HfgdError(f"exporting needs {', '.join(lacking)}; pip install 'hfgd[{extra}]'.")


def _written(
    network: Network,
    path: Path,
    config: ModelConfig,
    whole: ExportWrapper,
    size: Size | None,
    logits: bool,
    int8: CalibrationImages | None,
) -> list[Checked]:
    format = FORMATS[path.suffix]
    # beside the target, so that it is moved there at once, and an older one stays if a check fails
    with TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        full, final = Path(folder) / f"with-logits-{path.name}", Path(folder) / path.name
        format.write(whole, size, _parts(config), logits, full, final)
        checked, smallest = _checked(whole, path, full, final, size, config)
        facts = facts_of(network, config, whole.input, size, smallest)
        memory = inference_memory(whole, _label, network.grid, len(network.classes), fused=False)
        facts = facts.model_copy(update={"memory": memory})
        if int8 is not None:
            quantised(final, facts, int8)
            checked.append(compare_int8(whole, path, final, facts, int8))
            facts = facts.model_copy(update={"precision": "int8", "calibrated_on": int8.title})
        format.put(final, facts.as_properties())
        read_facts(final)  # they were written last
        names = (path.name, f"{path.name}.data", f"{path.stem}.bin")
        mine = [file for file in Path(folder).iterdir() if file.name in names]
        for file in sorted(mine, key=lambda file: file.name == path.name):  # weights first
            os.replace(file, path.parent / file.name)
    return checked


def _label(whole: nn.Module, image: Tensor) -> Any:
    assert isinstance(whole, ExportWrapper)
    return whole(whole.as_input(image))


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


def _checked(
    whole: ExportWrapper,
    path: Path,
    full: Path,
    final: Path,
    size: Size | None,
    config: ModelConfig,
) -> tuple[list[Checked], int]:
    pair = ComparedPair(
        whole, path, open_session(full, code=full.parent), open_session(final, code=final.parent)
    )
    if size is not None:
        return [compare(pair, f"image {i + 1}", size, seed=i) for i in range(3)], min(size)
    with torch.no_grad():
        frame = whole.network(noise(config.crop).float() / 255).frame
    return check_dynamic(pair, TRACED, frame.padded)


def _parts(config: ModelConfig) -> str:
    spec = config.model
    if spec is None:
        return f"the network '{config.name}'"
    return (
        f"'{config.name}' (backbone '{spec.backbone.name}', encoder '{spec.encoder}', upsampler "
        f"'{spec.upsampler}')"
    )
