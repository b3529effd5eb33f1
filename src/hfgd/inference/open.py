"""From a path to a Labeller, whatever lies there."""

from dataclasses import dataclass, replace

from hfgd.checkpoint import load_model, read_config
from hfgd.geometry import Size
from hfgd.inference.labeller import Labeller, NetworkLabeller
from hfgd.inference.protocol import find_protocol
from hfgd.model.output import Branch
from hfgd.parallel.device import Precision, pick_device


@dataclass(frozen=True)
class How:
    """How a model is to label: what the command line may say.

    ``protocol``: ss, mf, slide or a YAML file. ``branch``: the model's own where None.
    ``device``: the GPU where there is one. ``precision``: see ``parallel/device.py``. ``crop``: the
    window of 'slide', the model's own training crop where None.
    """

    protocol: str = "ss"
    branch: Branch | None = None
    device: str | None = None
    precision: Precision = "fp32"
    crop: Size | None = None

    def on(self, device: str) -> "How":
        """The same on a device."""
        return replace(self, device=device)


def open_labeller(path: str, how: How) -> Labeller:
    """The labeller of a run folder or model folder. Raises HfgdError for what is none."""
    config = read_config(path)
    device = pick_device(how.device)
    return NetworkLabeller(
        load_model(path, device),
        find_protocol(how.protocol, how.crop or config.crop),
        how.branch or config.branch,
        device,
        how.precision,
    )
