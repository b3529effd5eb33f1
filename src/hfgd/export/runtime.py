"""An exported file as a labeller, with onnxruntime and numpy: nothing in here imports torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hfgd.data.classes import ClassSet
from hfgd.errors import HfgdError
from hfgd.export.facts import Facts
from hfgd.geometry import Size

if TYPE_CHECKING:
    from hfgd.data.images import Pixels

CPU = ("CPUExecutionProvider",)


class ExportedModel:
    """RGB image → label map at its size, by a file that ``hfgd export`` wrote.

    ``providers``: onnxruntime's, in order of preference. ``facts`` is what the file says of itself.
    Raises HfgdError for a file that is missing, damaged or foreign, and without onnxruntime.
    """

    def __init__(self, path: str | Path, providers: Sequence[str] = CPU) -> None:
        self.path = Path(path)
        self._session = open_session(self.path, providers)
        self.facts = _facts_of(self._session, self.path)
        self.classes: ClassSet = self.facts.class_set

    def __call__(self, pixels: "Pixels") -> "Pixels":
        """(H, W, 3) uint8 RGB → class ids (H, W) uint8."""
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise HfgdError(
                f"an image array must be (H, W, 3) uint8 RGB, not {pixels.shape} {pixels.dtype}; "
                "convert it first."
            )
        labels: Pixels = self.batch(pixels.transpose(2, 0, 1)[None])[0]
        return labels

    def batch(self, images: "Pixels") -> "Pixels":
        """(N, 3, H, W) uint8 RGB → class ids (N, H, W) uint8."""
        labels: Pixels = self._run(images, "labels")
        return labels

    @property
    def gives_logits(self) -> bool:
        """Whether the file was written with --logits."""
        return any(output.name == "logits" for output in self._session.get_outputs())

    def logits(self, images: "Pixels") -> npt.NDArray[np.float32]:
        """(N, 3, H, W) uint8 RGB → logits (N, K, H, W); HfgdError where the file gives none."""
        logits: npt.NDArray[np.float32] = self._run(images, "logits")
        return logits

    def _run(self, images: "Pixels", name: str) -> Any:
        height, width = images.shape[2:]
        self._check_size((height, width))
        x: npt.NDArray[Any] = self._padded(images)
        if self.facts.input == "float":
            x = x.astype(np.float32) / 255
        outputs = run(self._session, self.path, x)
        if name not in outputs:
            raise HfgdError(
                f"'{self.path}' gives labels alone, and this needs its logits; export it with --logits."
            )
        return outputs[name][..., :height, :width]

    def _check_size(self, size: Size) -> None:
        only = self.facts.size
        if only is not None and size != only:
            raise HfgdError(
                f"'{self.path}' takes images of {only[0]}×{only[1]} (height × width) only, not "
                f"{size[0]}×{size[1]}; export the model without --size."
            )

    def _padded(self, images: "Pixels") -> "Pixels":
        """Filled up to the smallest size at the right and the bottom, with the mean colour."""
        count, _, height, width = images.shape
        size = max(height, self.facts.smallest[0]), max(width, self.facts.smallest[1])
        if size == (height, width):
            return np.ascontiguousarray(images)
        mean = np.rint(255 * np.array(self.facts.mean)).astype(np.uint8)
        padded = np.empty((count, 3, *size), dtype=np.uint8)
        padded[:] = mean[:, None, None]
        padded[:, :, :height, :width] = images
        return padded


def read_facts(path: str | Path) -> Facts:
    """What an exported file says of itself; raises HfgdError as ExportedModel does."""
    return _facts_of(open_session(Path(path), CPU, optimise=False), Path(path))


def open_session(path: Path, providers: Sequence[str], optimise: bool = True) -> Any:
    """An onnxruntime session; raises HfgdError without onnxruntime, and for what is no ONNX file."""
    try:
        import onnxruntime
    except ImportError as error:
        raise HfgdError(
            f"'{path}' is run by onnxruntime, which is not installed; install hfgd[export], or "
            "onnxruntime alone."
        ) from error
    if not path.is_file():
        raise HfgdError(f"there is no file '{path}'; 'hfgd export RUN' writes one.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, and told once
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # onnxruntime has an exception for each way
        raise HfgdError(
            f"'{path}' is truncated or no ONNX file that onnxruntime can run "
            f"({_first_words(error)}); export it again."
        ) from error


def run(session: Any, path: Path, images: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """The outputs by name, for images (N, 3, H, W) of the file's type; HfgdError where it fails."""
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, {"image": images}), strict=True))
    except Exception as error:
        if "memory" in str(error).lower() or "alloc" in str(error).lower():
            raise MemoryError(str(error)) from error
        size = "×".join(map(str, images.shape[2:]))
        raise HfgdError(
            f"'{path}' cannot label an image of {size} (height × width): {_first_words(error)}"
        ) from error


def _facts_of(session: Any, path: Path) -> Facts:
    properties = session.get_modelmeta().custom_metadata_map
    try:
        return Facts.of_properties(properties)
    except ValueError as error:
        why = "it does not name its classes"
        if "hfgd.classes" in properties:
            why = "what it says of itself is damaged, or of a newer hfgd"
        raise HfgdError(
            f"'{path}' is an ONNX file that 'hfgd export' did not write ({why}); export it again."
        ) from error


def _first_words(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
