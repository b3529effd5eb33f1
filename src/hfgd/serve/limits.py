"""What the service takes, and the refusals: strangers send what they like."""

import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeVar

from PIL import Image, UnidentifiedImageError

from hfgd.data.images import Pixels, open_image, read_image
from hfgd.errors import HfgdError
from hfgd.types import Size

DECODING = 32  # bytes a pixel that reading a file, drawing its overlay and writing it take at most
T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """``bytes`` of a request; ``pixels`` of an image; ``formats`` as Pillow names them; ``queue``:
    requests that may be in hand at once, further ones are turned away; ``seconds`` for a request;
    ``memory``: bytes that the images in work may need together; ``drain``: seconds that requests in
    hand have when the service is stopped.
    """

    bytes: int = 20_000_000
    pixels: int = 25_000_000
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "BMP")
    queue: int = 16
    seconds: float = 60.0
    memory: int = 4_000_000_000
    drain: int = 10

    @property
    def side(self) -> int:
        """The longest side: attention along it costs its square, in time if not in memory."""
        return 4 * math.isqrt(self.pixels)


class Refused(Exception):
    """A request that gets a status and one sentence instead of an answer."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class Memory:
    """Bytes that may be needed at once; whoever wants some waits until there is enough."""

    def __init__(self, most: int) -> None:
        self.most, self._used = most, 0
        self._turn, self._freed = threading.Lock(), threading.Condition()

    @contextmanager
    def share(self, needed: int) -> Iterator[None]:
        """Hold ``needed`` bytes, at most ``most``; first come, first served."""
        with self._turn, self._freed:
            self._freed.wait_for(lambda: self._used + needed <= self.most)
            self._used += needed
        try:
            yield
        finally:
            with self._freed:
                self._used -= needed
                self._freed.notify_all()


def usual_memory(workers: int) -> int:
    """4 GB, and at most half of what this machine or container has, shared by the workers."""
    has = [2 * Limits.memory * workers]
    try:
        has.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        has.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (AttributeError, OSError, ValueError):  # another system, no container, no limit
        pass
    return min(has) // 2 // workers


def measured(content: bytes, limits: Limits) -> Size:
    """Stored height and width of an image, from its header; raises Refused as ``decoded``."""
    return _read(content, limits, lambda image: (image.height, image.width))


def decoded(content: bytes, limits: Limits) -> Pixels:
    """A file as (H, W, 3) uint8 RGB; its header is read, and judged, before any pixel.

    Raises Refused: 415 for what is no image of these formats, 413 for too many pixels.
    """
    return _read(content, limits, read_image)


def _read(content: bytes, limits: Limits, read: Callable[[Image.Image], T]) -> T:
    try:
        with open_image(BytesIO(content), limits.formats) as image:
            count = image.width * image.height
            if count > limits.pixels:
                raise Refused(
                    413,
                    f"the image has {count:,} pixels, and at most {limits.pixels:,} are taken; "
                    "scale it down.",
                )
            longest = limits.side
            if max(image.size) > longest:
                raise Refused(
                    413,
                    f"the image has a side of {max(image.size):,} pixels, and at most {longest:,} are "
                    "taken; cut it into parts.",
                )
            return read(image)
    except UnidentifiedImageError as error:
        known = ", ".join(limits.formats)
        raise Refused(415, f"this is no image of a format that is taken ({known}).") from error
    except Image.DecompressionBombError as error:
        most = min(limits.pixels, 2 * (Image.MAX_IMAGE_PIXELS or limits.pixels))  # Pillow's own
        raise Refused(413, f"the image has more than {most:,} pixels; scale it down.") from error
    except HfgdError as error:
        raise Refused(415, str(error)) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise Refused(415, "the image is broken or truncated.") from error
