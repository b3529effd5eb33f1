"""Images that are in two splits at once: the same pixels, or nearly the same picture.

A picture's fingerprint is a digest of its pixels, and a difference hash: 64 bits that say, of its
thumbnail of 9 × 8 grey values, where it gets brighter to the right.
"""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from hfgd.data.images import Pixels

MOST_BITS = 4  # that differ between pictures that are nearly the same
MOST_GREY = 8.0  # mean difference of their thumbnails, 0 to 255: flat pictures have hashes of noise
BLOCK = 1 << 22  # pairs that are compared at a time
_ONES = np.array([number.bit_count() for number in range(1 << 16)], dtype=np.uint8)


class Print(NamedTuple):
    """The fingerprint of a picture: ``bits`` (4,) uint16, ``thumbnail`` (8, 9) uint8."""

    digest: bytes
    bits: np.ndarray
    thumbnail: np.ndarray


class Twin(NamedTuple):
    """Two pictures, by name, and how many of 64 bits differ; None for the very same pixels."""

    first: str
    second: str
    bits: int | None


def fingerprint(pixels: Pixels) -> Print:
    """Of an image (H, W, 3) uint8 RGB."""
    digest = hashlib.blake2b(pixels.tobytes(), digest_size=16)
    digest.update(repr(pixels.shape).encode())
    small = Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX)
    thumbnail = np.asarray(small)
    brighter = thumbnail[:, 1:] > thumbnail[:, :-1]
    return Print(digest.digest(), np.packbits(brighter).view(np.uint16), thumbnail)


def twins(first: Mapping[str, Print], second: Mapping[str, Print]) -> list[Twin]:
    """For each picture of ``second`` the nearest one of ``first``, where there is a near one."""
    if not first or not second:
        return []
    names, others = list(first), list(second)
    same: dict[bytes, str] = {}
    for name, print_ in first.items():
        same.setdefault(print_.digest, name)
    bits, thumbnails = _stacked(first)
    other_bits, other_thumbnails = _stacked(second)
    found: list[Twin] = []
    rows = max(1, BLOCK // len(names))
    for start in range(0, len(others), rows):
        differ = other_bits[start : start + rows, None] ^ bits[None]  # (rows, N, 4)
        count = _ONES[differ].sum(axis=2, dtype=np.uint8)
        for row, counts in enumerate(count, start):
            exact = same.get(second[others[row]].digest)
            if exact is not None:
                found.append(Twin(exact, others[row], None))
                continue
            near = np.flatnonzero(counts <= MOST_BITS)
            grey = np.abs(thumbnails[near] - other_thumbnails[row]).mean(axis=(1, 2))
            near = near[grey <= MOST_GREY]
            if len(near):
                best = int(near[np.argmin(counts[near])])
                found.append(Twin(names[best], others[row], int(counts[best])))
    return found


def describe(first_split: str, second_split: str, found: list[Twin]) -> list[str]:
    """Remarks: a sentence for each kind, then the pairs."""
    remarks = []
    exact = sum(twin.bits is None for twin in found)
    advice = {
        "the same": "scores on them say little, and 'hfgd data split' keeps groups together",
        "nearly the same": "if they show one scene, 'hfgd data split' keeps it on one side; if the "
        "groups are right already, they only look alike",
    }
    for number, what in ((exact, "the same"), (len(found) - exact, "nearly the same")):
        if number:
            remarks.append(
                f"'{second_split}' has images that are {what} as images of '{first_split}': {number}; "
                f"{advice[what]}"
            )
    for twin in sorted(found, key=lambda twin: (-1 if twin.bits is None else twin.bits, twin)):
        how = "same pixels" if twin.bits is None else f"{twin.bits} of 64 bits differ"
        remarks.append(f"{second_split}/{twin.second} is {first_split}/{twin.first}: {how}")
    return remarks


def _stacked(prints: Mapping[str, Print]) -> tuple[np.ndarray, np.ndarray]:
    bits = np.stack([print_.bits for print_ in prints.values()])
    return bits, np.stack([print_.thumbnail for print_ in prints.values()]).astype(np.int16)
