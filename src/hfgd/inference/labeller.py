"""The Labeller: the one way from an image to its labels, for scores, files, panels and the service.

A PyTorch network (networks.py) and an exported file (exported.py) both fulfil it. No torch in here:
a file runs without.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from hfgd.data.classes import ClassSet
from hfgd.data.images import Pixels
from hfgd.export.runtime import read_facts
from hfgd.export.sessions import is_exported
from hfgd.inference import protocol as protocols
from hfgd.inference.file_labeller import FileLabeller
from hfgd.inference.protocol import find_protocol
from hfgd.types import Branch, Precision, Size

if TYPE_CHECKING:
    from hfgd.inference.torch_labeller import NetworkLabeller


if TYPE_CHECKING:
    from torch import Tensor

    # some rows of an image and their scores (rows, W, K) fp32, whose softmax over K is the
    # probabilities → what is wanted of them, (rows, W, …)
    Reduce = Callable[[slice, Tensor], Tensor]


class Labeller(Protocol):
    """RGB image → label map at its size."""

    classes: ClassSet
    protocol: protocols.Protocol
    branch: Branch
    precision: str
    gives_scores: bool  # whether ``reduced`` can be asked
    calibrated_on: str | None  # data/split that an int8 file took its scales from

    def labels(self, image: "Tensor") -> "Tensor":
        """(3, H, W) uint8 RGB → class ids (H, W) uint8, on the labeller's own device."""

    def reduced(self, image: "Tensor", reduce: "Reduce") -> "Tensor":
        """(3, H, W) uint8 RGB → whatever ``reduce`` makes of every pixel's scores, (H, W, …).

        The scores of the whole image are never there at once. Raises HfgdError for an exported file
        that gives labels alone.
        """

    def __call__(self, pixels: Pixels) -> Pixels:
        """(H, W, 3) uint8 RGB → class ids (H, W) uint8."""


# ---- opening a model -----------------------------------------------------------------------------


@dataclass(frozen=True)
class InferenceConfig:
    """How a model is to label: what the command line may say.

    ``protocol``: ss, mf, slide or a YAML file. ``branch``: the model's own where None.
    ``device``: the GPU where there is one. ``precision``: see ``parallel/device.py``. ``crop``: the
    window of 'slide', the model's own training crop where None. ``code``: a folder whose code the
    model may run, see ``hfgd.code``.
    """

    protocol: str = "ss"
    branch: Branch | None = None
    device: str | None = None
    precision: Precision = "fp32"
    crop: Size | None = None
    code: Path | None = None

    def on(self, device: str) -> "InferenceConfig":
        """The same on a device."""
        return replace(self, device=device)


class Origin(NamedTuple):
    """Where a model comes from: its recipe's ``name``, its training ``crop``, and its two places.

    ``place``: the folder, or the exported file; ``weights``: the file that holds the numbers.
    """

    name: str
    crop: Size
    place: Path
    weights: Path


def origin(path: str) -> Origin:
    """What lies at a path; raises HfgdError for what is no model."""
    if is_exported(path):
        facts, file = read_facts(path), Path(path)
        return Origin(facts.name, facts.crop, file, file)
    from hfgd.checkpoint import WEIGHTS, model_folder, read_config

    folder = model_folder(path)
    config = read_config(folder)
    return Origin(config.name, config.crop, folder, folder / WEIGHTS)


def open_labeller(path: str, how: InferenceConfig) -> "FileLabeller | NetworkLabeller":
    """The labeller of a run folder, a model folder or an exported file.

    Raises HfgdError for what is none, and for what an exported file cannot do.
    """
    if is_exported(path):
        return FileLabeller(path, how.protocol, how.branch, how.device, how.precision, how.code)
    from hfgd.checkpoint import load_model, read_config
    from hfgd.inference.torch_labeller import NetworkLabeller
    from hfgd.parallel.device import pick_device

    config = read_config(path)
    device = pick_device(how.device)
    return NetworkLabeller(
        load_model(path, device, code=how.code),
        find_protocol(how.protocol, how.crop or config.crop),
        how.branch or config.branch,
        device,
        how.precision,
    )
