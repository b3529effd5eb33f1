"""The network: ``segmenter.py`` first, then ``hfgm.py``."""

from hfgd.model.build import build
from hfgd.model.class_tokens import ClassTokens
from hfgd.model.hfgm import GUIDANCE, HFGM
from hfgd.model.network import Network
from hfgd.model.output import SegOutput
from hfgd.model.segmenter import Segmenter
from hfgd.model.spec import BackboneSpec, ModelSpec
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
    "build",
    "lifted",
]
