"""The network as ONNX, which onnxruntime alone can run."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hfgd.errors import HfgdError
from hfgd.export.check import noise
from hfgd.export.wrapper import ExportWrapper
from hfgd.progress import say
from hfgd.types import Size

TRACED = (75, 107)  # on neither grid exact, and no side a multiple of the other
ONE_FILE = 1_500_000_000  # bytes of weights; protobuf ends at 2 GiB with all that is around them


def write_onnx(
    whole: ExportWrapper, size: Size | None, name: str, logits: bool, full: Path, final: Path
) -> None:
    """Write ``full``, with labels and logits, and ``final``, with the ``logits`` if asked for.

    ``name``: the model's parts, for messages. Raises HfgdError where it cannot be made.
    """
    program = traced(whole, size, name)
    split = sum(tensor.nbytes for tensor in whole.state_dict().values()) > ONE_FILE
    program.save(full, external_data=split)
    if not logits:
        program.model.graph.outputs.pop()
    program.save(final, external_data=split)
    if split:
        say(f"export: too large for one file: '{final.name}.data' belongs to '{final.name}'")


def put_onnx(path: Path, properties: Mapping[str, str]) -> None:
    """Write what the file says of itself into it."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(properties))
    onnx.save(model, path)


def traced(whole: ExportWrapper, size: Size | None, name: str) -> Any:
    """The ONNX program; raises HfgdError, naming the model's parts, where it cannot be made."""
    axes = None if size else ({0: "batch", 2: "height", 3: "width"},)
    image = whole.as_input(noise(size or TRACED, count=1 if size else 2))
    try:
        with torch.no_grad(), quiet():
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
        raise cannot(name, "ONNX", error) from error
    for node in _nodes(program.model):
        node.metadata_props.clear()  # stack traces, with the paths of this machine
    return program


def _nodes(model: Any) -> Iterator[Any]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def cannot(name: str, what: str, error: BaseException) -> HfgdError:
    """For a network that a format does not take; says the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return HfgdError(
        f"{name} cannot be exported to {what}: {reason}; choose another part, or run it with PyTorch."
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's remarks to its own developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch._export", "torch.utils")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
