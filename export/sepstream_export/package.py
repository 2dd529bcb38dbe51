"""A checkpoint becomes a bundle folder: graphs, manifest, parity, scores, card."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from sepstream.contract import (
    INDEPENDENT,
    MAGNITUDE,
    MANIFEST,
    SHARES,
    SPECTRA,
    BandSpec,
    Bundle,
    ClassSpec,
    DiskSpec,
    GraphSpec,
    write_bundle,
)
from sepstream.errors import BundleError
from sepstream_training import reference, reference_weak
from sepstream_training.draw import colour
from sepstream_training.latent import Continuation
from sepstream_training.models import Conditioned, Network, StreamingLaSaft, StreamingNetwork
from sepstream_training.recipe import Recipe
from sepstream_training.separation import Separation
from sepstream_training.task import Task
from sepstream_training.train import load_task, training_facts

from . import card, latent
from .asked import export_asked, measure_asked
from .graph import OPSET, export_graph, export_window
from .latent import LatentParity
from .parity import Parity, check, measure
from .speed import time_per_hop

MANY_HOPS = 48  # per call for files: two to three times faster, and a quarter of a second at 48 kHz

Evaluate = Callable[[Bundle], Mapping[str, Any]]


def export(
    checkpoint: Path,
    out: Path,
    *,
    name: str,
    licence: str = "",
    temperature: float = 1.0,
    evaluate: Evaluate | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write the bundle of ``checkpoint``, ours or a reference system's, to the folder ``out`` and return it as read back.

    ``licence`` says whose the data is, where the checkpoint's recipe does not, or not well. ``temperature`` of the softmax: below
    one, masks are harder than those that were trained (less interference, more artefacts), above one softer.
    The graphs are first written to a temporary bundle, compared with torch (law 7) and, with ``evaluate``,
    scored; only then does ``out`` appear. Raises BundleError when parity fails or ``out`` is taken, DataError for a
    bad checkpoint, OSError where the disk does.
    """
    _check_free(out, overwrite)
    with TemporaryDirectory(prefix="sepstream-export-") as scratch:
        other = next((each for each in (reference, reference_weak) if each.is_reference(checkpoint)), None)
        if other:
            checkpoint = other.import_reference(checkpoint, Path(scratch) / "imported.ckpt")
        recipe, draft, files, prove = _draft(checkpoint, name, temperature)
        whose = card.licence(recipe.data, licence) | ({"weights": other.LICENCE} if other else {})
        facts = training_facts(checkpoint) | ({"temperature": temperature} if temperature != 1 else {})
        draft = replace(draft, training=facts, licence=whose)
        trial = write_bundle(draft, files, "draft", Path(scratch) / "draft")
        parity = prove(trial)
        speed = time_per_hop(trial)
        scores = evaluate(trial) if evaluate else {}
    final = replace(draft, parity=parity.as_dict(), scores=scores)
    text = card.text(final, recipe, speed, sum(map(len, files.values())))
    return write_bundle(final, files, text, out, overwrite=overwrite)


class Draft(NamedTuple):
    """A model without its facts: the manifest, the files by name, and what proves that a bundle of them is the network."""

    recipe: Recipe
    bundle: Bundle
    files: dict[str, bytes]
    prove: Callable[[Bundle], Parity | LatentParity]


def _draft(checkpoint: Path, name: str, temperature: float) -> Draft:
    task = load_task(checkpoint)
    if not isinstance(task, Separation):
        if temperature != 1:
            raise BundleError(f"temperature is {temperature:g}; expected 1: this model draws, see --sampling of sep-render")
        return _latent_draft(task, name)
    recipe, network = task.recipe, task.network
    _set_temperature(network, temperature)
    made = _graphs(recipe, network, task.levels)
    bundle = _manifest(recipe, network, name, [spec for _, spec in made])
    return Draft(recipe, bundle, {spec.file: data for data, spec in made}, partial(_prove, network, task.levels))


def _prove(network: Network, levels: Sequence[slice], bundle: Bundle) -> Parity:
    found = measure_asked(network, bundle) if isinstance(network, Conditioned) else measure(network, levels, bundle)
    return check(found, bundle)


def _latent_draft(task: Task, name: str) -> Draft:
    if not isinstance(task, Continuation):
        raise BundleError(
            "the checkpoint is of an autoencoder alone; expected one of the second run; sep-train lqvae_priors --start it"
        )
    spec = latent.spec_of(task)
    made = latent.graphs(task, spec)
    files = {each.file: data for data, each in made}
    return Draft(task.recipe, latent.manifest(task, spec, name, made), files, partial(latent.measure, task))


def _check_free(out: Path, overwrite: bool) -> None:
    """What write_bundle would refuse in the end is refused before the work."""
    if out.exists() and not (overwrite and (out / MANIFEST).is_file()):
        wanted = "a new folder, or an existing bundle and --overwrite"
        raise BundleError(f"'{out}' exists; expected {wanted}; choose another folder")


def _set_temperature(network: Network, temperature: float) -> None:
    if network.head is not None:
        network.head.temperature = temperature
    elif temperature != 1:
        raise BundleError(f"temperature is {temperature:g}; expected 1: it belongs to the disk, and this model has none")


def _graphs(recipe: Recipe, network: Network, levels: list[slice]) -> list[tuple[bytes, GraphSpec]]:
    """Of a network that streams, for live use and for files; of one that hears both ways, a window."""
    if isinstance(network, Conditioned):
        return export_asked(network, recipe.window, MANY_HOPS)
    if isinstance(network, StreamingNetwork):
        return [export_graph(network, levels, hops) for hops in (1, MANY_HOPS)]
    return [export_window(network, levels, recipe.window)]


def _manifest(recipe: Recipe, network: Network, name: str, graphs: Sequence[GraphSpec]) -> Bundle:
    parent_of = {leaf: parent for parent in recipe.parents for leaf in recipe.classes[parent]}
    streams = isinstance(network, StreamingNetwork | StreamingLaSaft)
    bin_hz = recipe.sample_rate_hz / recipe.stft.analysis_samples
    low, high = (min(round(hz / bin_hz), recipe.band_bins) for hz in recipe.follow_hz)
    return Bundle(
        name=name,
        kind="step" if streams else "window",
        sample_rate_hz=recipe.sample_rate_hz,
        stft=recipe.stft,
        lookahead_hops=recipe.lookahead_hops if streams else recipe.window.future,
        band=BandSpec(recipe.band_bins, low, high),
        classes=tuple(ClassSpec(c, parent_of.get(c), colour(i)) for i, c in enumerate(recipe.class_names)),
        disk=None if network.head is None else _disk(network.head),
        graphs=tuple(graphs),
        opset=OPSET,
        card_sha256="",
        training={}, scores={}, parity={}, licence={},
        folder=Path(),
        masks=INDEPENDENT if network.independent else SHARES,
        signal=SPECTRA if isinstance(network, Conditioned) and network.is_complex else MAGNITUDE,
        conditioned=isinstance(network, Conditioned),
    )  # fmt: skip


def _disk(head: Any) -> DiskSpec:
    with torch.no_grad():
        vectors = tuple(tuple(vector) for vector in head.vectors().tolist())
        return DiskSpec(head.curvature(), tuple(head.scale().tolist()), vectors)
