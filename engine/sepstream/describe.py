"""A bundle in words, and as one JSON-able tree: what ``sep-bundle show`` prints. Pure, but for the sizes of files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .contract import CARD, INDEPENDENT, MANIFEST, Bundle, GraphSpec, LatentSpec, TensorSpec, manifest_tree
from .disk import prototypes

COLUMN = 10


def describe(bundle: Bundle) -> str:
    """Some twenty lines for people; no newline at the end."""
    return "\n".join(f"{title:{COLUMN}}{line}".rstrip() for title, line in _rows(bundle))


def as_json(bundle: Bundle) -> dict[str, Any]:
    """The manifest, and beside it what follows from it: latency in ms, the two levels of classes, a typical place of each
    class on the disk, bytes of each file."""
    derived = {
        "latency_ms": _ms(bundle, bundle.latency_samples),
        "parents": list(bundle.parents),
        "leaves": list(bundle.leaves),
        "prototypes": _prototypes(bundle, 4),
        "file_bytes": file_bytes(bundle),
        "folder": str(bundle.folder),
    }
    return {**manifest_tree(bundle), **derived}


def file_bytes(bundle: Bundle) -> dict[str, int]:
    """Size of every file of the bundle, in the order in which they are checked."""
    names = [MANIFEST, CARD, *(spec.file for spec in bundle.graphs)]
    return {name: (bundle.folder / name).stat().st_size for name in names}


def _rows(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """(title, line) pairs; a title stands on the first line of its paragraph only."""
    stft, latency = bundle.stft, bundle.latency_samples
    yield "model", f"{bundle.name} ({bundle.kind}, opset {bundle.opset})"
    yield "rate", f"{bundle.sample_rate_hz} Hz, any number of channels"
    yield "geometry", f"analysis {stft.analysis_samples}, synthesis {stft.synthesis_samples}, hop {stft.hop_samples} samples"
    yield "latency", f"{latency} samples = {_ms(bundle, latency):g} ms, look-ahead of {bundle.lookahead_hops} hops included"
    yield "band", _band(bundle)
    if bundle.kind == "window":
        yield "window", _window(bundle)
    if bundle.latent:
        yield from _titled("draws", _draws(bundle, bundle.latent))
    yield from _titled("classes", _tree(bundle))
    if bundle.masks == INDEPENDENT:
        yield "masks", "each on its own: they need not sum to one"
    if bundle.gives_spectra:
        yield "gives", "spectra of the classes, which need not have the phase of the mix: sums and gains of them, no regions"
    if bundle.conditioned:
        yield (
            "condition",
            "asked for its classes: condition/TARGET/CLASS blends them, such as --set condition/"
            + "/".join(bundle.class_names[:2])
            + "=0.5",
        )
    yield "disk", f"{bundle.disk.dim} dimensions, curvature {bundle.disk.curvature:g}" if bundle.disk else "none: no regions"
    if bundle.embedding_dim == 2:
        places = _prototypes(bundle, 2).items()
        yield "", "  typically " + ", ".join(f"{name} ({x:.2f}, {y:.2f})" for name, (x, y) in places)
    sizes = file_bytes(bundle)
    yield from _titled("graphs", [line for spec in bundle.graphs for line in _graph(spec, sizes[spec.file])])
    for title in ("training", "scores", "parity", "licence"):
        yield from _titled(title, [f"{name}: {value}" for name, value in _flat(getattr(bundle, title))])


def _prototypes(bundle: Bundle, digits: int) -> dict[str, list[float]]:
    """A typical place of each class on the disk; nothing of a model that has none."""
    return dict(zip(bundle.class_names, prototypes(bundle.disk).round(digits).tolist(), strict=True)) if bundle.disk else {}


def _titled(title: str, lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    for i, line in enumerate(lines or ["-"]):
        yield ("" if i else title), line


def _band(bundle: Bundle) -> str:
    band, bin_hz = bundle.band, bundle.sample_rate_hz / bundle.stft.analysis_samples
    end, low, high = (round(bins * bin_hz) for bins in (band.bins, band.follow_low, band.follow_high))
    above = f"; above it masks follow {low} to {high} Hz" if band.bins < bundle.stft.bins else ""
    return f"listens from 0 to {end} Hz ({band.bins} of {bundle.stft.bins} bins){above}"


def _window(bundle: Bundle) -> str:
    hops, context = bundle.graphs[0].hops, bundle.graphs[0].states_in[0].shape[0]
    seconds = (context + hops) * bundle.stft.hop_samples / bundle.sample_rate_hz
    past = context - bundle.lookahead_hops
    return (
        f"hears {seconds:.1f} s at once: {past} hops before, {hops} that it gives, {bundle.lookahead_hops} after; for files only"
    )


def _draws(bundle: Bundle, latent: LatentSpec) -> list[str]:
    chunk_s, code_ms = (n * latent.hop_samples / bundle.sample_rate_hz for n in (latent.chunk_codes, 1000))
    sampling = ", ".join(f"{name} {value}" for name, value in asdict(latent.sampling).items())
    return [
        f"{latent.draws} side by side; the best is kept every {chunk_s:.1f} s; for files only",
        f"{latent.codes} codes of {code_ms:.1f} ms, heard together with {latent.margin_codes} on either side",
        f"a prior of {latent.context_codes} codes for each class",
        sampling,
    ]


def _tree(bundle: Bundle) -> list[str]:
    children = {parent: [c.name for c in bundle.classes if c.parent == parent] for parent in bundle.parents}
    return [parent + (f": {', '.join(below)}" if below else "") for parent, below in children.items()]


def _graph(spec: GraphSpec, size: int) -> list[str]:
    head = f"{spec.file}: {spec.hops} {'hop' if spec.hops == 1 else 'hops'} per call, {size / 1e6:.2f} MB"
    return [head, f"  in   {_tensors(spec.inputs)}", f"  out  {_tensors(spec.outputs)}"]


def _tensors(tensors: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{tensor.name} {'x'.join(map(str, tensor.shape))}" for tensor in tensors)


def _flat(facts: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested facts as (dotted name, value) pairs, each value in one line."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield " ".join(f"{prefix}{name}".split()), " ".join(str(value).split())


def _ms(bundle: Bundle, samples: int) -> float:
    return round(1000 * samples / bundle.sample_rate_hz, 2)
