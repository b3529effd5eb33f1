"""What a saved model is: spec, classes, palette, mean and std. No recipe, no path of anybody's data."""

from typing import Any

from pydantic import Field

from hfgd.data.classes import ClassSet, Rgb
from hfgd.model.spec import Channel, ModelSpec, Scale
from hfgd.values import Branch, Line, Side, Spec

FORMAT = 2  # 1: the whole recipe stood in the file


class Builder(Spec):
    """A function that makes a network: ``name`` is 'package.module:function'; see ``builder``."""

    name: str = Field(pattern=r"^\w+(\.\w+)*:\w+$")
    arguments: dict[str, Any] = Field(default_factory=dict)


class ModelConfig(Spec):
    """Everything but the weights. One of ``model`` and ``builder`` says how to build the network;
    neither, where it was put together by hand.

    ``mean`` and ``std`` are the backbone's, of RGB in [0, 1]. ``name``: of the recipe it was trained
    by; ``crop``: its training crop, the window of the protocol 'slide'; ``branch``: whose logits
    are the answer. ``facts``: of the training (iteration, scores). ``licence_of_backbone``: of the
    backbone's pre-trained weights, as timm tells it, whether or not the training began with them.
    """

    format: int = FORMAT
    name: Line = "model"
    model: ModelSpec | None = None
    builder: Builder | None = None
    classes: tuple[Line, ...]
    palette: tuple[Rgb, ...]
    mean: tuple[Channel, Channel, Channel] | None = None
    std: tuple[Scale, Scale, Scale] | None = None
    crop: tuple[Side, Side] = (513, 513)
    branch: Branch = "fine"
    licence_of_backbone: Line | None = None
    facts: dict[str, Any] = Field(default_factory=dict)

    @property
    def class_set(self) -> ClassSet:
        """The classes with their colours."""
        return ClassSet.of(self.classes, self.palette)

    @classmethod
    def of(cls, classes: ClassSet, **values: Any) -> "ModelConfig":
        """A config for these classes."""
        return cls(classes=classes.names, palette=classes.palette, **values)
