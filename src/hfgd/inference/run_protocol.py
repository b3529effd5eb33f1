"""From an image to its labels under a protocol, in bounded memory.

Logits stay at the network's own resolution; they are brought to the image's size a strip of rows at
a time and, where there is one pass and one window, reduced to labels at once. Otherwise they are
added into ONE accumulator (H, W, K), whatever the number of windows, scales and flips, and divided by
the number of passes. It is made after the largest scale's passes, whose logits wait at the network's
resolution.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hfgd.inference.protocol import SINGLE_SCALE, Protocol
from hfgd.model.network import Network, best, check_output, place_of
from hfgd.resample import Axis, band_values, resize, strips, window_axis
from hfgd.types import Branch, Frame, Grid, Size, Spans

Reduce = Callable[[slice, Tensor], Tensor]
TINY = torch.finfo(torch.float32).tiny  # the least probability that has a logarithm


class HeldPixels(NamedTuple):
    """A window's logits (K, h, w), and where the image's pixels lie on them."""

    logits: Tensor
    y: Axis
    x: Axis


def label_image(
    model: nn.Module,
    image: Tensor,
    grid: Grid,
    protocol: Protocol = SINGLE_SCALE,
    branch: Branch = "fine",
) -> Tensor:
    """Labels (H, W) uint8 of one image (1, 3, H, W) fp32 in [0, 1], on the image's device.

    ``model`` gives a SegOutput on ``grid``; it is used in the mode it is in.
    """
    return reduce_image(model, image, grid, protocol, branch, best_class)


def best_class(rows: slice, scores: Tensor) -> Tensor:
    """The best class of every pixel, (rows, W) uint8."""
    return best(scores)


def reduce_image(
    model: nn.Module,
    image: Tensor,
    grid: Grid,
    protocol: Protocol,
    branch: Branch,
    reduce: Reduce,
) -> Tensor:
    """What ``reduce`` makes of every pixel's scores, (H, W, …); otherwise as ``label_image``.

    It is given rows of the image and scores (rows, W, K) fp32, some rows at a time: the mean of the
    passes' logits, or the logarithm of their mean probability. Softmax makes probabilities of both.
    """
    size = (image.shape[-2], image.shape[-1])
    # the largest passes come first: what they need of memory is given back before there is a total
    passes = sorted(protocol.passes(), key=lambda scale_flip: -scale_flip[0])
    total: Tensor | None = None
    held: list[HeldPixels] = []
    for scale, flip in passes:
        if held and scale < passes[0][0]:
            total = _add(total, held, size, protocol)
        scaled_size = protocol.scaled(size, scale, grid)
        scaled = resize(image, scaled_size, grid)
        scaled = scaled.flip(-1) if flip else scaled
        rows, columns = protocol.windows(scaled_size)
        alone = len(passes) == len(rows) == len(columns) == 1
        for row, column, logits, frame in _windows(model, scaled, rows, columns, protocol, branch):
            sides = (size[0], scaled_size[0], rows, row), (size[1], scaled_size[1], columns, column)
            y, x = (
                window_axis(
                    grid,
                    *side,
                    frame.padded[i],
                    logits.shape[1 + i],
                    flip and i == 1,
                    logits.device,
                )
                for i, side in enumerate(sides)
            )
            if alone:
                return torch.cat([reduce(part, strip) for part, strip in strips(logits, y, x)])
            held.append(HeldPixels(logits, y, x))
            if total is not None:
                total = _add(total, held, size, protocol)
    total = _add(total, held, size, protocol)
    rows_at_once = max(1, band_values(total.device) // (total.shape[1] * total.shape[2]))
    results = []
    for start in range(0, size[0], rows_at_once):
        part = slice(start, min(start + rows_at_once, size[0]))
        scores = total[part].div_(len(passes))
        if protocol.average == "probs" and reduce is not best_class:  # whose order it keeps
            scores = scores.clamp_min_(
                TINY
            ).log_()  # 0 would become -inf, and 0 * -inf is no number
        results.append(reduce(part, scores))
    return torch.cat(results)


def _add(total: Tensor | None, held: list[HeldPixels], size: Size, protocol: Protocol) -> Tensor:
    """Add the windows that are held to the accumulator (H, W, K), and let them go."""
    if total is None:
        total = torch.zeros(*size, len(held[0].logits), device=held[0].logits.device)
    while held:
        logits, y, x = held.pop()
        for rows, strip in strips(logits, y, x):
            if protocol.average == "probs":
                strip = strip.softmax(-1)
            strip *= x.share[:, None]  # 1 / number of windows that see the pixel
            share = y.share[rows.start - y.first : rows.stop - y.first, None, None]
            total[rows, x.first : x.last] += strip.mul_(share)
    return total


def _windows(
    model: nn.Module, image: Tensor, rows: Spans, columns: Spans, protocol: Protocol, branch: Branch
) -> Iterator[tuple[int, int, Tensor, Frame]]:
    """Each window's number in rows and columns and its logits (K, h, w), computed in batches."""
    places = [(row, column) for row in range(len(rows)) for column in range(len(columns))]
    height, width = rows[0][1], columns[0][1]
    image = image.to(place_of(model)[1])
    for start in range(0, len(places), protocol.window_batch):
        batch = places[start : start + protocol.window_batch]
        corners = [(rows[row][0], columns[column][0]) for row, column in batch]
        crops = [image[..., top : top + height, left : left + width] for top, left in corners]
        output = model(torch.cat(crops), all_branches=branch != "fine")
        if isinstance(model, Network):
            check_output(output, len(model.classes))
        for (row, column), logits in zip(batch, output.branch(branch), strict=True):
            yield row, column, logits, output.frame
