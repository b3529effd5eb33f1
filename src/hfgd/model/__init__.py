"""The network: ``segmenter.py`` first, then ``hfgm.py``."""

from hfgd.model.build import build
from hfgd.model.network import Network
from hfgd.model.output import SegOutput
from hfgd.model.segmenter import Segmenter
from hfgd.model.spec import BackboneSpec, ModelSpec

__all__ = ["BackboneSpec", "ModelSpec", "Network", "SegOutput", "Segmenter", "build"]
