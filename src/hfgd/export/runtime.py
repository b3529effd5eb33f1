"""An exported file as a function of arrays: nothing in here imports torch."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hfgd.data.classes import ClassSet
from hfgd.errors import HfgdError
from hfgd.export.metadata import Facts
from hfgd.export.sessions import Session, open_session, run
from hfgd.types import Memory, Precision, Size

if TYPE_CHECKING:
    from hfgd.data.images import Pixels


class ExportedModel:
    """RGB image → label map at its size, by a file that ``hfgd export`` wrote.

    The suffix says which runtime: see sessions/. ``facts`` is what the file says of itself, ``memory``
    what an image needs. ``keeps``: bytes that the runtime may keep for the next image; after one that
    needs more it gives all back. ``code``: a folder that holds the file, which a .pt2 needs, as it is
    a program. Raises HfgdError for a file that is missing, damaged or foreign, and without its runtime.
    """

    def __init__(
        self,
        path: str | Path,
        device: str | None = None,
        precision: Precision = "fp32",
        code: str | Path | None = None,
    ) -> None:
        self.path = Path(path)
        self._session = open_session(self.path, device, precision, code=code)
        self.facts = _facts_of(self._session, self.path)
        self.classes: ClassSet = self.facts.class_set
        quantised = self.facts.precision == "int8"
        self.precision = "int8" if quantised else self._session.precision
        self.memory = self.facts.memory or Memory.guess(len(self.facts.classes))
        self.keeps: float = math.inf

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
        """Whether the file was written with --logits: seen by a small image."""
        size = self.facts.size or self.facts.smallest
        x = self._input(np.zeros((1, 3, *size), dtype=np.uint8))
        return "logits" in run(self._session, self.path, x)

    def logits(self, images: "Pixels") -> npt.NDArray[np.float32]:
        """(N, 3, H, W) uint8 RGB → logits (N, K, H, W); HfgdError where the file gives none."""
        logits: npt.NDArray[np.float32] = self._run(images, "logits")
        return logits

    def _run(self, images: "Pixels", name: str) -> Any:
        height, width = images.shape[2:]
        self._check_size((height, width))
        give_back = self.memory.needed((height, width), self.facts.grid) > self.keeps
        outputs = run(self._session, self.path, self._input(images), give_back)
        if name not in outputs:
            raise HfgdError(
                f"'{self.path}' gives labels alone, and this needs its logits; export it with --logits."
            )
        return outputs[name][..., :height, :width]

    def _input(self, images: "Pixels") -> npt.NDArray[Any]:
        x: npt.NDArray[Any] = self._padded(images)
        return x.astype(np.float32) / 255 if self.facts.input == "float" else x

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
    return _facts_of(open_session(Path(path), facts_only=True), Path(path))


def _facts_of(session: Session, path: Path) -> Facts:
    properties = session.properties
    try:
        facts = Facts.of_properties(properties)
        _ = facts.class_set
        return facts
    except HfgdError as error:
        raise HfgdError(f"'{path}': {error}") from error
    except ValueError as error:
        why = "it does not name its classes"
        if "hfgd.classes" in properties:
            why = "what it says of itself is damaged, or of a newer hfgd"
        raise HfgdError(
            f"'{path}' is a file that 'hfgd export' did not write ({why}); export it again."
        ) from error
