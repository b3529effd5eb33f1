"""What an exported file says of itself, as the string properties of its format. No torch in here."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hfgd.data.classes import IGNORE, ClassSet, Rgb
from hfgd.errors import HfgdError
from hfgd.model.config import Channel, Scale
from hfgd.parse import parse_json
from hfgd.types import Grid, Line, Memory, Side

Small = Annotated[int, Field(gt=0, le=2048)]  # a side to which smaller images are padded
Input = Literal["uint8", "float"]
PREFIX = "hfgd."
UNKNOWN = "unknown"


class Facts(BaseModel):
    """Everything but the network.

    ``smallest``: images with a side below it are padded to it first. ``size``: the only one that the
    file takes; None for any. ``mean`` and ``std``: what the file normalises with, inside; ``mean`` is
    also what it pads with. ``memory``: what an image needs, counted when the file was written.
    ``precision``: fp32, or int8, whose scales come from images of ``calibrated_on`` (data/split).
    Licences are 'unknown' where nobody said.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    version: Line
    name: Line
    classes: tuple[Line, ...] = Field(min_length=1, max_length=IGNORE)
    palette: tuple[Rgb, ...]
    grid: Grid
    input: Input = "uint8"
    branch: Line = "fine"
    size: tuple[Side, Side] | None = None
    smallest: tuple[Small, Small] = (1, 1)
    crop: tuple[Side, Side]
    precision: Line = "fp32"
    calibrated_on: Line = ""
    memory: Memory | None = None
    mean: tuple[Channel, Channel, Channel]
    std: tuple[Scale, Scale, Scale] | None = None
    licence_of_code: Line = "Apache-2.0"
    licence_of_weights: Line = UNKNOWN
    licence_of_backbone: Line = UNKNOWN

    @property
    def class_set(self) -> ClassSet:
        """The classes with their colours."""
        return ClassSet.of(self.classes, self.palette)

    def as_properties(self) -> dict[str, str]:
        """Each value as JSON under a name of its own, 'hfgd.classes' for one; texts as they are."""
        values = self.model_dump(mode="json")
        return {
            PREFIX + key: value if isinstance(value, str) else json.dumps(value)
            for key, value in values.items()
        }

    @classmethod
    def of_properties(cls, properties: Mapping[str, str]) -> "Facts":
        """The reverse. Raises ValueError where something is missing or no such value."""
        values: dict[str, Any] = {}
        for key, text in properties.items():
            name = key.removeprefix(PREFIX)
            if key.startswith(PREFIX) and name in cls.model_fields:
                is_text = cls.model_fields[name].annotation in (str, Grid, Input)
                try:
                    values[name] = text if is_text else parse_json(text, key)
                except HfgdError as error:
                    raise ValueError(str(error)) from error
        facts = cls.model_validate(values)
        try:
            _ = facts.class_set
        except HfgdError as error:
            raise ValueError(str(error)) from error
        return facts
