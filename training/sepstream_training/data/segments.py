"""The layout ``segments``: clips of Audioset, in a folder for each class, with a text of when it is heard: ``Dog_barking/ID.wav``
and ``Dog_barking/ID.txt``.

In the text, a line with the name of a class is followed by one of times: start and end in seconds, in pairs, divided by tabs
or dashes, with "TC" and "00:00:" as ornaments. Classes are the folders and human_speech, in small letters with underscores. A
clip is cut into pieces of the wanted length, the rest is left out; a class is in a piece that it sounds in for ``LEAST_S``.
The same clip may lie in several folders: it is one, with the labels of all its texts. Whole clips are divided into splits,
so that each class has its share in each (Sechidis, Tsoumakas, Vlahavas 2011, On the stratification of multi-label data).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from sepstream.errors import DataError

from .entries import Wanted, check_root, read_file, subfolders
from .events import SPLIT_NAMES
from .tagged import TaggedClip

SPEECH = "human_speech"
LEAST_S = 0.64  # ten frames of 64 ms
ORNAMENTS = (".eaf", "AM", "PM")  # of lines that only look like a class's
SHARES = (0.8, 0.1, 0.1)
MOST_BYTES = 1 << 20  # of a text

Times = Mapping[str, Sequence[tuple[float, float]]]  # class -> seconds from, to


def found(wanted: Wanted) -> bool:
    if not wanted.root.is_dir():
        return False
    known = (folder for folder in subfolders(wanted.root) if wanted.class_of(_class(folder.name)))
    return any(path.with_suffix(".wav").is_file() for folder in known for path in folder.glob("*.txt"))


def clips(wanted: Wanted, seconds: float) -> Iterator[TaggedClip]:
    check_root(wanted.root)
    names = [*(_class(folder.name) for folder in subfolders(wanted.root)), SPEECH]
    by_clip: dict[str, list[Path]] = defaultdict(list)
    for folder in subfolders(wanted.root):
        for sound in sorted(folder.glob("*.wav")):
            by_clip[sound.stem].append(sound)
    texts = {clip: [_times(sound.with_suffix(".txt"), names) for sound in sounds] for clip, sounds in sorted(by_clip.items())}
    for clip in _of_split(texts, names, wanted.split):
        sound = by_clip[clip][0]
        for start in range(int(_length_s(sound) / seconds + 1e-6)):
            labels = _labels(texts[clip], start * seconds, (start + 1) * seconds)
            ours: dict[str, float] = defaultdict(float)
            for name, heard_s in labels.items():
                if leaf := wanted.class_of(name):
                    ours[leaf] += heard_s
            yield TaggedClip(f"{sound}@{start}", partial(read_file, sound, start * seconds, seconds), dict(ours))


def _class(folder: str) -> str:
    return folder.strip().lower().replace(" ", "_")


def _length_s(sound: Path) -> float:
    try:
        return float(soundfile.info(sound).duration)
    except (OSError, soundfile.SoundFileError) as error:
        raise DataError(f"'{sound}' cannot be read as sound ({error}); remove it from the data set") from None


def _times(text: Path, names: Sequence[str]) -> Times:
    """When each class is heard, as one text has it."""
    try:
        lines = text.read_bytes()[:MOST_BYTES].decode("utf8", "replace").splitlines() if text.is_file() else []
        times: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for line, after in zip(lines, [*lines[1:], ""], strict=True):
            if not any(ornament in line for ornament in ORNAMENTS):
                for name in names:
                    if name in _class(line):
                        times[name] += _pairs(after)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"'{text}' cannot be read ({reason}); expected lines with a class, below each times in pairs") from None
    return times


def _pairs(line: str) -> list[tuple[float, float]]:
    plain = line.replace("TC", "").replace("00:00:", "").replace("-", "\t")
    values = [float(word) for word in plain.split("\t") if word.strip()]
    if len(values) % 2:
        raise ValueError(f"{len(values)} times in '{line.strip()[:60]}'")
    return list(zip(values[::2], values[1::2], strict=True))


def _labels(texts: Sequence[Times], start_s: float, end_s: float) -> dict[str, float]:
    """Class -> for how long it sounds between two moments, where that is long enough. Every text of a clip knows speech, so
    it is the mean of what they say."""
    found_s: dict[str, list[float]] = defaultdict(list)
    for times in texts:
        for name, spans in times.items():
            found_s[name].append(sum(max(0.0, min(end, end_s) - max(start, start_s)) for start, end in spans))
    return {
        name: (sum(each) / len(each)) if name == SPEECH else min(sum(each), end_s - start_s)
        for name, each in found_s.items()
        if max(each) >= LEAST_S
    }


def _of_split(texts: Mapping[str, Sequence[Times]], names: Sequence[str], split: str) -> list[str]:
    if split not in SPLIT_NAMES:
        return []
    labels = np.array([[any(each.get(name) for each in clip) for name in names] for clip in texts.values()], bool)
    parts = stratified(labels.reshape(len(texts), len(names)), SHARES)
    return [clip for clip, part in zip(texts, parts, strict=True) if part == SPLIT_NAMES.index(split)]


def stratified(labels: NDArray[np.bool_], shares: Sequence[float], seed: int = 0) -> NDArray[np.int64]:
    """(items, classes) -> (items,) which part each belongs to: the rarest class first, each of its items goes where that class
    is furthest below its share."""
    rng = np.random.default_rng(seed)
    parts = np.full(len(labels), -1)
    wanted = np.outer(shares, labels.sum(axis=0)).astype(float)
    room = np.asarray(shares) * len(labels)
    while (parts < 0).any():
        left = labels[parts < 0].sum(axis=0)
        rarest = int(np.where(left > 0, left, len(labels) + 1).argmin()) if left.any() else -1
        free = np.flatnonzero((parts < 0) & (labels[:, rarest] if rarest >= 0 else True))
        for item in rng.permutation(free):
            need = wanted[:, rarest] if rarest >= 0 else room
            best = np.flatnonzero(need >= need.max() - 1e-9)
            part = int(best[room[best].argmax()])
            parts[item] = part
            wanted[part] -= labels[item]
            room[part] -= 1
    return parts
