"""What the runtimes have in common."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from hfgd.errors import HfgdError
from hfgd.types import Precision


class Session(Protocol):
    """A file that was opened. ``properties``: the strings that it says of itself; ``precision``: what
    it computes in, where its numbers are floats."""

    properties: Mapping[str, str]
    precision: str

    def __init__(
        self, path: Path, device: str | None, precision: Precision, facts_only: bool
    ) -> None: ...

    def __call__(
        self, images: npt.NDArray[Any], give_back: bool = False
    ) -> dict[str, npt.NDArray[Any]]:
        """The outputs by name for images (N, 3, H, W) of the type that the file takes.

        ``give_back``: the runtime returns its working memory afterwards, rather than keep it.
        """


def missing(path: Path, runtime: str, extra: str) -> HfgdError:
    """For a runtime that is not installed."""
    return HfgdError(
        f"'{path}' is run by {runtime}, which is not installed; pip install 'hfgd[{extra}]', "
        f"or {runtime} alone."
    )


def unreadable(path: Path, kind: str, error: Exception) -> HfgdError:
    """For a file that the runtime does not take."""
    return HfgdError(
        f"'{path}' is truncated or no {kind} that can be run here ({first_words(error)}); "
        "export it again."
    )


def only_fp32(path: Path, precision: Precision) -> None:
    """For a runtime that computes as the file says."""
    if precision not in ("fp32", "auto"):
        raise HfgdError(f"'{path}' holds fp32 numbers; leave --precision {precision} out.")


def first_words(error: Exception) -> str:
    """What an error says, on one line and not all of it."""
    return " ".join(str(error).split())[:160]
