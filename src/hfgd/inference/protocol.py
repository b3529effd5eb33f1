"""How an image reaches its labels, as data; written into every result (paper §4, Tables 10–16).

``ss``: the whole image, one scale, no flip. ``mf``: scales 0.5 … 1.75 and flips, logits resized to
the image and averaged. ``slide``: windows of the training crop. All can be combined.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from hfgd.errors import HfgdError, unknown
from hfgd.parse import read_yaml
from hfgd.types import Grid, Side, Size, Spans, Spec


class Protocol(Spec):
    """``window`` and ``stride`` (height, width) for sliding; the stride is 2/3 of the window unless
    given, and at most the window, so that every pixel is seen.

    ``average``: of logits, as the paper's code does, or of probabilities. ``short_side``: resize
    the image to that short side first (MMSegmentation's convention); scores stay at the label's own
    size. ``window_batch``: windows that go through the network at once.
    """

    name: str = "ss"
    window: tuple[Side, Side] | None = None
    stride: tuple[Side, Side] | None = None
    scales: tuple[Annotated[float, Field(gt=0, le=16)], ...] = Field((1.0,), min_length=1)
    flip: bool = False
    average: Literal["logits", "probs"] = "logits"
    short_side: Side | None = None
    window_batch: int = Field(4, gt=0, le=4096)

    @model_validator(mode="after")
    def _sees_every_pixel(self) -> "Protocol":
        if self.stride is not None and self.window is None:
            raise ValueError("a stride needs a window; give window: [height, width]")
        if self.stride and self.window and any(s > w for s, w in zip(self.stride, self.window)):  # noqa: B905
            raise ValueError(
                f"stride {list(self.stride)} is larger than window {list(self.window)}, which would "
                "leave pixels unseen; make it at most the window"
            )
        return self

    def passes(self) -> list[tuple[float, bool]]:
        """Scale and flip of each pass over the image."""
        return [(s, f) for s in self.scales for f in ((False, True) if self.flip else (False,))]

    def scaled(self, size: Size, scale: float, grid: Grid) -> Size:
        """The image's size in one pass.

        As in the authors' code a side is cut to whole pixels; on the corners grid an odd side stays
        odd, so that every level still spans it from corner to corner.
        """
        factor = scale * (self.short_side / min(size) if self.short_side else 1)
        height, width = (self._side(n, factor, grid) for n in size)
        return height, width

    @staticmethod
    def _side(n: int, factor: float, grid: Grid) -> int:
        side = max(1, int(n * factor + 1e-6))
        return side + 1 if grid is Grid.CORNERS and n % 2 and side % 2 == 0 else side

    def windows(self, size: Size) -> tuple[Spans, Spans]:
        """Rows and columns of the windows over an image, the last flush with the border."""
        if self.window is None:
            return ((0, size[0]),), ((0, size[1]),)
        stride = self.stride or (2 * self.window[0] // 3, 2 * self.window[1] // 3)
        rows, columns = (
            _spans(n, window, step)
            for n, window, step in zip(size, self.window, stride, strict=True)
        )
        return rows, columns

    def describe(self) -> str:
        """The protocol in words, for reports."""
        how = "whole image"
        if self.window is not None:
            how = f"windows of {self.window[0]}×{self.window[1]} (height × width)"
            how += f", stride {self.stride[0]}×{self.stride[1]}" if self.stride else ", stride 2/3"
        scales = "one scale"
        if self.scales != (1.0,):
            scales = f"scales {', '.join(f'{s:g}' for s in self.scales)}"
        parts = [how, scales, "flip" if self.flip else "no flip"]
        if len(self.passes()) > 1 or self.window is not None:
            parts.append(f"{self.average} averaged")
        if self.short_side:
            parts.append(f"short side resized to {self.short_side}")
        return f"{self.name}: {', '.join(parts)}; against the label file at its own size"


def _spans(side: int, window: int, step: int) -> Spans:
    window = min(window, side)
    starts = [*range(0, side - window, max(1, step)), side - window]
    return tuple((start, window) for start in starts)


MF_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
SINGLE_SCALE = Protocol()
PROTOCOLS = {
    "ss": SINGLE_SCALE,
    "mf": Protocol(name="mf", scales=MF_SCALES, flip=True),
    "slide": Protocol(name="slide"),
}


def find_protocol(name: str, crop: Size) -> Protocol:
    """'ss', 'mf', 'slide' (windows of the training ``crop``), or a YAML file with a Protocol's keys.

    Raises HfgdError for an unknown name and for a file that is none, naming the key.
    """
    if name == "slide":
        return PROTOCOLS["slide"].model_copy(update={"window": crop})
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise unknown("protocol", name, PROTOCOLS)
    content = read_yaml(path, f"protocol '{path}'")
    if not isinstance(content, dict):
        raise HfgdError(f"protocol '{path}' cannot be read as YAML keys such as 'scales:'.")
    try:
        return Protocol.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise HfgdError(f"'{path}': {unknown('key', key, Protocol.model_fields)}") from error
        message = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise HfgdError(f"'{path}': {key + ': ' if key else ''}{message}.") from error
