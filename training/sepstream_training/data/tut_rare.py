"""The layout ``tut_rare``: the mixtures that Kong's generator (arXiv 1711.03037) makes of TUT Rare Sound Events 2017.

``root/{training,testing}/`` holds for each item ``NNNN.bg.wav``, ``NNNN.event.wav``, ``NNNN.mix_0db.wav`` (its channels are
background and event; the mixture is their sum) and ``NNNN.yaml``, which names the event. The classes go by babycry,
glassbreak, gunshot and background. Every tenth item of the training folder is for validation: the data set has no third part.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from sepstream.errors import DataError

from .entries import HELD_OUT, Entry, Sound, Wanted, check_root, read_file
from .tagged import TaggedClip

FOLDERS = {"train": "training", "valid": "training", "test": "testing"}
BACKGROUND = "background"
MOST_BYTES = 1 << 16  # of an item's description


class Item(NamedTuple):
    """``event_s`` is how long the event sounds, NaN where its description does not say."""

    path: Path  # without suffixes
    event: str
    event_s: float

    def file(self, kind: str) -> Path:
        return self.path.parent / f"{self.path.name}.{kind}.wav"

    @property
    def mixes(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.name}.mix_*db.wav"))


def found(wanted: Wanted) -> bool:
    return any(True for _ in (wanted.root / FOLDERS["train"]).glob("*.mix_*db.wav"))


def entries(wanted: Wanted) -> Iterator[Entry]:
    check_root(wanted.root)
    for item in _items(wanted):
        for path in item.mixes:
            for channel, name in enumerate((BACKGROUND, item.event)):
                if leaf := wanted.class_of(name):
                    read = partial(_channel, path, channel)
                    yield Entry(leaf, path, read, path.stem, track=True, part=f"channel {channel}")


def clips(wanted: Wanted, seconds: float) -> Iterator[TaggedClip]:
    check_root(wanted.root)
    for item in _items(wanted):
        event = {leaf: item.event_s for leaf in [wanted.class_of(item.event)] if leaf}
        background = {leaf: seconds for leaf in [wanted.class_of(BACKGROUND)] if leaf}
        for path, labels in (
            (item.file("bg"), background),
            (item.file("event"), event),
            *((mix, {**background, **event}) for mix in item.mixes),
        ):
            yield TaggedClip(str(path), partial(_sum, path), labels)


def _items(wanted: Wanted) -> Iterator[Item]:
    folder = wanted.root / FOLDERS.get(wanted.split, wanted.split)
    for number, description in enumerate(sorted(folder.glob("*.yaml")) if folder.is_dir() else []):
        if wanted.split == "test" or (number % HELD_OUT == 0) == (wanted.split == "valid"):
            yield _item(description)


def _item(description: Path) -> Item:
    try:
        with description.open(encoding="utf8") as file:
            facts = yaml.safe_load(file.read(MOST_BYTES))
        start_s, end_s = facts.get("event_segment", (0.0, np.nan))
        return Item(description.with_suffix(""), str(facts["event_type"]), float(end_s) - float(start_s))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"'{description}' cannot be read ({reason}); expected event_type and event_segment") from None


def _channel(path: Path, channel: int) -> Sound:
    samples, rate_hz = read_file(path)
    if samples.shape[1] != 2:
        raise ValueError(f"{samples.shape[1]} channels, expected background and event")
    return Sound(samples[:, channel : channel + 1], rate_hz)


def _sum(path: Path) -> Sound:
    samples, rate_hz = read_file(path)
    return Sound(samples.sum(axis=1, keepdims=True), rate_hz)
