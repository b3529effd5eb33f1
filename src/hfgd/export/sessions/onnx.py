"""ONNX files, run by onnxruntime."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from hfgd.export.sessions.base import missing, only_fp32, unreadable
from hfgd.progress import say
from hfgd.types import Precision

CPU, GPU = "CPUExecutionProvider", "CUDAExecutionProvider"


class OnnxSession:
    """See Session. A GPU is used where it is asked for and onnxruntime has a part for it."""

    properties: Mapping[str, str]
    precision: str = "fp32"

    def __init__(
        self, path: Path, device: str | None, precision: Precision, facts_only: bool
    ) -> None:
        only_fp32(path, precision)
        try:
            import onnxruntime
        except ImportError as error:
            raise missing(path, "onnxruntime", "export") from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised, and told once
        if facts_only:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        providers = _providers(device, onnxruntime.get_available_providers())
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime has an exception for each way
            raise unreadable(path, "ONNX file", error) from error
        self.properties = self._session.get_modelmeta().custom_metadata_map
        self._names = [output.name for output in self._session.get_outputs()]
        self._giving_back = onnxruntime.RunOptions()
        arenas = "cpu:0;gpu:0" if GPU in self._session.get_providers() else "cpu:0"
        self._giving_back.add_run_config_entry("memory.enable_memory_arena_shrinkage", arenas)

    def __call__(
        self, images: npt.NDArray[Any], give_back: bool = False
    ) -> dict[str, npt.NDArray[Any]]:
        options = self._giving_back if give_back else None
        outputs = self._session.run(self._names, {"image": images}, options)
        return dict(zip(self._names, outputs, strict=True))


def _providers(device: str | None, available: Sequence[str]) -> list[str]:
    if device is None or not device.startswith("cuda"):
        return [CPU]
    if GPU in available:
        return [GPU, CPU]
    say("this onnxruntime has no part for GPUs (onnxruntime-gpu has): the file runs on the CPU")
    return [CPU]
