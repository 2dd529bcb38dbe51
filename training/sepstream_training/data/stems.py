"""The layout ``stems``: tracks as folders, ``root/[SPLIT/]TRACK/CLASS.wav`` (or another format); a missing stem is silent.

What a track does not name a class for is left out: its mixture is the sum of its classes.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from .entries import MIX, REST, SPLITS, SUFFIXES, Entry, Wanted, check_root, file_entry, subfolders, track_folders

WHOLES = {MIX, "mixture"}  # files of the whole, which are nobody's stem
LOOKED_AT = 20  # tracks that are looked into before the layout is called another's


def found(wanted: Wanted) -> bool:
    if not wanted.root.is_dir():
        return False
    splits = [folder for names in SPLITS.values() for name in names if (folder := wanted.root / name).is_dir()]
    tracks = (track for folder in splits or [wanted.root] for track in subfolders(folder))
    known = wanted.known.keys() - {REST}
    return any(path.stem.casefold() in known for track in islice(tracks, LOOKED_AT) for path in sounds_of(track))


def entries(wanted: Wanted) -> Iterator[Entry]:
    check_root(wanted.root)
    for track in track_folders(wanted):
        yield from track_entries(wanted, track)


def track_entries(wanted: Wanted, track: Path) -> Iterator[Entry]:
    for path in sounds_of(track):
        leaf = None if path.stem.casefold() in WHOLES else wanted.class_of(path.stem)
        if leaf:
            yield file_entry(leaf, path, track.name, track=True)


def sounds_of(track: Path) -> list[Path]:
    return sorted(path for path in track.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
