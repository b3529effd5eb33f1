"""OpenVINO's files: ``model.xml`` with its weights beside it in ``model.bin``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from hfgd.errors import HfgdError
from hfgd.export.sessions.base import missing, unreadable
from hfgd.types import Precision

INFO = "hfgd"  # the properties' place in the model's runtime information


class OpenvinoSession:
    """See Session. ``precision`` bf16 is OpenVINO's own way to compute where the CPU has it; fp32
    is said to it aloud, for on such CPUs it would take bf16 by itself."""

    properties: Mapping[str, str]
    precision: str = "fp32"

    def __init__(
        self, path: Path, device: str | None, precision: Precision, facts_only: bool
    ) -> None:
        try:
            import openvino
        except ImportError as error:
            raise missing(path, "openvino", "openvino") from error
        if not path.with_suffix(".bin").is_file():
            raise HfgdError(
                f"'{path}' has its weights in '{path.with_suffix('.bin').name}', which is not beside "
                "it; keep the two files together."
            )
        if precision == "fp16":
            raise HfgdError(f"'{path}' is run on the CPU; use --precision fp32, bf16 or auto.")
        try:
            core = openvino.Core()
            model = core.read_model(path)
            self.properties = _properties(model)
            if not facts_only:
                settings = {"PERFORMANCE_HINT": "LATENCY"}
                if precision != "auto":
                    settings["INFERENCE_PRECISION_HINT"] = "f32" if precision == "fp32" else "bf16"
                self._model = core.compile_model(model, "CPU", settings)
                taken = str(self._model.get_property("INFERENCE_PRECISION_HINT"))
                self.precision = "bf16" if "bf" in taken else "fp32"
        except Exception as error:  # whatever its C++ says
            raise unreadable(path, "OpenVINO model", error) from error

    def __call__(
        self, images: npt.NDArray[Any], give_back: bool = False
    ) -> dict[str, npt.NDArray[Any]]:
        outputs = self._model([images])
        found = {port.get_any_name(): value for port, value in outputs.items()}
        if give_back:
            found = {name: value.copy() for name, value in found.items()}
            del outputs
            self._model.release_memory()
        return found


def _properties(model: Any) -> dict[str, str]:
    if not model.has_rt_info([INFO]):
        return {}
    found = model.get_rt_info([INFO]).astype(dict)
    return {f"{INFO}.{key}": value.astype(str) for key, value in found.items()}
