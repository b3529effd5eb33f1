"""The network: ``segmenter.py`` first, then ``hfgm.py``."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfgd.model.config import GUIDANCE, BackboneSpec, ModelSpec
    from hfgd.model.hfgm import HFGM, ClassTokens
    from hfgd.model.network import Network, SegOutput
    from hfgd.model.segmenter import Segmenter
    from hfgd.model.upsamplers import lifted

__all__ = [
    "GUIDANCE",
    "HFGM",
    "BackboneSpec",
    "ClassTokens",
    "ModelSpec",
    "Network",
    "SegOutput",
    "Segmenter",
    "lifted",
]
_MODULES = {
    "GUIDANCE": "config",
    "HFGM": "hfgm",
    "BackboneSpec": "config",
    "ClassTokens": "hfgm",
    "ModelSpec": "config",
    "Network": "network",
    "SegOutput": "network",
    "Segmenter": "segmenter",
    "lifted": "upsamplers",
}


def __getattr__(name: str) -> Any:
    """Import on first use: reading a recipe needs ``spec`` alone, and no PyTorch."""
    if name in _MODULES:
        return getattr(import_module(f"hfgd.model.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'hfgd.model' has no attribute '{name}'")
