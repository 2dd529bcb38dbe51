"""Where data lies: the presets and model bundles that travel with the package, and the user's own presets."""

import os
from pathlib import Path


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
