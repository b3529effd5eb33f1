"""Starting from a trained model whose classes may be others."""

from pathlib import Path

import torch

from hfgd.checkpoint import load_model, read_config
from hfgd.data.classes import ClassSet
from hfgd.errors import HfgdError
from hfgd.model.build import rebuild
from hfgd.model.config import ModelConfig
from hfgd.model.network import Network
from hfgd.progress import say


def start_from(network: Network, path: str, code: str | Path | None = None) -> None:
    """Take the weights of the model at ``path`` over into ``network``, in place, and say what fits.

    Whatever belongs to single classes (class tokens, the logits of auxiliary heads) is matched by
    class name; classes that are new start as they were initialised. The two models must be composed
    alike: raises HfgdError that names the first tensor that differs.
    """
    if network.config is None:
        raise HfgdError("train.init needs a network that was made by a recipe or an @hfgd.builder.")
    source = load_model(path, code=code)
    theirs, mine = source.state_dict(), network.state_dict()
    by_class = _tensors_by_class(network.config)
    shared = [name for name in network.classes.names if name in source.classes.names]
    to = torch.tensor([network.classes.names.index(name) for name in shared], dtype=torch.long)
    origin = torch.tensor([source.classes.names.index(name) for name in shared], dtype=torch.long)
    for key, tensor in mine.items():
        first = 1 if key in by_class else 0
        alike = key in theirs and tensor.shape[first:] == theirs[key].shape[first:]
        if not alike or mine.keys() != theirs.keys():
            raise HfgdError(
                f"'{path}' cannot be started from: it is composed otherwise "
                f"({_describe(read_config(path))} there, {_describe(network.config)} here); "
                "choose the recipe that it was trained with."
            )
        if key in by_class:
            tensor[to] = theirs[key][origin]
        else:
            tensor.copy_(theirs[key])
    fresh = [name for name in network.classes.names if name not in shared]
    say(f"start from {path}: class tokens of {', '.join(shared) or 'no class'}")
    if fresh:
        say(f"  new, from random tokens: {', '.join(fresh)}")


def _tensors_by_class(config: ModelConfig) -> set[str]:
    """The tensors with a row for each class: those that change when a class is added."""
    with torch.device("meta"):
        few, more = (rebuild(config, ClassSet.numbered(n)).state_dict() for n in (2, 3))
    return {key for key, tensor in few.items() if tensor.shape != more[key].shape}


def _describe(config: ModelConfig) -> str:
    model = config.model
    if model is None:
        return config.builder.name if config.builder else "a network of its own"
    return (
        f"{model.backbone.name}, {model.encoder}, {model.upsampler} at stride {model.stride}, "
        f"width {model.width}"
    )
