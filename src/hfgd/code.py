"""Code that a model asks for: it runs only from a folder that the user names.

Loading a model runs nothing of the model's. Two kinds need code: a network of an ``@hfgd.builder``,
and a .pt2 file, which is a program. ``code``: the folder that the user trusts, or None.
"""

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from hfgd.errors import HfgdError


def import_function(name: str, code: str | Path | None) -> Any:
    """Import the function 'package.module:function' from the folder ``code``, and from nowhere else.

    Raises HfgdError without a folder, and where the folder does not hold it.
    """
    module, _, function = name.partition(":")
    top = module.partition(".")[0]
    if code is None:
        raise HfgdError(
            f"the model is built by '{name}', and its code runs only where you allow it: if you "
            f"trust that code, give the folder that holds '{top}' by --code FOLDER (code=FOLDER in "
            "Python)."
        )
    folder = Path(code).expanduser().resolve()
    if not folder.is_dir():
        raise HfgdError(f"--code: there is no folder '{code}'.")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    if not _lies_in(_spec(top), folder):
        raise HfgdError(f"the model is built by '{name}', and --code '{code}' holds no '{top}'.")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise HfgdError(
            f"the model is built by '{name}', which cannot be imported from '{code}' ({error})."
        ) from error


def check_program(path: Path, code: str | Path | None) -> None:
    """Raise HfgdError unless ``path``, a file of machine code, lies in the folder ``code``."""
    real = path.resolve()
    if code is None or not real.is_relative_to(Path(code).expanduser().resolve()):
        raise HfgdError(
            f"'{path}' is a program: running it runs machine code with your rights. If you trust "
            f"where it comes from, give its folder by --code '{path.parent}' (code=FOLDER in Python); "
            "an ONNX file needs no such trust."
        )


def _spec(top: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError):  # __main__ has none
        return None


def _lies_in(spec: ModuleSpec | None, folder: Path) -> bool:
    """Whether all of a module or package comes from a folder."""
    if spec is None:
        return False
    places = list(spec.submodule_search_locations or ())
    places += [spec.origin] if spec.has_location and spec.origin else []
    return bool(places) and all(
        Path(p).is_relative_to(folder) or Path(p).resolve().is_relative_to(folder) for p in places
    )
