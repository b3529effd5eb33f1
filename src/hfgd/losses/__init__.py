"""The losses: ``terms.py`` puts them together; the others are one criterion each."""

from hfgd.losses.terms import LossSpec, check_class_weights, loss_terms, pixel_weights

__all__ = ["LossSpec", "check_class_weights", "loss_terms", "pixel_weights"]
