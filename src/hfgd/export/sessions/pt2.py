"""AOTInductor's packages: machine code of the network, for this kind of CPU, run by torch."""

import platform
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from hfgd.data.archive import BROKEN_ZIP, read_bounded
from hfgd.errors import HfgdError
from hfgd.export.sessions.base import missing, only_fp32, unreadable
from hfgd.parse import parse_json
from hfgd.types import Precision

FACTS = "extra/hfgd.json"  # below the package's own top folder


class Pt2Session:
    """See Session."""

    properties: Mapping[str, str]
    precision: str = "fp32"

    def __init__(
        self, path: Path, device: str | None, precision: Precision, facts_only: bool
    ) -> None:
        only_fp32(path, precision)
        try:
            with zipfile.ZipFile(path) as package:
                names = [name for name in package.namelist() if name.endswith(FACTS)]
                content = read_bounded(package, names[0], f"{path}:{names[0]}") if names else b"{}"
                found = parse_json(content.decode(), f"'{path}'")
        except (*BROKEN_ZIP, HfgdError) as error:
            raise unreadable(path, "AOTInductor package", error) from error
        texts = isinstance(found, dict) and all(isinstance(v, str) for v in found.values())
        if not texts:
            raise unreadable(path, "AOTInductor package", ValueError("its facts are no texts"))
        self.properties = found
        machine = self.properties.get("machine", platform.machine())
        if machine != platform.machine():
            raise HfgdError(
                f"'{path}' holds machine code for {machine}, and this is {platform.machine()}; "
                "export it on such a machine, or as ONNX."
            )
        if facts_only:
            return
        try:
            import torch
            from torch._inductor import aoti_load_package
        except ImportError as error:
            raise missing(path, "torch", "export") from error
        self._torch = torch
        try:
            self._model = aoti_load_package(str(path))
        except Exception as error:  # whatever the loader says
            raise unreadable(path, "AOTInductor package", error) from error

    def __call__(
        self, images: npt.NDArray[Any], give_back: bool = False
    ) -> dict[str, npt.NDArray[Any]]:
        with self._torch.inference_mode():
            outputs = self._model(self._torch.from_numpy(images))
        return {
            name: output.numpy()
            for name, output in zip(("labels", "logits"), outputs, strict=False)
        }
