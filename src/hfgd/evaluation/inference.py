"""From an image to its labels under a protocol, in bounded memory.

Logits stay at the network's own resolution; they are brought to the image's size a strip of rows at
a time and, where there is one pass and one window, reduced to labels at once. Otherwise they are
added into ONE accumulator (K, H, W), whatever the number of windows, scales and flips. It is made
after the largest scale's passes, whose logits wait at the network's resolution.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from hfgd.evaluation.protocol import SINGLE_SCALE, Protocol, Spans
from hfgd.geometry import Frame, Grid, Size
from hfgd.model.segmenter import Branch, Segmenter

STRIP = 1 << 22  # values of a strip: 16 MiB in fp32


def label_image(
    model: Segmenter,
    image: Tensor,
    protocol: Protocol = SINGLE_SCALE,
    branch: Branch = "fine",
) -> Tensor:
    """Labels (H, W) uint8 of one image (1, 3, H, W) in [0, 1], on the image's device.

    The model is used in the mode it is in; see ``evaluating``.
    """
    size = (image.shape[-2], image.shape[-1])
    # the largest passes come first: what they need of memory is given back before there is a total
    passes = sorted(protocol.passes(), key=lambda scale_flip: -scale_flip[0])
    total: Tensor | None = None
    held: list[tuple[Tensor, Axis, Axis]] = []
    for scale, flip in passes:
        if held and scale < passes[0][0]:
            total = _add(total, held, size, protocol)
        scaled_size = protocol.scaled(size, scale, model.backbone.grid)
        scaled = model.backbone.grid.resize(image, scaled_size)
        scaled = scaled.flip(-1) if flip else scaled
        rows, columns = protocol.windows(scaled_size)
        alone = len(passes) == len(rows) == len(columns) == 1
        for top, left, logits, frame in _windows(model, scaled, rows, columns, protocol, branch):
            y = Axis(size[0], scaled_size[0], top, frame, 0, rows)
            x = Axis(size[1], scaled_size[1], left, frame, 1, columns, flip)
            if alone:
                return torch.cat([s.argmax(0).to(torch.uint8) for _, s in _strips(logits, y, x)])
            held.append((logits, y, x))
            if total is not None:
                total = _add(total, held, size, protocol)
    total = _add(total, held, size, protocol)
    labels = [
        part.argmax(0).to(torch.uint8) for part in torch.split(total, _strip_rows(total), dim=1)
    ]
    return torch.cat(labels)


def _add(
    total: Tensor | None, held: list[tuple[Tensor, "Axis", "Axis"]], size: Size, protocol: Protocol
) -> Tensor:
    """Add the windows that are held to the accumulator (K, H, W), and let them go."""
    if total is None:
        total = torch.zeros(len(held[0][0]), *size, device=held[0][0].device)
    while held:
        logits, y, x = held.pop()
        columns_here = slice(x.first, x.last)
        for rows_here, strip in _strips(logits, y, x):
            if protocol.average == "probs":
                strip = strip.softmax(0)
            strip *= x.share  # 1 / number of windows that see the pixel
            total[:, rows_here, columns_here] += strip.mul_(y.share_of(rows_here))
    return total


def _windows(
    model: Segmenter, image: Tensor, rows: Spans, columns: Spans, protocol: Protocol, branch: Branch
) -> Iterator[tuple[int, int, Tensor, Frame]]:
    """Each window's top, left and low-resolution logits (K, h, w), computed in batches."""
    places = [(top, left) for top, _ in rows for left, _ in columns]
    height, width = rows[0][1], columns[0][1]
    for start in range(0, len(places), protocol.window_batch):
        batch = places[start : start + protocol.window_batch]
        crops = [image[..., top : top + height, left : left + width] for top, left in batch]
        output = model(torch.cat(crops), all_branches=branch != "fine")
        for (top, left), logits in zip(batch, output.branch(branch), strict=True):
            yield top, left, logits.float(), output.frame


class Axis:
    """Where the pixels of the image along one axis lie on a window's low-resolution map.

    ``first`` and ``last`` bound the pixels that the window sees; ``low``, ``high`` and ``weight``
    are the two samples around each of them; ``share`` is 1 / number of windows that see it.
    """

    def __init__(
        self,
        side: int,
        scaled_side: int,
        start: int,
        frame: Frame,
        axis: int,
        spans: Spans,
        flip: bool = False,
    ) -> None:
        i = torch.arange(side, dtype=torch.float64)
        i = i.flip(0) if flip else i
        corners = frame.grid is Grid.CORNERS
        # the pixel in the scaled image: corner on corner, or half a pixel in from the edge
        place = (
            i * (scaled_side - 1) / max(1, side - 1) if corners else _centre(i, side, scaled_side)
        )
        edge = 1e-6 if corners else 0.5
        seen = torch.stack(
            [(place >= begin - edge) & (place <= begin + n - 1 + edge) for begin, n in spans]
        )
        mine = [begin for begin, _ in spans].index(start)
        inside = seen[mine].nonzero().flatten()
        self.first, self.last = int(inside[0]), int(inside[-1]) + 1
        self.frame, self.axis = frame, axis
        self._place = place[self.first : self.last] - start
        self.share = (1 / seen.sum(0)[self.first : self.last]).float()

    def share_of(self, rows: slice) -> Tensor:
        """The share of some rows of the image, as a column."""
        return self.share[rows.start - self.first : rows.stop - self.first, None]

    def samples(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Lower sample, upper sample and the upper one's weight, on a map of ``count`` samples."""
        padded = self.frame.padded[self.axis]
        if self.frame.grid is Grid.CORNERS:
            position = self._place * (count - 1) / max(1, padded - 1)
        else:
            position = _centre(self._place, padded, count)
        position = position.clamp(0, count - 1)
        low = position.floor().long()
        return low, (low + 1).clamp(max=count - 1), (position - low).float()


def _centre(i: Tensor, side: int, other: int) -> Tensor:
    """The centre of pixel i of ``side`` pixels, in units of ``other`` pixels."""
    return (i + 0.5) * other / side - 0.5


def _strips(logits: Tensor, y: Axis, x: Axis) -> Iterator[tuple[slice, Tensor]]:
    """Bilinear logits (K, rows, columns) for the pixels that the window sees, rows by strips."""
    device = logits.device
    y_low, y_high, y_weight = (t.to(device) for t in y.samples(logits.shape[1]))
    x_low, x_high, x_weight = (t.to(device) for t in x.samples(logits.shape[2]))
    x.share, y.share = x.share.to(device), y.share.to(device)
    rows = max(1, STRIP // (len(logits) * len(x_low)))
    for start in range(0, len(y_low), rows):
        part = slice(start, start + rows)
        low = logits.index_select(1, y_low[part])
        high = logits.index_select(1, y_high[part])
        lines = torch.lerp(low, high, y_weight[part, None])  # (K, rows, w)
        strip = torch.lerp(lines.index_select(2, x_low), lines.index_select(2, x_high), x_weight)
        first = y.first + start
        yield slice(first, first + strip.shape[1]), strip


def _strip_rows(total: Tensor) -> int:
    return max(1, STRIP // (total.shape[0] * total.shape[2]))
