"""Where data lies: the presets and model bundles that travel with the package, and the user's own presets."""

import os
from pathlib import Path


def is_folder(path: Path) -> bool:
    """No for what cannot be looked at, where Path.is_dir raises."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113


def folder_name(path: Path) -> str:
    """What is made of a file goes to a folder of this name: the file's without suffix, which must not be "." or ".."."""
    return path.stem if path.stem.strip(".") else path.name


def data_dir(kind: str) -> Path:
    """The folder ``kind`` ("presets", "checkpoints"): the wheel's copy, else the checkout's. Raises FileNotFoundError."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "_data" / kind, here.parents[2] / kind):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"the data folder '{kind}' is missing; install the package anew")


def user_presets() -> Path:
    """The folder of the user's own presets, there or not: $SEPSTREAM_PRESETS, else one among the user's settings."""
    settings = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111 - homeless is no error
    return Path(os.environ.get("SEPSTREAM_PRESETS") or Path(settings, "sepstream", "presets"))
