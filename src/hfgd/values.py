"""Small values that many parts name. No torch in here: an exported file runs without it."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from hfgd.text import is_line

Branch = Literal["fine", "guide", "aux"]
Side = Annotated[int, Field(gt=0, le=1 << 16)]  # of an image or a window, in pixels
Precision = Literal["fp32", "bf16", "fp16", "auto"]


def _line(text: str) -> str:
    if not is_line(text):
        raise ValueError("a name is one line without control characters")
    return text


Line = Annotated[str, AfterValidator(_line)]


class Spec(BaseModel):
    """A frozen value; unknown keys are refused with their path."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
