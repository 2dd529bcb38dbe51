"""Who speaks, and what is said."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sepstream.errors import DataError, nearest

VOICES = ("male", "female")

ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-029")  # file names: eSpeak takes a variant to no other
F0_RANGE_HZ = {"male": (95.0, 140.0), "female": (182.0, 230.0)}  # with intonation: 85-155 and 165-255 Hz
ESPEAK_F0_HZ = {  # median pitch of m1-m7 and f1-f5 at eSpeak's pitch 50, measured over one sentence
    "male": (93, 101, 104, 92, 102, 100, 105),
    "female": (178, 193, 208, 178, 202),
}

WORDS = {
    "thing": "river kettle garden engine window lantern market ladder pocket mountain teacher painter".split(),
    "things": "pencils doors apples engines letters stories birds shoes clouds bottles neighbours".split(),
    "like": "quiet yellow heavy broken careful hollow early silver crowded patient empty gentle".split(),
    "does": "carries follows paints forgets repairs watches answers borrows measures collects".split(),
    "where": ["behind the house", "near the harbour", "under the bridge", "on the roof", "across the field"],
    "when": ["before noon", "every winter", "after the rain", "at seven", "once a week", "in the evening"],
}
FRAMES = (
    "The {like} {thing} {does} {things} {when}.",
    "Almost {when}, a {thing} {where} {does} the {things}.",
    "Nobody {does} {like} {things} {where}, and the {thing} is full of snow.",
    "Is there a {thing} {where}, or only {things}?",
    "My {thing} {does} it {when}, because the {things} are {like}.",
)


class Speaker(NamedTuple):
    """Who speaks: ``name`` is a voice class, ``variant`` one of eSpeak NG's voices of that class, counted from 0."""

    name: str
    f0_hz: float
    words_per_minute: int
    variant: int
    accent: str
    seed: int


def cast(name: str, rng: np.random.Generator) -> Speaker:
    """A random speaker of class ``male`` or ``female``. Raises DataError for any other name."""
    check_name(name, VOICES)
    return Speaker(
        name=name,
        f0_hz=float(rng.uniform(*F0_RANGE_HZ[name])),
        words_per_minute=int(rng.integers(130, 190)),
        variant=int(rng.integers(len(ESPEAK_F0_HZ[name]))),
        accent=str(rng.choice(ACCENTS)),
        seed=int(rng.integers(2**31)),
    )


def sentence(rng: np.random.Generator) -> str:
    """A sentence nobody has said before, as far as we know."""
    return str(rng.choice(FRAMES)).format_map({kind: rng.choice(words) for kind, words in WORDS.items()})


def check_name(name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise DataError(f"unknown source '{name}'; {nearest(name, names)}")
