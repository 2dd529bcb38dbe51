"""A checkpoint becomes a bundle folder: graphs, manifest, parity, scores, card."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sepstream.contract import BandSpec, Bundle, ClassSpec, DiskSpec, read_bundle, write_bundle
from sepstream_training.recipe import Recipe
from sepstream_training.train import load_network, training_facts

from . import card
from .graph import OPSET, export_graph
from .parity import measure

MANY_HOPS = 48  # per call for files: two to three times faster, and a quarter of a second at 48 kHz
COLOURS = ("#e8a33d", "#3d8be8", "#4fb3bf", "#e86a92", "#7e57c2", "#d9534f", "#5cb85c", "#8d6e63", "#26a69a", "#c0ca33")

Evaluate = Callable[[Bundle], Mapping[str, Any]]


def export(checkpoint: Path, out: Path, *, name: str, evaluate: Evaluate | None = None, overwrite: bool = False) -> Bundle:
    """Write the bundle of ``checkpoint`` to the folder ``out`` and return it as read back.

    The graphs are first written to a temporary bundle, compared with torch (law 7) and, with ``evaluate``,
    scored; only then does ``out`` appear. Raises BundleError when parity fails, DataError for a bad checkpoint.
    """
    recipe, network = load_network(checkpoint)
    exported = [export_graph(network, recipe.levels, hops) for hops in (1, MANY_HOPS)]
    files = {spec.file: data for data, spec in exported}
    draft = _manifest(recipe, network, name, tuple(spec for _, spec in exported))
    draft = replace(draft, training=training_facts(checkpoint), licence=card.licence(recipe))
    scratch = Path(tempfile.mkdtemp(prefix="sepstream-export-"))
    try:
        trial = write_bundle(draft, files, "draft", scratch / "draft")
        parity = measure(network, recipe.levels, trial)
        scores = evaluate(trial) if evaluate else {}
    finally:
        shutil.rmtree(scratch)
    final = replace(draft, parity=parity.as_dict(), scores=scores)
    write_bundle(final, files, card.text(final, recipe, sum(map(len, files.values()))), out, overwrite=overwrite)
    return read_bundle(out)


def _manifest(recipe: Recipe, network: Any, name: str, graphs: tuple[Any, ...]) -> Bundle:
    parent_of = {leaf: parent for parent, members in recipe.classes.items() for leaf in members}
    bin_hz = recipe.sample_rate_hz / recipe.stft.analysis_samples
    low, high = (min(round(hz / bin_hz), recipe.band_bins) for hz in recipe.follow_hz)
    head = network.head
    return Bundle(
        name=name,
        kind="step",
        sample_rate_hz=recipe.sample_rate_hz,
        stft=recipe.stft,
        lookahead_hops=0,
        band=BandSpec(recipe.band_bins, low, high),
        classes=tuple(
            ClassSpec(c, parent_of.get(c), COLOURS[i % len(COLOURS)]) for i, c in enumerate(recipe.class_names)
        ),
        disk=DiskSpec(
            head.curvature(), tuple(head.scale().tolist()), tuple(tuple(vector) for vector in head.vectors().tolist())
        ),
        graphs=graphs,
        opset=OPSET,
        card_sha256="",
        training={}, scores={}, parity={}, licence={},
        folder=Path(),
    )  # fmt: skip
