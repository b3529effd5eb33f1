"""The network: ``segmenter.py`` first, then ``hfgm.py``."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfgd.model.class_tokens import ClassTokens
    from hfgd.model.hfgm import HFGM
    from hfgd.model.network import Network
    from hfgd.model.output import SegOutput
    from hfgd.model.segmenter import Segmenter
    from hfgd.model.spec import GUIDANCE, BackboneSpec, ModelSpec
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
    "GUIDANCE": "spec",
    "HFGM": "hfgm",
    "BackboneSpec": "spec",
    "ClassTokens": "class_tokens",
    "ModelSpec": "spec",
    "Network": "network",
    "SegOutput": "output",
    "Segmenter": "segmenter",
    "lifted": "upsamplers",
}


def __getattr__(name: str) -> Any:
    """Import on first use: reading a recipe needs ``spec`` alone, and no PyTorch."""
    if name in _MODULES:
        return getattr(import_module(f"hfgd.model.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'hfgd.model' has no attribute '{name}'")
