"""The one exception for mistakes a user can mend, and the sentence for a misspelt name."""

from collections.abc import Iterable
from difflib import get_close_matches

LONG = 100  # letters of a name that is compared with others
NEAREST = 3  # names that are proposed for one that does not exist
FEW = 12  # names that are given whole
LISTED = {  # what lists all names of a kind
    "recipe": "'hfgd recipes'",
    "table or row": "'hfgd recipes'",
    "table": "'hfgd recipes'",
    "data set of the paper": "'hfgd recipes'",
    "known data set": "'hfgd data info'",
    "format": "'hfgd data import --help'",
    "backbone": "timm.list_models()",
}


class HfgdError(Exception):
    """Bad input from outside: a path, a key, a file, a value.

    The message is one clear sentence that names the thing and says what to do; the command
    line prints it without a traceback and exits with ``exit_code``.
    """

    exit_code = 2


class TrainingStopped(HfgdError):
    """A run that cannot go on (a non-finite loss, for one); what it has saved stays good."""

    exit_code = 3


def unknown(kind: str, name: str, known: Iterable[str]) -> HfgdError:
    """An error for a name that does not exist: the three nearest ones, and what lists all of them.

    A list of at most ``FEW`` names is given whole where none of them is near.
    """
    names = sorted(known)
    if len(name) > LONG:  # finding the nearest of long names takes minutes
        name = f"{name[:LONG]}…"
    near = [other for other in names if name and name.casefold() in other.casefold()][:NEAREST]
    near = get_close_matches(name, names, n=NEAREST, cutoff=0.5) or near
    if near:
        *others, last = (f"'{other}'" for other in near)
        hint = f"did you mean {', '.join(others)} or {last}?" if others else f"did you mean {last}?"
    elif len(names) <= FEW:
        hint = f"known: {', '.join(names)}."
    else:
        near = get_close_matches(name, names, n=NEAREST, cutoff=0) or names[:NEAREST]
        hint = f"there are {len(names):,}, {', '.join(near)} among them."
    listing = f" See {LISTED[kind]}." if kind in LISTED and len(names) > NEAREST else ""
    return HfgdError(f"there is no {kind} named '{name}'; {hint}{listing}")
