"""sepstream: separate sound while it is played.

    bundle = load_bundle("default")
    pipeline = Pipeline(bundle, Selection.stems(bundle, "leaves"), channels=2)
    stems = pipeline.process(block)  # (channels, n) -> (buses, channels, n), pipeline.latency_samples later

    with LiveSession(bundle) as live:  # the sound card in, the sound card out
        live.play(Selection.stems(bundle, "parents"))

The names below load what they need when they are first used, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .contract import load_bundle
    from .live import LiveSession
    from .pipeline import Pipeline
    from .render import render_file
    from .selection import Selection

__version__ = "0.1.0"
__all__ = ["LiveSession", "Pipeline", "Selection", "load_bundle", "render_file"]

_HOMES = {
    "load_bundle": "contract",
    "Pipeline": "pipeline",
    "Selection": "selection",
    "render_file": "render",
    "LiveSession": "live",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sepstream' has no attribute '{name}'")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
