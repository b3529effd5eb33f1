"""From a path to a Labeller, whatever lies there. Torch is imported where a network is."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hfgd.export.runtime import read_facts
from hfgd.export.sessions import is_exported
from hfgd.geometry import Size
from hfgd.inference.exported import FileLabeller
from hfgd.inference.protocol import find_protocol
from hfgd.values import Branch, Precision

if TYPE_CHECKING:
    from hfgd.inference.networks import NetworkLabeller


@dataclass(frozen=True)
class How:
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

    def on(self, device: str) -> "How":
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


def open_labeller(path: str, how: How) -> "FileLabeller | NetworkLabeller":
    """The labeller of a run folder, a model folder or an exported file.

    Raises HfgdError for what is none, and for what an exported file cannot do.
    """
    if is_exported(path):
        return FileLabeller(path, how.protocol, how.branch, how.device, how.precision, how.code)
    from hfgd.checkpoint import load_model, read_config
    from hfgd.inference.networks import NetworkLabeller
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
