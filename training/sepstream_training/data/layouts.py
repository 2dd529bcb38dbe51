"""Data sets of any layout as libraries: the table of layouts, which of them a folder has, and what is wrong with it."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sepstream.errors import DataError, nearest

from ..recipe import Recipe
from . import events, folders, lsx, manifest, musdb18, shards, slakh, stems, tut_rare, weak_labels
from .entries import MIX, Entry, Wanted, check_classes, check_track
from .library import Library, Track, cached_library, is_cached
from .mixing import hear

CHECKED_S = 30.0  # of a track, when it is new: whether its leaves add up to its mixture
WORTH_SAYING_DB = -30.0

log = logging.getLogger(__name__)


class Layout(NamedTuple):
    """``found``: whether a data set looks like one of this layout. ``entries``: its sounds, those of a track in a row."""

    found: Callable[[Wanted], bool]
    entries: Callable[[Wanted], Iterable[Entry]]


LAYOUTS = {  # in the order in which a data set is tried
    module.__name__.rpartition(".")[2]: Layout(module.found, module.entries)
    for module in (manifest, shards, weak_labels, tut_rare, lsx, musdb18, slakh, folders, stems, events)
}
AUTO = "auto"


def wanted_by(recipe: Recipe, split: str) -> Wanted:
    """What a recipe asks of its data set."""
    spec = recipe.data
    tree = Path(spec.tree).expanduser() if spec.tree else None
    return Wanted(Path(spec.root).expanduser(), split, {leaf: spec.names(leaf) for leaf in recipe.leaves}, recipe.classes, tree)


def layout_of(wanted: Wanted, layout: str = AUTO) -> str:
    """The layout by its name; ``auto`` looks at the data set, and takes what is like no other for folders.

    Raises DataError for a name that is no layout's.
    """
    if layout == AUTO:
        return next((name for name, (found, _) in LAYOUTS.items() if found(wanted)), "folders")
    if layout not in LAYOUTS:
        raise DataError(f"data.layout '{layout}' is unknown; {nearest(layout, [AUTO, *LAYOUTS])}")
    return layout


def read_library(wanted: Wanted, rate_hz: int, *, layout: str = AUTO, channels: int = 1) -> Library:
    """Every sound that is wanted, decoded into the cache. ``channels``: 1, or 2 to keep the stereo of the data.

    Raises DataError for a folder or class that is not there, for a file that is no sound, and for a track whose files
    have not the same rate and length.
    """
    name = layout_of(wanted, layout)
    entries = list(LAYOUTS[name].entries(wanted))
    check_classes(wanted, name, (entry.name for entry in entries))
    new = _new_tracks(entries, rate_hz, channels)
    for members in new.values():
        check_track(members)
    library = cached_library(entries, wanted.names, rate_hz, channels)
    _compare_sums(wanted, [track for track in library.tracks if track.name in new], round(CHECKED_S * rate_hz))
    return library


def has_split(wanted: Wanted, layout: str = AUTO) -> bool:
    return any(True for _ in LAYOUTS[layout_of(wanted, layout)].entries(wanted))


def _new_tracks(entries: Sequence[Entry], rate_hz: int, channels: int) -> dict[str, list[Entry]]:
    """By name, tracks of which something is not in the cache yet: the others have been checked before."""
    tracks: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.track and not entry.part:  # parts are of one file, which has one rate and length
            tracks[entry.group].append(entry)
    return {name: members for name, members in tracks.items() if not all(is_cached(e, rate_hz, channels) for e in members)}


def _compare_sums(wanted: Wanted, tracks: Sequence[Track], most: int) -> None:
    """Training adds the leaves up; where the data set's own mixture is another sound, that is worth a line."""
    off = {
        track.name: db for track in tracks if MIX in track.sums and (db := _difference_db(wanted, track, most)) > WORTH_SAYING_DB
    }
    if off:
        worst = max(off, key=lambda name: off[name])
        log.warning(
            "the mixture of %d of %d tracks is not the sum of its leaves (worst: '%s', %.0f dB); training uses the sum",
            len(off), len(tracks), worst, off[worst],
        )  # fmt: skip


def _difference_db(wanted: Wanted, track: Track, most: int) -> float:
    length = min(most, track.length)
    heard = hear(track, {"": list(wanted.names)}, (track.length - length) // 2, length)
    power, error = (float(np.square(each, dtype=np.float64).sum()) for each in (heard.mix, heard.mix - heard.leaves.sum(axis=0)))
    return float(10 * np.log10((error + 1e-12) / (power + 1e-9)))
