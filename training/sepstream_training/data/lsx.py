"""The layout ``lsx``: premixed tracks that hold a file for every node of the class tree, the mixture and the parents too.

LSX (Petermann et al., arXiv 2212.05008) has ``root/{tr,cv,tt}/**/{mix,music_mix,speech_mix,bass,...}.wav``: every innermost
folder is a track, in any depth. The recipe's ``data.tree`` names a TOML file for another tree, each node with its file's name
without the suffix; the mixture and the parents may be left out, then they are the sums of their leaves:

    mix = "mix"
    [parents]
    music = "music_mix"
    [leaves.music]
    bass = "bass"
    drums = "kit"
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sepstream.errors import DataError, nearest

from .entries import MIX, SUFFIXES, Entry, Wanted, check_root, file_entry, walk

MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Tree:
    """The file of each node, without suffix; ``mix`` is empty, and a parent without a file, where there is none."""

    mix: str
    parents: Mapping[str, str]
    leaves: Mapping[str, Mapping[str, str]]  # parent -> leaf -> file

    @property
    def families(self) -> dict[str, list[str]]:
        return {parent: list(leaves) for parent, leaves in self.leaves.items()}

    @property
    def files(self) -> dict[str, str]:
        """Leaf -> file."""
        return {leaf: file for leaves in self.leaves.values() for leaf, file in leaves.items()}


LSX = Tree(
    mix="mix",
    parents={"music": "music_mix", "speech": "speech_mix"},
    leaves={
        "music": {"bass": "bass", "drums": "drums", "guitar": "guitar"},
        "speech": {"male": "speech_male", "female": "speech_female"},
    },
)


def found(wanted: Wanted) -> bool:
    return wanted.tree is not None or any((wanted.root / split).is_dir() for split in ("tr", "cv", "tt"))


def entries(wanted: Wanted) -> Iterator[Entry]:
    check_root(wanted.root)
    files = _files(wanted)
    for parent, _, names in _innermost(wanted.split_folder):
        folder, there = Path(parent), {Path(name).stem: name for name in names if Path(name).suffix.lower() in SUFFIXES}
        if not there:
            continue
        group = folder.relative_to(wanted.split_folder).as_posix()
        for node, file in files.items():
            if file not in there:
                raise DataError(
                    f"track '{folder}' lacks '{file}.wav'; a silent source is a file of zeros, see data.tree for other names"
                )
            yield file_entry(node, folder / there[file], group, track=True)


def read_tree(path: Path) -> Tree:
    """Raises DataError, in one line, for a file that is no class tree."""
    try:
        with path.open("rb") as file:
            table = tomllib.loads(file.read(MOST_BYTES).decode("utf8"))
    except (OSError, ValueError) as error:
        raise DataError(f"class tree '{path}' cannot be read ({error}); expected a TOML file") from None
    known = ("mix", "parents", "leaves")
    for key in table:
        if key not in known:
            raise DataError(f"class tree '{path}': key '{key}' is unknown; {nearest(key, known)}")
    tree = Tree(table.get("mix", ""), table.get("parents", {}), table.get("leaves", {}))
    texts = [
        tree.mix,
        *_values(tree.parents, path),
        *(text for leaves in _values(tree.leaves, path) for text in _values(leaves, path)),
    ]
    if not tree.leaves or not all(isinstance(text, str) for text in texts):
        raise DataError(f"class tree '{path}': expected [parents] and [leaves.PARENT] with NAME = \"FILE\", file names as text")
    for parent in tree.parents:
        if parent not in tree.leaves:
            raise DataError(f"class tree '{path}': parent '{parent}' has no leaves; {nearest(parent, tree.leaves)}")
    return tree


def _values(table: Any, path: Path) -> Sequence[Any]:
    if not isinstance(table, Mapping):
        raise DataError(f"class tree '{path}' holds {table!r}; expected [parents] and [leaves.PARENT] with NAME = \"FILE\"")
    return list(table.values())


def _files(wanted: Wanted) -> dict[str, str]:
    """Node -> its file. The data set's own sums stand for parents (and a mixture) that have the very same leaves."""
    tree = read_tree(wanted.tree) if wanted.tree else LSX
    files = {leaf: _file(wanted, leaf, tree) for leaf in wanted.names}
    sums = {frozenset(leaves.values()): tree.parents.get(parent, "") for parent, leaves in tree.leaves.items()}
    own = {parent: sums.get(frozenset(files[leaf] for leaf in leaves), "") for parent, leaves in wanted.families.items()}
    own[MIX] = tree.mix if set(files.values()) == set(tree.files.values()) else ""
    return files | {node: file for node, file in own.items() if file}


def _file(wanted: Wanted, leaf: str, tree: Tree) -> str:
    """By the tree's name of the class, or by what the class goes by."""
    if leaf in tree.files:
        return tree.files[leaf]
    for name in wanted.names[leaf]:
        if name in tree.files.values():
            return name
    raise DataError(
        f"class '{leaf}' is not in the tree of the data set; {nearest(leaf, tree.files)}; set data.tree or data.folders"
    )


def _innermost(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    return ((parent, folders, files) for parent, folders, files in walk(folder) if not folders)
