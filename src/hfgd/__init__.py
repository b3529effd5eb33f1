"""hfgd: High-level Feature Guided Decoding for semantic segmentation.

model = hfgd.create("hfgd_resnet50", num_classes=19)
model = hfgd.load("runs/my_run")
result = model.predict("street.jpg")   # result.labels, result.overlay(), result.save(path)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["HfgdError", "Network", "builder", "create", "load"]

if TYPE_CHECKING:
    __version__: str
    from hfgd.api import create, load
    from hfgd.errors import HfgdError
    from hfgd.model.build import builder
    from hfgd.model.network import Network

_PLACES = {
    "HfgdError": "hfgd.errors",
    "Network": "hfgd.model.network",
    "builder": "hfgd.model.build",
    "create": "hfgd.api",
    "load": "hfgd.api",
}


def __getattr__(name: str) -> Any:
    """Import on first use: ``hfgd --help`` should not wait for PyTorch."""
    if name == "__version__":
        from importlib.metadata import version

        return version("hfgd")
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'hfgd' has no attribute '{name}'")
