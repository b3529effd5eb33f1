"""The network as machine code: torch.export and AOTInductor, for servers that have torch."""

import json
import platform
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from hfgd.errors import HfgdError
from hfgd.export.check import noise
from hfgd.export.onnx import TRACED, cannot, quiet
from hfgd.export.sessions.pt2 import FACTS
from hfgd.export.wrapper import ExportWrapper
from hfgd.progress import say
from hfgd.types import Size


def write_pt2(
    whole: ExportWrapper, size: Size | None, name: str, logits: bool, full: Path, final: Path
) -> None:
    """Write ``full``, with labels and logits, and ``final``, with the ``logits`` if asked for."""
    if shutil.which("c++") is None and shutil.which("g++") is None:
        raise HfgdError("pt2 is compiled by a C++ compiler, and there is none; install g++.")
    _compile(whole, whole, size, name, full)
    if logits:
        shutil.copy(full, final)
    else:
        _compile(_LabelsOnly(whole), whole, size, name, final)


class _LabelsOnly(nn.Module):
    def __init__(self, whole: ExportWrapper) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.whole(image)[0],)


def _compile(
    module: nn.Module, whole: ExportWrapper, size: Size | None, name: str, path: Path
) -> None:
    from torch._inductor import aoti_compile_and_package

    # Dim.AUTO makes of a batch of one, and of what it cannot prove, fixed sizes without a word: the
    # trace has two images, and the check tries sizes
    auto = torch.export.Dim.AUTO
    axes = None if size else ({0: auto, 2: auto, 3: auto},)
    image = whole.as_input(noise(size or TRACED, count=1 if size else 2))
    say("export: compiling, which takes minutes")
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(module, (image,), dynamic_shapes=axes, strict=False)
            aoti_compile_and_package(program, package_path=str(path))
    except Exception as error:  # both raise what they like
        raise cannot(name, "pt2", error) from error


def put_pt2(path: Path, properties: Mapping[str, str]) -> None:
    """Write what the package says of itself, and for which machines it is, into it."""
    with zipfile.ZipFile(path, "a") as package:
        top = package.namelist()[0].split("/")[0]
        content = {**properties, "machine": platform.machine()}
        package.writestr(f"{top}/{FACTS}", json.dumps(content))
