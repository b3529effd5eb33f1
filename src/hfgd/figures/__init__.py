"""The paper's figures from any runs and data: one file a figure, one dict of them all."""

from collections.abc import Callable

import matplotlib

from hfgd.errors import HfgdError, unknown
from hfgd.evaluation.plots import AS_WRITTEN
from hfgd.figures import features, flow, observation, panels, tokens
from hfgd.figures.common import FigureRequest

# what ``hfgd figure NAME`` takes; each writes pictures and tables and returns what to tell
FIGURES: dict[str, Callable[[FigureRequest], str]] = {
    "1": observation.draw,
    "3": panels.draw,
    "4": features.draw,
    "6": tokens.draw,
    "7": panels.draw,
    "8": panels.draw,
    "9": panels.draw,
    "flow": flow.draw,
}


def draw(wanted: FigureRequest) -> str:
    """Draw a figure; returns what there is to tell. Raises HfgdError for a name that is none."""
    if wanted.name not in FIGURES:
        raise HfgdError(
            f"{unknown('figure', wanted.name, FIGURES)} Figures 2 and 5 of the paper are drawings of "
            "the network, for which there is 'flow'."
        )
    with matplotlib.rc_context(AS_WRITTEN):
        return FIGURES[wanted.name](wanted)


__all__ = ["FIGURES", "FigureRequest", "draw"]
