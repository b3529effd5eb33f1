"""The one exception for mistakes a user can mend, and the sentence for a misspelt name."""

from collections.abc import Iterable
from difflib import get_close_matches

LONG = 100  # letters of a name that is compared with others


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
    """An error for a name that does not exist, with the nearest known one."""
    names = sorted(known)
    # finding the nearest of long names takes minutes
    near = get_close_matches(name, names, n=1, cutoff=0.5) if len(name) <= LONG else []
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}."
    name = name if len(name) <= LONG else f"{name[:LONG]}…"
    return HfgdError(f"there is no {kind} named '{name}'; {hint}")
