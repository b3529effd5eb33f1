"""Label maps for images, however many, wherever they lie. No torch in here but where it is used."""

from hfgd.inference.confidence import ConfidenceConfig
from hfgd.predict.inputs import find_images
from hfgd.predict.manifest import merge
from hfgd.predict.run import PredictOutcome, predict_files
from hfgd.predict.shards import Shard, own_shard, parse_shard

__all__ = [
    "ConfidenceConfig",
    "PredictOutcome",
    "Shard",
    "find_images",
    "merge",
    "own_shard",
    "parse_shard",
    "predict_files",
]  # fmt: skip
