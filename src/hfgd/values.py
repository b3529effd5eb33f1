"""Small values that many parts name. No torch in here: an exported file runs without it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Branch = Literal["fine", "guide", "aux"]
Precision = Literal["fp32", "bf16", "fp16", "auto"]


class Spec(BaseModel):
    """A frozen value; unknown keys are refused with their path."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
