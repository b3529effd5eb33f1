"""hfgd: High-level Feature Guided Decoding for semantic segmentation.

model = hfgd.create("hfgd_resnet50", num_classes=19)
model = hfgd.load("runs/my_run")
result = model.predict("street.jpg")   # result.labels, result.overlay(), result.save(path)
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["HfgdError", "create", "load"]

if TYPE_CHECKING:
    from hfgd.api import create, load
    from hfgd.errors import HfgdError


def __getattr__(name: str) -> Any:
    """Import on first use: ``hfgd --help`` should not wait for PyTorch."""
    if name == "HfgdError":
        from hfgd.errors import HfgdError

        return HfgdError
    if name in ("create", "load"):
        from hfgd import api

        return getattr(api, name)
    raise AttributeError(f"module 'hfgd' has no attribute '{name}'")
