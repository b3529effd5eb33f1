"""The network as OpenVINO's model, by way of ONNX: for CPUs, where it is the fastest."""

import os
from collections.abc import Mapping
from pathlib import Path

from hfgd.export.onnx import write_onnx
from hfgd.export.sessions.openvino import INFO
from hfgd.export.wrapper import ExportWrapper
from hfgd.types import Size


def write_openvino(
    whole: ExportWrapper, size: Size | None, name: str, logits: bool, full: Path, final: Path
) -> None:
    """Write ``full`` and ``final`` as ``write_onnx`` does; each is two files, .xml and .bin."""
    import openvino

    files = {path: path.with_suffix(".onnx") for path in (full, final)}
    write_onnx(whole, size, name, logits, *files.values())
    for path, file in files.items():
        # fp16 weights would make it another model
        openvino.save_model(openvino.convert_model(file), path, compress_to_fp16=False)
        file.unlink()


def put_openvino(path: Path, properties: Mapping[str, str]) -> None:
    """Write what the model says of itself into it."""
    import openvino

    model = openvino.Core().read_model(path)
    for key, value in properties.items():
        model.set_rt_info(value, [INFO, key.removeprefix(f"{INFO}.")])
    part = path.with_name(f"part-{path.name}")  # the weights are still read from the old ones
    openvino.save_model(model, part, compress_to_fp16=False)
    del model
    for suffix in (".bin", ".xml"):
        os.replace(part.with_suffix(suffix), path.with_suffix(suffix))
