"""The layout ``weak_labels``: mixtures with a table of what is in them, ``root/SPLIT/weak_labels.csv``.

Its columns are ``filename``, relative to the table, and one for each class, 0 or 1. Where the sounds that a mixture is the
sum of are known, they lie in its folder: ``TRACK/{mix,CLASS,noise}.flac`` as ``remix`` writes them, or ``TRACK.wav`` beside
``TRACK/CLASS.wav``; a class without a file is silent.
"""

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sepstream.errors import DataError

from .entries import MIX, Entry, Wanted, check_root, file_entry, read_file
from .stems import sounds_of
from .tagged import TaggedClip

LABELS = "weak_labels.csv"
MIXTURE, NOISE, SOUND = MIX, "noise", ".flac"
OTHER_SPLITS = {"train": "training", "valid": "development", "test": "validation"}  # where there is a development set


class Row(NamedTuple):
    path: Path  # of the mixture
    classes: list[str]

    @property
    def stems(self) -> Path:
        """The folder of what it is the sum of; it need not exist."""
        return self.path.parent if self.path.stem == MIXTURE else self.path.with_suffix("")


def found(wanted: Wanted) -> bool:
    return wanted.root.is_dir() and any(wanted.root.glob(f"*/{LABELS}"))


def entries(wanted: Wanted) -> Iterator[Entry]:
    check_root(wanted.root)
    for row in _rows(wanted):
        files = [path for path in (sounds_of(row.stems) if row.stems.is_dir() else []) if path.stem != MIXTURE]
        named = {path: leaf for path in files if (leaf := wanted.class_of(path.stem))}
        group = row.stems.name
        for path, leaf in named.items():
            yield file_entry(leaf, path, group, track=True)
        if named and len(named) == len(files):  # otherwise the mixture has sounds that no class has
            yield file_entry(MIX, row.path, group, track=True)


def clips(wanted: Wanted, seconds: float) -> Iterator[TaggedClip]:
    check_root(wanted.root)
    noise = wanted.class_of(NOISE)
    for row in _rows(wanted):
        names = [*row.classes, *([NOISE] if noise and (row.stems / f"{NOISE}{SOUND}").is_file() else [])]
        labels = {leaf: float("nan") for name in names if (leaf := wanted.class_of(name))}
        yield TaggedClip(str(row.path), partial(read_file, row.path, 0.0, seconds), labels)


def _rows(wanted: Wanted) -> Iterator[Row]:
    folder = wanted.split_folder
    if (wanted.root / OTHER_SPLITS["valid"]).is_dir():
        folder = wanted.root / OTHER_SPLITS.get(wanted.split, wanted.split)
    table = folder / LABELS
    if not table.is_file():
        return
    try:
        with table.open(newline="", encoding="utf8") as lines:
            rows = csv.DictReader(lines)
            if "filename" not in (rows.fieldnames or ()):
                raise ValueError("no column 'filename'")
            for row in rows:
                name = row.pop("filename")
                yield Row(folder / name, [cls for cls, there in row.items() if _is_there(there)])
    except (OSError, ValueError, csv.Error) as error:  # text that is no UTF-8 is a ValueError, too
        reason = " ".join(str(error).split())
        raise DataError(f"'{table}' cannot be read ({reason}); expected columns filename, CLASS, ... of 0 and 1") from None


def _is_there(cell: str | None) -> bool:
    value = float(cell or "")
    if value not in (0.0, 1.0):
        raise ValueError(f"a label {cell!r}")
    return value == 1.0
