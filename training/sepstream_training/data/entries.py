"""What every layout of a data set is asked, and what it answers: the sounds there are, not yet read.

A layout is a file of this folder with two functions: ``found(wanted)`` says whether the folder looks like one of its own,
``entries(wanted)`` names its sounds. ``layouts`` holds the table of them, and reads what they name.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from sepstream.errors import DataError

F32 = NDArray[np.float32]

SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".aiff"}
MIX = "mix"  # the name of a track's own mixture, beside the classes
REST = "*"  # among a class's names: whatever no other class goes by
SPLITS = {"train": ("train", "tr"), "valid": ("valid", "validation", "val", "cv"), "test": ("test", "tt")}
HELD_OUT = 10  # of tracks that are in no split, every so many-th is for validation


@dataclass(frozen=True)
class Wanted:
    """What is asked of a data set: the sounds of some classes in one split.

    ``names`` says what each class (a leaf) goes by there. ``families`` are the parents and their leaves, and ``tree`` is a
    file that names the files of a track (see ``lsx``), where the layout has use for them.
    """

    root: Path
    split: str
    names: Mapping[str, Sequence[str]]
    families: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tree: Path | None = None

    def class_of(self, name: str) -> str | None:
        """The class that goes by ``name``, whatever its case; the class of the rest; or None."""
        return self.known.get(name.casefold(), self.known.get(REST))

    @property
    def known(self) -> dict[str, str]:
        """Name in the data set, in small letters -> class."""
        return {name.casefold(): leaf for leaf, names in self.names.items() for name in names}

    @property
    def split_names(self) -> Sequence[str]:
        return SPLITS.get(self.split, (self.split,))

    @property
    def split_folder(self) -> Path:
        """``root/train`` or what else the split is called there; it need not exist."""
        return next((found for name in self.split_names if (found := self.root / name).is_dir()), self.root / self.split)


class Sound(NamedTuple):
    """(samples, channels) as they are in a file."""

    samples: F32
    rate_hz: int


@dataclass(frozen=True)
class Entry:
    """One sound of a data set. ``name`` is its class; of a track also a parent, or MIX: the sum as the data set has it.

    Sounds of the same ``group`` are aligned to the sample. A ``track`` is a group that is complete: a mixture as it stands,
    in which a class without an entry is silent. ``part`` tells the sounds of one file apart.
    """

    name: str
    path: Path
    read: Callable[[], Sound]
    group: str = ""
    track: bool = False
    part: str = ""


def file_entry(
    name: str, path: Path, group: str = "", *, track: bool = False, start_s: float = 0.0, seconds: float = 0.0
) -> Entry:
    """A sound file, or ``seconds`` of it (0: to its end) from ``start_s`` on."""
    part = f"{start_s:g}+{seconds:g}" if start_s or seconds else ""
    return Entry(name, path, partial(read_file, path, start_s, seconds), group, track, part)


def read_file(path: Path, start_s: float = 0.0, seconds: float = 0.0) -> Sound:
    """Raises OSError, ValueError or SoundFileError for what is no sound or ends before ``start_s``."""
    with soundfile.SoundFile(path) as file:
        start, most = round(start_s * file.samplerate), round(seconds * file.samplerate) or -1
        if start > file.frames:
            raise ValueError(f"it ends before {start_s:g} s")
        file.seek(start)
        return Sound(file.read(most, dtype="float32", always_2d=True), file.samplerate)


def sound_files(folder: Path) -> list[Path]:
    """Every sound file below ``folder``, sorted; hidden names are skipped, links are followed."""
    return sorted(
        Path(parent, file) for parent, _, files in walk(folder) for file in files if Path(file).suffix.lower() in SUFFIXES
    )


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """``os.walk`` in order, through links (each folder once: links may go round), past hidden names."""
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield parent, folders, sorted(name for name in files if not name.startswith("."))


def track_folders(wanted: Wanted) -> list[Path]:
    """The folders of the split, sorted; of a data set without splits its every tenth is for validation, none for testing."""
    if wanted.split_folder.is_dir():
        return subfolders(wanted.split_folder)
    if any((wanted.root / name).is_dir() for names in SPLITS.values() for name in names):
        return []
    tracks = subfolders(wanted.root)
    held_out = set(tracks[::HELD_OUT])
    of_split = {"train": lambda track: track not in held_out, "valid": held_out.__contains__}
    return [track for track in tracks if of_split.get(wanted.split, lambda _: False)(track)]


def subfolders(folder: Path) -> list[Path]:
    return sorted(inside for inside in folder.iterdir() if inside.is_dir() and not inside.name.startswith("."))


def check_root(root: Path) -> None:
    if not root.is_dir():
        raise DataError(f"data folder '{root}' does not exist; set data.root=FOLDER or data.root=synthetic")


def check_classes(wanted: Wanted, layout: str, names: Iterable[str]) -> None:
    """Raises DataError for a class that is not among ``names``, of which no more are asked for than it takes."""
    missing = dict(wanted.names)
    for name in names:
        missing.pop(name, None)
        if not missing:
            return
    for leaf, called in missing.items():
        raise DataError(
            f"class '{leaf}' has no files in '{wanted.root}' (layout {layout}, split {wanted.split}); expected sounds of "
            f"'{' or '.join(called)}' ({', '.join(sorted(SUFFIXES))}); set data.folders, data.layout or data.root"
        )


def check_track(entries: Iterable[Entry]) -> None:
    """Raises DataError where the files of one track have not the same rate and length."""
    first: tuple[Path, int, int] | None = None
    for path in dict.fromkeys(entry.path for entry in entries):
        try:
            facts = soundfile.info(path)
        except (OSError, soundfile.SoundFileError) as error:
            raise DataError(f"'{path}' cannot be read as sound ({error}); remove it from the data set") from None
        other, rate_hz, samples = first = first or (path, facts.samplerate, facts.frames)
        mine, others = f"{facts.samplerate} Hz, {facts.frames} samples", f"{rate_hz} Hz, {samples} samples"
        if mine != others:
            reason = "rate" if facts.samplerate != rate_hz else "length"
            raise DataError(f"'{path}' has {mine}, '{other.name}' {others}; expected one {reason} in a track, write it anew")
