"""The network: ``segmenter.py`` first, then ``hfgm.py``."""

from hfgd.model.build import build
from hfgd.model.segmenter import Segmenter, SegOutput
from hfgd.model.spec import BackboneSpec, ModelSpec

__all__ = ["BackboneSpec", "ModelSpec", "SegOutput", "Segmenter", "build"]
