"""The layout ``folders``: isolated sounds in ``root/SPLIT/CLASS/**``, in any depth."""

from collections.abc import Iterator

from .entries import Entry, Wanted, check_root, file_entry, sound_files


def found(wanted: Wanted) -> bool:
    return any((wanted.root / split / name).is_dir() for split in ("train", "valid", "test") for name in wanted.known)


def entries(wanted: Wanted) -> Iterator[Entry]:
    check_root(wanted.root)
    for leaf, names in wanted.names.items():
        for name in names:
            for path in sound_files(wanted.split_folder / name):
                yield file_entry(leaf, path)
