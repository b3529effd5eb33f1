"""Exported files as sessions, one runtime a file; which one is said by the file's suffix.

A new runtime is its file here, its writer beside this folder, and one line in ``SESSIONS``. No torch
is imported in here, but by the runtime that is torch.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hfgd.code import check_program
from hfgd.errors import HfgdError
from hfgd.export.sessions.base import Session, first_words
from hfgd.export.sessions.onnx import OnnxSession
from hfgd.export.sessions.openvino import OpenvinoSession
from hfgd.export.sessions.pt2 import Pt2Session
from hfgd.hub import is_hub
from hfgd.types import Precision

SESSIONS: dict[str, type[Session]] = {
    ".onnx": OnnxSession,
    ".xml": OpenvinoSession,
    ".pt2": Pt2Session,
}

PROGRAMS = (".pt2",)  # files that are run, not read

__all__ = ["SESSIONS", "Session", "first_words", "is_exported", "open_session", "run"]


def is_exported(path: str | Path) -> bool:
    """Whether a path names an exported file: by its suffix."""
    return Path(path).suffix in SESSIONS and not is_hub(path)


def open_session(
    path: Path,
    device: str | None = None,
    precision: Precision = "fp32",
    facts_only: bool = False,
    code: str | Path | None = None,
) -> Session:
    """The session of a file. Raises HfgdError without its runtime, and for what is no such file.

    ``facts_only``: for its ``properties`` alone, which is quicker and runs nothing. ``code``: a folder
    whose programs may run, see ``hfgd.code``; only a .pt2 is one.
    """
    if path.suffix not in SESSIONS:
        raise HfgdError(f"'{path}' is no exported file: those end in {', '.join(SESSIONS)}.")
    if not path.is_file():
        raise HfgdError(f"there is no file '{path}'; 'hfgd export RUN' writes one.")
    if path.suffix in PROGRAMS and not facts_only:
        check_program(path, code)
    return SESSIONS[path.suffix](path, device, precision, facts_only)


def run(
    session: Session, path: Path, images: npt.NDArray[Any], give_back: bool = False
) -> dict[str, npt.NDArray[Any]]:
    """The outputs by name, for images (N, 3, H, W) of the file's type; HfgdError where it fails.

    ``give_back``: see Session.
    """
    try:
        images = np.ascontiguousarray(images)
        return session(images, True) if give_back else session(images)
    except Exception as error:  # each runtime raises what it likes
        if "memory" in str(error).lower() or "alloc" in str(error).lower():
            raise MemoryError(str(error)) from error
        size = "×".join(map(str, images.shape[2:]))
        raise HfgdError(
            f"'{path}' cannot label an image of {size} (height × width): {first_words(error)}"
        ) from error
