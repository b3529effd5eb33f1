"""Streams of random numbers: one for each operation, so that a new one changes no other."""

import numpy as np

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
