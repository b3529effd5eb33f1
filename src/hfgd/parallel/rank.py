"""Which of the processes that were started together this one is. No torch in here."""

import os


def launched() -> tuple[int, int]:
    """This process's rank and their number, as whoever started them says: also before they join."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return 0, 1


def is_main() -> bool:
    """Whether this is the process that writes files and talks."""
    return launched()[0] == 0
