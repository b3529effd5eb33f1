"""Which groups to set aside, so that their shares of images and of every class are the asked ones."""

import numpy as np
import numpy.typing as npt

STARTS = (
    16  # random beginnings of the search; fewer where there are so many groups that all are good
)
MANY = 500
FEW = 12  # groups, of which all ways are tried
LEAST = 1e-12  # what a step must gain, against going in circles
Table = npt.NDArray[np.float64]


def choose(pixels: np.ndarray, images: np.ndarray, val: float, seed: int) -> np.ndarray:
    """Which of G groups are val, bool (G,): the best of all ways, or of some searches.

    ``pixels``: (G, K) by class; ``images``: (G,). Neither side is empty.
    """
    shares = share_table(pixels, images)
    if len(images) <= FEW:
        return _best_of_all(shares, val)
    rng = np.random.default_rng(seed)
    best, lowest = np.zeros(len(images), dtype=bool), np.inf
    for _ in range(STARTS if len(images) <= MANY else 2):
        found = _improve(shares, val, _begin(shares, val, rng))
        price = cost(shares, found, val)
        if price < lowest - LEAST:
            best, lowest = found, price
    return best


def share_table(pixels: np.ndarray, images: np.ndarray) -> Table:
    """Each group's share of the images and of the pixels of each class that occurs, (G, 1 + K').

    Scaled so that the number of images weighs as much as all classes together.
    """
    totals = pixels.sum(axis=0)
    classes = pixels[:, totals > 0] / totals[totals > 0]
    columns = [images[:, None] / images.sum(), classes / max(1, classes.shape[1]) ** 0.5]
    return np.concatenate(columns, axis=1)


def cost(shares: Table, chosen: np.ndarray, val: float) -> float:
    """Squared distance of val's shares from the asked one."""
    return float(((shares[chosen].sum(axis=0) - val * shares.sum(axis=0)) ** 2).sum())


def _best_of_all(shares: Table, val: float) -> np.ndarray:
    count = len(shares)
    ways = np.arange(1, 2**count - 1)[:, None] >> np.arange(count) & 1  # neither none nor all
    misses = ways @ shares - val * shares.sum(axis=0)
    best: np.ndarray = ways[np.argmin((misses**2).sum(axis=1))] == 1
    return best


def _begin(shares: Table, val: float, rng: np.random.Generator) -> np.ndarray:
    """Groups in random order until the share of images is reached; at least one on each side."""
    order = rng.permutation(len(shares))
    reached = np.cumsum(shares[order, 0])
    count = int(np.clip((reached <= val).sum(), 1, len(order) - 1))
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order[:count]] = True
    return chosen


def _improve(shares: Table, val: float, chosen: np.ndarray) -> np.ndarray:
    """Move one group, or else exchange two, as long as that brings the shares nearer."""
    target = val * shares.sum(axis=0)
    squares = (shares**2).sum(axis=1)
    while True:
        miss = shares[chosen].sum(axis=0) - target
        sign = np.where(chosen, -1.0, 1.0)
        moves = squares + 2 * sign * (shares @ miss)  # what moving each group adds to the cost
        if chosen.sum() == 1:
            moves[chosen] = np.inf
        if (~chosen).sum() == 1:
            moves[~chosen] = np.inf
        move = int(np.argmin(moves))
        chosen = chosen.copy()
        if moves[move] < -LEAST:
            chosen[move] = not chosen[move]
            continue
        ours, theirs = np.flatnonzero(chosen), np.flatnonzero(~chosen)
        swaps = _exchanges(shares, squares, miss, ours, theirs)
        swap = int(np.argmin(swaps))
        if swaps.flat[swap] > -LEAST:
            return chosen
        out, into = divmod(swap, len(theirs))
        chosen[ours[out]], chosen[theirs[into]] = False, True


def _exchanges(
    shares: Table, squares: Table, miss: Table, ours: np.ndarray, theirs: np.ndarray
) -> Table:
    """What exchanging each pair adds to the cost, (ours, theirs)."""
    along = shares @ miss
    joint = shares[ours] @ shares[theirs].T
    gain: Table = squares[ours, None] + squares[theirs] - 2 * joint
    gain += 2 * (along[theirs] - along[ours, None])
    return gain
