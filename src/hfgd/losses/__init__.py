"""The losses: ``terms.py`` puts them together; ``criteria.py`` names them, a file each."""

from hfgd.losses.criteria import CRITERIA
from hfgd.losses.spec import LossSpec, check_class_weights
from hfgd.losses.terms import loss_terms, pixel_weights

__all__ = ["CRITERIA", "LossSpec", "check_class_weights", "loss_terms", "pixel_weights"]
