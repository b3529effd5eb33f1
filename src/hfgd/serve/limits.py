"""What the service takes, and the refusals: strangers send what they like."""

from dataclasses import dataclass
from io import BytesIO

from PIL import Image, UnidentifiedImageError

from hfgd.data.images import Pixels, open_image, read_image
from hfgd.errors import HfgdError


@dataclass(frozen=True)
class Limits:
    """``bytes`` of a request; ``pixels`` of an image; ``formats`` as Pillow names them; ``queue``:
    requests that may be in hand at once, further ones are turned away; ``seconds`` for a request.
    """

    bytes: int = 20_000_000
    pixels: int = 25_000_000
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "BMP")
    queue: int = 16
    seconds: float = 60.0


class Refused(Exception):
    """A request that gets a status and one sentence instead of an answer."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


def decoded(content: bytes, limits: Limits) -> Pixels:
    """A file as (H, W, 3) uint8 RGB; its header is read, and judged, before any pixel.

    Raises Refused: 415 for what is no image of these formats, 413 for too many pixels.
    """
    try:
        with open_image(BytesIO(content), limits.formats) as image:
            count = image.width * image.height
            if count > limits.pixels:
                raise Refused(
                    413,
                    f"the image has {count:,} pixels, and at most {limits.pixels:,} are taken; "
                    "scale it down.",
                )
            return read_image(image)
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
