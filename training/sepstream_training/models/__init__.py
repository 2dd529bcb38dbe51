"""The networks, one file per system; ``build`` makes one from a recipe."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from sepstream.errors import DataError, nearest

from .band_split import BandSplit

KINDS: dict[str, type[nn.Module]] = {"band_split": BandSplit}


def build(kind: str, classes: int, options: Mapping[str, Any]) -> nn.Module:
    """The network ``kind`` for ``classes`` masks; every one has forward(whole), step(block, state), initial_state()."""
    if kind not in KINDS:
        raise DataError(f"model.kind '{kind}' is unknown; {nearest(kind, KINDS)}")
    try:
        return KINDS[kind](classes, **options)
    except TypeError as error:
        raise DataError(f"model.options of '{kind}': {error}") from None
