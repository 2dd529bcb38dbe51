"""The layout ``events``: isolated sounds in one folder, whose names begin with their class, as in DCASE2013: ``cough07.wav``.

A sound that lies in a folder of its class's name may be called anything. There are no splits: ``split_events`` divides the
sounds of each class, always in the same way, before anything is mixed of them.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from .entries import SUFFIXES, Entry, Wanted, check_root, file_entry, sound_files

SHARES = (0.8, 0.1)  # of a class's sounds, for training and for validation; the others are for testing
SPLIT_NAMES = ("train", "valid", "test")
LOOKED_AT = 200  # files before a folder is called another layout's


def found(wanted: Wanted) -> bool:
    if not wanted.root.is_dir():
        return False
    files = islice((path for path in sorted(wanted.root.iterdir()) if path.suffix.lower() in SUFFIXES), LOOKED_AT)
    return any(wanted.class_of(class_in_name(path)) for path in files)


def entries(wanted: Wanted) -> Iterator[Entry]:
    check_root(wanted.root)
    parts = split_events(events_by_class(wanted.root))
    for name, files in parts.get(wanted.split, {}).items():
        if leaf := wanted.class_of(name):
            yield from (file_entry(leaf, path) for path in files)


def events_by_class(root: Path) -> dict[str, list[Path]]:
    """Every sound below ``root``, by the class that its folder names or else its own name, classes and files sorted."""
    of_class: dict[str, list[Path]] = defaultdict(list)
    for path in sound_files(root):
        of_class[class_in_name(path) if path.parent == root else path.relative_to(root).parts[-2]].append(path)
    return dict(sorted(of_class.items()))


def class_in_name(path: Path) -> str:
    """``cough07.wav``, ``cough_07.wav`` and ``cough.wav`` are coughs."""
    return re.sub(r"[\s_-]*\d+$", "", path.stem)


def split_events(
    of_class: Mapping[str, Iterable[Path]], shares: Sequence[float] = SHARES, seed: int = 0
) -> dict[str, dict[str, list[Path]]]:
    """train, valid and test -> class -> files: a permutation of each class's, cut at whole numbers below the ``shares``."""
    parts: dict[str, dict[str, list[Path]]] = {split: {} for split in SPLIT_NAMES}
    for name, files in of_class.items():
        order = list(files)
        np.random.default_rng([seed, *name.encode()]).shuffle(order)
        first, second = (int(share * len(order) + 1e-9) for share in shares)
        cuts = (order[:first], order[first : first + second], order[first + second :])
        for split, cut in zip(SPLIT_NAMES, cuts, strict=True):
            parts[split][name] = cut
    return parts
