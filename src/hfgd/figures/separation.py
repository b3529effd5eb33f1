"""What the eye cannot judge of features: silhouette, and distances between and within classes.

Both are taken in the features' own space, not on the map that UMAP makes of them, and neither changes
when all features are scaled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hfgd.evaluation.scores import Floats, Ints

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Interval:
    """A mean over samples, and the middle 95 % of them."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """Of one value for each sample."""
        low, high = np.percentile(values, [2.5, 97.5])
        return cls(float(np.mean(values)), float(low), float(high))


def silhouette(features: Features, labels: Ints) -> float:
    """The mean silhouette of features (N, D) with classes (N,), of [-1, 1].

    A pixel's is (b − a) / max(a, b): a its mean distance to its own class, b to the nearest other.
    """
    from sklearn.metrics import silhouette_score  # comes with umap-learn

    return float(silhouette_score(features, labels))


def distance_ratio(features: Features, labels: Ints) -> float:
    """Mean distance between the classes' means, over the mean distance of pixels to their mean.

    features (N, D), labels (N,); every class counts the same. NaN where nothing is apart.
    """
    features = features.astype(np.float64)
    classes = np.unique(labels)
    means: Floats = np.stack([features[labels == k].mean(0) for k in classes])
    within = np.mean(
        [
            np.linalg.norm(features[labels == k] - mean, axis=1).mean()
            for k, mean in zip(classes, means, strict=True)
        ]
    )
    apart = np.linalg.norm(means[:, None] - means[None], axis=2)
    between = apart[np.triu_indices(len(classes), 1)].mean()
    return float(between / within) if within else float("nan")


def most_confused(matrix: Ints, count: int) -> list[int]:
    """The ``count`` classes of the pairs that are confused most, worst pair first.

    ``matrix[label, prediction]`` counts pixels (K, K). A pair's confusion is the share of either
    class's pixels that is taken for the other, both added; classes without pixels are left out.
    """
    total = matrix.sum(1, keepdims=True)
    share = np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    known = np.flatnonzero(total[:, 0])
    pairs = [(i, j) for i in known for j in known if i < j]
    pairs.sort(key=lambda pair: -(share[pair] + share[pair[::-1]]))
    chosen: list[int] = []
    for i, j in pairs:
        # of a pair the class that is taken for the other more often comes first
        for k in (i, j) if share[i, j] >= share[j, i] else (j, i):
            if k not in chosen and len(chosen) < count:
                chosen.append(int(k))
    return chosen
