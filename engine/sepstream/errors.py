"""Every error a user may see, as one small tree.

    SepstreamError
    ├── BundleError        a model folder that is missing, damaged or hostile (file and field named)
    ├── ExpressionError    a bus expression or preset that cannot be read
    ├── AudioFileError     a sound file that cannot be read or written
    ├── ProviderError      an ONNX Runtime provider that was asked for and is not there
    ├── DeviceError        a sound card, MIDI port or socket that is missing or refuses
    ├── ControlError       a control, binding or message that cannot be used
    └── DataError          training data, recipes and checkpoints

A message is one line: the thing, the value, what was expected, the next step.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class SepstreamError(Exception):
    """Base of all errors that are reported to the user in one line."""


class BundleError(SepstreamError):
    """A model bundle is missing, damaged, mislabelled or hostile."""


class ExpressionError(SepstreamError):
    """A bus expression, region or preset cannot be read."""


class AudioFileError(SepstreamError):
    """A sound file cannot be read or written."""


class ProviderError(SepstreamError):
    """The asked-for ONNX Runtime provider is not available."""


class DeviceError(SepstreamError):
    """A sound card, MIDI port or socket is missing or refuses what is asked of it."""


class ControlError(SepstreamError):
    """A control, a binding or a message cannot be used."""


class DataError(SepstreamError):
    """Training data, a recipe or a checkpoint cannot be used."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The tail of an error about an unknown ``word``: the nearest known name, then all of them."""
    known = list(known)
    close = get_close_matches(word, known, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}known: {', '.join(known) or 'none'}"
