"""Where the data that travels with the package lies: presets and model bundles."""

from pathlib import Path


def data_dir(kind: str) -> Path:
    """The folder ``kind`` ("presets", "checkpoints"): the wheel's copy, else the checkout's. Raises FileNotFoundError."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "_data" / kind, here.parents[2] / kind):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"the data folder '{kind}' is missing; install the package anew")
