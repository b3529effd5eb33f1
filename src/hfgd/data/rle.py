"""COCO's run-length encoding of masks, with its lengths checked.

pycocotools reads the same, but gives a mask of left-over memory where the runs are too few.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from hfgd.errors import HfgdError

Mask = npt.NDArray[np.bool_]


def decode_mask(mask: dict[str, Any]) -> Mask:
    """COCO's run-length encoding → bool (H, W): runs down the columns, zeros first.

    ``counts`` are plain numbers, or COCO's text: five bits a character, each run after the third
    as the difference to the one before the last. Raises HfgdError where they are damaged.
    """
    height, width = mask["size"]
    counts = mask["counts"]
    if isinstance(counts, str | bytes):
        counts = _runs(counts if isinstance(counts, bytes) else counts.encode())
    if any(count < 0 for count in counts):
        raise HfgdError("a run-length mask has a negative run.")
    total = sum(counts)
    if total != height * width:
        raise HfgdError(f"a run-length mask covers {total} pixels instead of {height * width}.")
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape((height, width), order="F")


def _runs(text: bytes) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - 48
        if not 0 <= bits < 64:
            raise HfgdError(f"a run-length mask holds the character {bytes([character])!r}.")
        if shift > 60:
            raise HfgdError("a run-length mask holds a number that no image reaches.")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:  # the last character of this number; bit 4 is its sign
            if bits & 0x10:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    if shift:
        raise HfgdError("a run-length mask ends within a number.")
    return runs
