"""What a recipe says of augmentation and sampling (``augment:``)."""

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hfgd.types import Size


class AugmentSpec(BaseModel):
    """How a training sample is made from an image; sizes are (height, width).

    ``scales``: one is drawn for both sides. ``colours``: 'none'; 'plain' shifts the brightness by
    up to 32 of 255 with probability 0.5; 'advanced' first scales contrast and saturation by
    0.5 to 1.5 with probability 0.5 each. ``flip``: probability of a left-right flip.

    What follows is off at its default and draws from a stream of its own. With probability ``chance``:
    ``rotation``: by up to so many degrees; ``perspective``: each corner moves inwards by up to this
    share of half a side; ``blur``: a Gaussian of up to so many pixels; ``noise``: Gaussian, with a
    standard deviation of up to this, where white is 1; ``gamma``: exponent from 1 / (1 + this) to
    1 + this; ``jpeg``: saved with a quality from this one to 95; ``copy_paste``: the pixels of these
    classes of another image are pasted in. By their own probability: ``grey``; ``channel_shuffle``: the
    colour channels are dealt anew; ``cutmix``: a rectangle of another image is pasted in.
    ``max_class_share``: crops are drawn again, ten times at most, while one class has more of the
    labelled pixels. ``rare_class_sampling``: the share of samples whose class is drawn first, rare ones
    more often (by softmax((1 − share of pixels) / ``rare_class_temperature``)), then an image that has
    it, then a crop that has it; the other samples are what they are without it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop: Size = (513, 513)
    scales: tuple[float, ...] = Field((0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0), min_length=1)
    colours: Literal["none", "plain", "advanced"] = "plain"
    flip: float = Field(0.5, ge=0, le=1)
    chance: float = Field(0.5, ge=0, le=1)
    rotation: float = Field(0.0, ge=0, le=180)
    perspective: float = Field(0.0, ge=0, lt=1)
    blur: float = Field(0.0, ge=0, le=20)
    noise: float = Field(0.0, ge=0, le=1)
    gamma: float = Field(0.0, ge=0, le=4)
    jpeg: int = Field(0, ge=0, le=95)
    grey: float = Field(0.0, ge=0, le=1)
    channel_shuffle: float = Field(0.0, ge=0, le=1)
    max_class_share: float = Field(1.0, gt=0, le=1)
    cutmix: float = Field(0.0, ge=0, le=1)
    copy_paste: tuple[str, ...] = ()
    rare_class_sampling: float = Field(0.0, ge=0, le=1)
    rare_class_temperature: float = Field(0.1, gt=0)


# ---- random streams ------------------------------------------------------------------------------


Rng = np.random.Generator

# the number of an operation's stream; a number is never given to another operation, nor changed
ROTATION, PERSPECTIVE = 1, 2
GAMMA, GREY, CHANNEL_SHUFFLE, BLUR, NOISE, JPEG = 10, 11, 12, 13, 14, 15
CROP, RARE, COPY_PASTE, CUTMIX = 20, 21, 22, 23
PARTNER = 100  # added to the number of the operation that a second image is made for


def stream(rng: Rng, number: int) -> Rng:
    """The stream ``number`` beside ``rng``: it depends on what ``rng`` was made of, not on what was
    drawn from it, and leaves it as it is."""
    origin = rng.bit_generator.seed_seq
    assert isinstance(origin, np.random.SeedSequence)
    key = (*origin.spawn_key, number)
    return np.random.default_rng(np.random.SeedSequence(origin.entropy, spawn_key=key))
