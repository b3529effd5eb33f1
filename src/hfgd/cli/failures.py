"""What ``main`` says of errors that are no HfgdError: of the system, and of hfgd itself."""

import errno
import os
import sys

from hfgd.files import is_disk_full
from hfgd.text import one_line

LONGEST = 2000  # letters of a message
UNEXPECTED = 70  # as sysexits.h calls it: an error in the program itself


def printable(message: str) -> str:
    """A message on one line, whatever foreign names are in it, and not longer than a page."""
    message = one_line(message)
    if len(message) > LONGEST:
        message = f"{message[: LONGEST - 500]} … {message[-490:]}"  # its end says what to do
    return message


def sentence_of(error: Exception) -> str | None:
    """The sentence for a disk or a file that cannot be; None for any other error."""
    name = getattr(error, "filename", None)
    if is_disk_full(error):
        what = f" while writing '{name}'" if name else ""
        return f"the disk is full{what}; make room and go on."
    if not isinstance(error, OSError):
        return None
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"no permission for '{name}'; choose another place."
    if name is not None and error.strerror:  # a file or folder that cannot be
        return f"'{name}': {error.strerror.lower()}; choose another place."
    return None


def report(error: Exception) -> tuple[str, str]:
    """Two lines for an error that hfgd did not foresee; the traceback goes into a file."""
    import tempfile
    import traceback

    from hfgd import __version__

    text = "".join(traceback.format_exception(error))
    if os.environ.get("HFGD_TRACEBACK"):
        place = "above"
        print(text, file=sys.stderr)
    else:
        try:
            handle, name = tempfile.mkstemp(prefix="hfgd-traceback-", suffix=".txt")
            place = f"in {name}"
            with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"hfgd {__version__}, Python {sys.version}\n{text}")
        except OSError:
            place = "above"
            print(text, file=sys.stderr)
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return (
        f"unexpected error in hfgd {__version__} ({said});",
        f"the traceback is {place}, please report it.",
    )
