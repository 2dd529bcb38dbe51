"""The model bundle: what a model promises to the engine, in one place.

Training, export and engine share the values below; nothing else documents the format. A bundle is a folder: one or
more ``.onnx`` files, ``card.md`` for people, and ``bundle.json``, which holds the fields of ``Bundle`` (all but
``folder``), the version of this format, and the total latency, so that a reader in another language need not derive it:

    {"format": 1, "name": "live", "kind": "step", "sample_rate_hz": 48000, "latency_samples": 512,
     "stft": {"analysis_samples": 2048, "synthesis_samples": 512, "hop_samples": 256},
     "lookahead_hops": 0,
     "band": {"bins": 342, "follow_low": 256, "follow_high": 342},
     "classes": [{"name": "speech", "parent": null, "colour": "#d1495b"},
                 {"name": "male", "parent": "speech", "colour": "#e07a5f"}],
     "disk": {"curvature": 1.0, "scale": [2.0, 2.0], "vectors": [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]},
     "graphs": [{"file": "step1.onnx", "sha256": "9f86...", "hops": 1,
                 "inputs": [{"name": "magnitude", "shape": [1, 342], "dtype": "float32"},
                            {"name": "h_in", "shape": [3, 22, 64], "dtype": "float32"}],
                 "outputs": [{"name": "masks", "shape": [1, 2, 342], "dtype": "float32"},
                             {"name": "embedding", "shape": [1, 2, 342], "dtype": "float32"},
                             {"name": "h_out", "shape": [3, 22, 64], "dtype": "float32"}],
                 "states": [["h_in", "h_out"]]}],
     "opset": 20, "card_sha256": "2c26...",
     "training": {"steps": 6000}, "scores": {"SI-SDR dB": {"speech": 12.1}}, "parity": {}, "licence": {"weights": "MIT"},
     "masks": "shares", "signal": "magnitude", "conditioned": false}

``disk`` is null where a model has no embedding: its graphs then have no such output, and it takes classes only, no regions.
``masks`` are "shares", of which each level of the class tree sums to one (a manifest that does not say, means these), or
"independent": each lies within 0 and 1 on its own, several may claim a bin, or none. What nobody claims, and minus what is
claimed twice, is in the residual: it is the mix minus all that was selected, whatever the masks.

``signal`` says what a graph hears and gives: "magnitude" (a manifest that does not say, means this), and then it gives masks; or
"spectra", and then it gives the spectrum of each class, which need not have the phase of the mix: such a model has no disk.
A ``conditioned`` model is asked for what it shall give: behind the signal its graphs take a condition (classes, classes), a row
for each target that says how much of each class it is. By default that is the identity; between its rows, classes are blended.

A bundle of kind "offline" has one more field, ``latent`` (LatentSpec, where its graphs are described), no ``disk``, and two
classes: two sources found by drawing codes. Its ``stft`` and ``band`` are those of the masks that are made of what was found.

``read_bundle`` believes none of it: every field, every hash and the inside of every ONNX file are checked (see
``onnxfile``), and what it returns can be run. Any other outcome is a BundleError of one line.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import NoneType, UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from .errors import BundleError, nearest
from .onnxfile import Port, Words, fault, read_model
from .paths import data_dir, is_file, is_folder

FORMAT = 1
STEP, WINDOW, OFFLINE = KINDS = ("step", "window", "offline")
SHARES, INDEPENDENT = MASKS = ("shares", "independent")
MAGNITUDE, SPECTRA = SIGNALS = ("magnitude", "spectra")

MANIFEST, CARD = "bundle.json", "card.md"
MAX_TEXT_BYTES = 1 << 20  # of bundle.json, and of card.md
MAX_GRAPH_BYTES = {STEP: 1 << 28, WINDOW: 1 << 28, OFFLINE: 1 << 30}
MAX_ELEMENTS = 1 << 24  # of one tensor
MAX_CHANNELS = 64  # of one graph
MAX_DEPTH = 8  # of training, scores, parity and licence
RESTORE = "restore the file, or export the bundle again"

F64 = NDArray[np.float64]


class Windows(NamedTuple):
    """``analysis`` (analysis_samples,) and ``synthesis`` (synthesis_samples,), float64."""

    analysis: F64
    synthesis: F64


@dataclass(frozen=True)
class StftSpec:
    """An asymmetric-window STFT: long analysis for resolution, short synthesis for latency.

    Wang, Naithani, Politis, Virtanen 2021 (arXiv 2106.11794): the frame is ``analysis_samples`` long,
    only its last ``synthesis_samples`` are heard, so these alone are the algorithmic latency.
    """

    analysis_samples: int
    synthesis_samples: int
    hop_samples: int

    def __post_init__(self) -> None:
        n, l, r = self.analysis_samples, self.synthesis_samples, self.hop_samples
        if not 0 < r <= l <= 2 * r or not l <= n <= 1 << 16:
            raise BundleError(
                f"analysis_samples {n}, synthesis_samples {l}, hop_samples {r}; expected hop <= synthesis <= 2 hops, "
                "synthesis <= analysis <= 65536; use one of the presets ultra, live, quality"
            )
        if n % 2 or (n == l and l != 2 * r):
            raise BundleError(
                f"analysis_samples {n}; expected an even number, above synthesis unless synthesis is 2 hops; "
                "use one of the presets ultra, live, quality"
            )

    @property
    def bins(self) -> int:
        """Number of frequency bins of one frame."""
        return self.analysis_samples // 2 + 1

    @property
    def latency_samples(self) -> int:
        """Algorithmic latency: collecting a hop plus waiting for the overlap, whatever the analysis length."""
        return self.synthesis_samples

    def windows(self) -> Windows:
        """The window pair; their product over the synthesis span overlap-adds to exactly one."""
        n, l, r = self.analysis_samples, self.synthesis_samples, self.hop_samples
        v = l - r  # overlapping samples
        up = np.sin(np.pi * (np.arange(v) + 0.5) / (2 * v)) ** 2 if v else np.empty(0)
        product = np.concatenate([up, np.ones(2 * r - l), up[::-1]])
        rise = np.sin(np.pi * (np.arange(n - v) + 0.5) / (2 * (n - v)))
        analysis = np.concatenate([rise, np.sqrt(up[::-1])])
        return Windows(analysis, product / analysis[n - l :])

    @property
    def magnitude_scale(self) -> float:
        """Spectra times this are network magnitudes: a full-scale sine reads 0.5, whatever the window."""
        return 1.0 / float(self.windows().analysis.sum())


GEOMETRIES = {
    "ultra": StftSpec(1024, 256, 128),
    "live": StftSpec(2048, 512, 256),
    "quality": StftSpec(2048, 1024, 512),
}


def geometry(name: str) -> StftSpec:
    """One of the named 48 kHz geometries."""
    if name not in GEOMETRIES:
        raise BundleError(f"unknown geometry '{name}'; {nearest(name, GEOMETRIES)}")
    return GEOMETRIES[name]


@dataclass(frozen=True)
class ClassSpec:
    """One class of the tree; a class that is nobody's parent is a leaf. ``colour`` is #rrggbb."""

    name: str
    parent: str | None
    colour: str

    def __post_init__(self) -> None:
        _match("name", self.name, r"[a-z0-9_-]{1,32}", "1 to 32 of a-z 0-9 _ -")
        _match("colour", self.colour, r"#[0-9a-f]{6}", "#rrggbb in lower case")


@dataclass(frozen=True)
class BandSpec:
    """The network sees bins [0, bins); the masks of the bins above follow the mean over bins [follow_low, follow_high)."""

    bins: int
    follow_low: int
    follow_high: int

    def __post_init__(self) -> None:
        if not 0 <= self.follow_low < self.follow_high <= self.bins:
            raise fault("follow_low, follow_high", (self.follow_low, self.follow_high), f"a range within {self.bins} band bins")


@dataclass(frozen=True)
class DiskSpec:
    """The classifier on the hyperboloid, in curvature-1 coordinates: logit = scale * asinh(<X, vector>).

    ``vectors`` (classes, dim + 1), the time part first; X = (cosh 2|u|, sinh 2|u| u/|u|) of the embedding u.
    ``curvature`` 0 is Euclid: X = (1, u), logit = scale * <X, vector>.
    """

    curvature: float
    scale: tuple[float, ...]
    vectors: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not 0 <= self.curvature < math.inf:
            raise fault("curvature", self.curvature, "0 (Euclid) or a positive number")
        if len(self.scale) != len(self.vectors) or len(widths := {len(v) for v in self.vectors}) != 1 or min(widths) < 2:
            raise fault("vectors", [len(v) for v in self.vectors], f"{len(self.scale)} rows of dim + 1 numbers, one per scale")
        for i, (scale, vector) in enumerate(zip(self.scale, self.vectors, strict=True)):
            if not 0 < scale < math.inf:
                raise fault(f"scale[{i}]", scale, "a finite number above 0")
            if not all(map(math.isfinite, vector)):
                raise fault(f"vectors[{i}]", vector, "finite numbers")
            if self.curvature > 0 and not math.hypot(*vector[1:]) > abs(vector[0]):
                raise fault(f"vectors[{i}]", vector, "a spacelike vector: the length of the rest above the first")

    @property
    def dim(self) -> int:
        """Components of an embedding u."""
        return len(self.vectors[0]) - 1


@dataclass(frozen=True)
class TensorSpec:
    """A graph input or output: name, fixed shape, dtype (float32 in format 1)."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        _match("name", self.name, r"[!-~]{1,128}", "1 to 128 printable ASCII characters")
        if self.dtype != "float32":
            raise fault("dtype", self.dtype, "float32, the only one in format 1")
        if not 1 <= len(self.shape) <= 8 or min(self.shape) < 1 or math.prod(self.shape) > MAX_ELEMENTS:
            raise fault("shape", list(self.shape), f"1 to 8 positive sizes, {MAX_ELEMENTS} elements at most")


@dataclass(frozen=True)
class GraphSpec:
    """One ONNX file that takes ``hops`` frames per call.

    Inputs: magnitude (hops, band bins), condition (classes, classes) if the model is conditioned, then the states. Outputs:
    masks (hops, classes, band bins), embedding (hops, dim, band bins) if there is a disk, then the states. ``states`` pairs
    (input name, output name) in order, equal in shape within a pair and between the graphs of a bundle.

    Where the signal is spectra, these take the places of magnitude and masks: (hops, channels, band bins, 2) in, (hops, classes,
    channels, band bins, 2) out, real and imaginary parts last, times StftSpec.magnitude_scale. Sound of more channels than the
    graph's goes through it so many at a time. Those of an offline bundle are described with LatentSpec.
    """

    file: str
    sha256: str
    hops: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[tuple[str, str], ...]

    @property
    def states_in(self) -> tuple[TensorSpec, ...]:
        """The inputs that are states."""
        return self.inputs[len(self.inputs) - len(self.states) :]


LIKELIHOODS = ("gaussian", "counts")


@dataclass(frozen=True)
class SamplingSpec:
    """How codes are drawn (sampler.py): the likelihood with its width ``sigma``, or for counts its ``power`` and
    ``smoothing``; and what is left of the priors: ``temperature``, ``top_k`` (0: all codes), ``top_p``."""

    likelihood: str = "gaussian"
    sigma: float = 0.4
    power: float = 3.0
    smoothing: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.likelihood not in LIKELIHOODS:
            raise BundleError(f"likelihood is {self.likelihood!r:.80}; {nearest(str(self.likelihood), LIKELIHOODS)}")
        for name in ("sigma", "power", "smoothing", "temperature"):
            if not 1e-3 <= getattr(self, name) <= 1e3:
                raise fault(name, getattr(self, name), "0.001 to 1000", "choose another")
        if not 0 <= self.top_k <= 1 << 16:
            raise fault("top_k", self.top_k, "0 to 65536", "choose another")
        if not 0 < self.top_p <= 1:
            raise fault("top_p", self.top_p, "more than 0, 1 at most", "choose another")


@dataclass(frozen=True)
class LatentSpec:
    """Two sources, found by drawing their codes given those of half their mixture; counts are of codes, each of ``hop_samples``.

    So many ``draws`` go side by side for ``chunk_codes``; then the best one of each source is kept, and all go on from it. The
    encoder hears ``margin_codes`` before and after a chunk, the decoder ``lead_codes`` before it; over ``fade_codes`` the sound
    of one chunk becomes that of the next. A prior remembers ``context_codes``.

    Graphs, in this order; codes are whole numbers from 0 to ``codes`` - 1, held in float32 like everything in format 1:

    - encoder: sound (1, (margin + chunk + margin) * hop) -> codes (1, chunk)
    - decoder: codes (1, lead + chunk) -> sound (1, (lead + chunk) * hop)
    - tables: nothing -> codebook (codes, dim), and for the likelihood "counts" also counts (n, 4): code of the first class, of
      the second, of half of both together, and how often that was seen
    - one prior for each class: the last codes (draws,), ``codes`` where there is none yet, and the ages (context,) of what is
      remembered, in codes from 1, context + 1 where there is nothing; then for each layer keys and values (draws, heads,
      context, units) -> logits (draws, codes), then the newest keys and values (draws, heads, units). ``states`` pairs them:
      whoever calls writes them over the oldest.

    ``hops`` of a graph are codes per call (1 of tables).
    """

    hop_samples: int
    codes: int
    chunk_codes: int
    margin_codes: int
    lead_codes: int
    fade_codes: int
    context_codes: int
    draws: int
    sampling: SamplingSpec

    def __post_init__(self) -> None:
        for name, low, high in (
            *(("hop_samples", 1, 1 << 16), ("codes", 2, 1 << 12), ("chunk_codes", 1, 1 << 16), ("margin_codes", 0, 1 << 16)),
            *(("lead_codes", 1, 1 << 16), ("fade_codes", 1, 1 << 16), ("context_codes", 1, 1 << 16), ("draws", 1, 4096)),
        ):
            if not low <= getattr(self, name) <= high:
                raise fault(name, getattr(self, name), f"{low} to {high}")
        if self.fade_codes > min(self.lead_codes, self.chunk_codes):
            raise fault("fade_codes", self.fade_codes, f"{min(self.lead_codes, self.chunk_codes)} at most, lead and chunk")

    @property
    def latency_samples(self) -> int:
        """What a chunk has to wait for, itself included."""
        return (self.chunk_codes + self.margin_codes + self.fade_codes) * self.hop_samples


@dataclass(frozen=True)
class Bundle:
    """A model as the engine sees it: bundle.json, checked, and the folder it was read from.

    ``kind`` is "step" (one hop in, one hop out, named states) or "window": a call hears frames again that earlier calls
    heard, its only state, context (frames, ... as the signal), and the network looks both ways in all of them; or "offline":
    drawn, see ``latent``. ``lookahead_hops`` n: what a call gives belongs to the frames n hops ago. ``graphs`` in rising order
    of hops; of a step bundle, the first takes one.
    ``disk`` makes classes of an embedding: what regions and drawings go by. The graph's own masks may hold more than it says.
    ``training``, ``scores``, ``parity`` and ``licence`` are facts for cards and people; strings and numbers only.
    """

    name: str
    kind: str
    sample_rate_hz: int
    stft: StftSpec
    lookahead_hops: int
    band: BandSpec
    classes: tuple[ClassSpec, ...]
    disk: DiskSpec | None
    graphs: tuple[GraphSpec, ...]
    opset: int
    card_sha256: str
    training: Mapping[str, Any]
    scores: Mapping[str, Any]
    parity: Mapping[str, Any]
    licence: Mapping[str, Any]
    folder: Path
    masks: str = SHARES
    signal: str = MAGNITUDE
    conditioned: bool = False
    latent: LatentSpec | None = None

    @property
    def latency_samples(self) -> int:
        """Total algorithmic latency at the bundle's own rate."""
        if self.latent:
            return self.latent.latency_samples + self.stft.latency_samples - self.stft.hop_samples
        return self.stft.latency_samples + self.lookahead_hops * self.stft.hop_samples

    @property
    def is_live(self) -> bool:
        """False where a call takes many hops at once: for files only."""
        return self.latent is None and self.graphs[0].hops == 1

    def check_live(self) -> None:
        """Raises a BundleError that says why this model cannot be played live."""
        if self.latent:
            chunk_s, late_s = (
                samples / self.sample_rate_hz
                for samples in (self.latent.chunk_codes * self.latent.hop_samples, self.latency_samples)
            )
            raise BundleError(
                f"model '{self.name}' is of kind {self.kind}: it makes {self.latent.draws} draws for {chunk_s:.1f} s of sound "
                f"and then keeps the best, {late_s:.1f} s late on a machine that draws fast enough; expected one hop per call; "
                "use it with sep-render, or a step model here"
            )
        if not self.is_live:
            hops = self.graphs[0].hops
            seconds = (hops + self.lookahead_hops) * self.stft.hop_samples / self.sample_rate_hz
            raise BundleError(
                f"model '{self.name}' is of kind {self.kind}: it takes {hops} hops per call and hears what is to come, "
                f"{seconds:.1f} s late; expected one hop per call; use it with sep-render, or a step model here"
            )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of the masks."""
        return tuple(c.name for c in self.classes)

    @property
    def parents(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes if c.parent is None)

    @property
    def leaves(self) -> tuple[str, ...]:
        above = {c.parent for c in self.classes}
        return tuple(c.name for c in self.classes if c.name not in above)

    @property
    def embedding_dim(self) -> int:
        """Components of an embedding u; 0 of a model without a disk."""
        return self.disk.dim if self.disk else 0

    @property
    def gives_spectra(self) -> bool:
        """Of each class, in the place of masks."""
        return self.signal == SPECTRA

    @property
    def graph_channels(self) -> int:
        """How many channels of sound go through a graph at a time; masks serve any number."""
        return self.graphs[0].inputs[0].shape[1] if self.gives_spectra else 0

    @property
    def levels(self) -> tuple[slice, ...]:
        """The rows of the masks that share the bins, and sum to one where masks are shares: parents then leaves, or all of a
        flat tree."""
        count = len(self.parents)
        return (slice(0, count), slice(count, len(self.classes)))[: 1 + (count < len(self.classes))]


# ---- reading --------------------------------------------------------------------------------------------------------


def load_bundle(name_or_path: str | Path) -> Bundle:
    """The bundle of a folder, or of a name in the checkpoints folder, fully checked."""
    return read_bundle(resolve(name_or_path))


def resolve(name_or_path: str | Path) -> Path:
    """A bundle's folder. A name is looked up in the checkpoints folder; ``default`` is the one its file of that name names."""
    path = Path(name_or_path)
    if is_folder(path) and (len(path.parts) != 1 or is_file(path / MANIFEST)):
        return path
    try:
        home = data_dir("checkpoints")
    except FileNotFoundError as error:
        raise BundleError(f"model {str(path)!r} is no folder with a {MANIFEST}, and {error}") from None
    known = sorted(each.parent.name for each in home.glob(f"*/{MANIFEST}"))
    name = str(name_or_path)
    if name == "default" and name not in known:
        name = _default_name(home)
    if name not in known:
        raise BundleError(f"model {name!r} is neither a folder with a {MANIFEST} nor in {home}; {nearest(name, known)}")
    return home / name


def _default_name(home: Path) -> str:
    if not (home / "default").is_file():
        raise fault(f"{home / 'default'}", Words("missing"), "a file with the name of a model in one line", "name a model")
    with _naming(home / "default"):
        return _read_file(home, "default", 200).decode("utf8", "replace").strip()


def read_bundle(folder: str | Path) -> Bundle:
    """Read and check a bundle's folder; a BundleError of one line names the file and the field that is wrong."""
    folder = Path(folder)
    with _naming(folder / MANIFEST):
        bundle = _bundle_from_manifest(_parse_json(_read_file(folder, MANIFEST, MAX_TEXT_BYTES)), folder)
        _check_bundle(bundle)
    _read_hashed(folder, CARD, bundle.card_sha256, "card_sha256", MAX_TEXT_BYTES)
    for i, spec in enumerate(bundle.graphs):
        data = _read_hashed(folder, spec.file, spec.sha256, f"graphs[{i}].sha256", MAX_GRAPH_BYTES[bundle.kind])
        with _naming(folder / spec.file):
            _check_onnx(data, spec, bundle.opset)
    return bundle


@contextmanager
def _naming(place: Path | str, separator: str = ": ") -> Iterator[None]:
    """Put the file, or the path of a field, before whatever goes wrong inside."""
    try:
        yield
    except BundleError as error:
        raise BundleError(f"{place}{separator}{error}") from None


def _read_file(folder: Path, name: str, limit: int) -> bytes:
    """The bytes of a regular file that lies in ``folder``, not behind a link that leads out, of bounded size."""
    try:
        path = (folder / name).resolve(strict=True)
        if path.parent != folder.resolve() or not path.is_file():
            raise fault("file", str(path), "a regular file inside the folder", "copy it there")
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
        raise BundleError(f"cannot be read ({getattr(error, 'strerror', None) or error}); {RESTORE}") from None
    if len(data) > limit:
        raise fault("size", Words(f"over {limit} bytes"), "a smaller file")
    return data


def _read_hashed(folder: Path, name: str, sha256: str, field: str, limit: int) -> bytes:
    with _naming(folder / name):
        data = _read_file(folder, name, limit)
        if (digest := hashlib.sha256(data).hexdigest()) != sha256:
            raise fault("SHA-256", digest, f"{sha256} ({field} of {MANIFEST})", RESTORE)
    return data


def _parse_json(data: bytes) -> Any:
    """Strict JSON: UTF-8, no duplicate keys, no NaN or Infinity."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for name, value in pairs:
            if name in tree:
                raise fault(f"key {name!r:.80}", Words("given twice"), "each key once")
            tree[name] = value
        return tree

    def constant(name: str) -> None:
        raise fault("a number", Words(name), "finite numbers")

    try:
        return json.loads(data.decode("utf8"), object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"not JSON ({error}); {RESTORE}") from None


# ---- values from JSON, by the types of the dataclasses above ---------------------------------------------------------


def _bundle_from_manifest(tree: Any, folder: Path) -> Bundle:
    """The parsed manifest -> Bundle, every field of the right type; format and kind first, as they decide the rest."""
    if _object(tree, "manifest").get("format") != FORMAT or isinstance(tree["format"], bool):
        raise fault("format", tree.get("format"), str(FORMAT), "use a version of sepstream that reads this format")
    _check_kind(tree.get("kind"))
    hints = {name: hint for name, hint in get_type_hints(Bundle).items() if name != "folder"}
    values = _values({"format": int, "latency_samples": int, **hints}, {**_UNSAID, **tree}, "")
    latency = values.pop("latency_samples")
    bundle = Bundle(**{name: values[name] for name in hints}, folder=folder)
    if latency != bundle.latency_samples:
        terms = "chunk, margin and fade + synthesis_samples - hop_samples" if bundle.latent else None
        terms = terms or "synthesis_samples + lookahead_hops * hop_samples"
        raise fault("latency_samples", latency, f"{bundle.latency_samples}, {terms}")
    return bundle


_UNSAID = {"masks": SHARES, "signal": MAGNITUDE, "conditioned": False, "latent": None}  # what a manifest means that does not say


def _check_kind(kind: Any) -> None:
    if kind not in KINDS:
        raise BundleError(f"kind is {kind!r:.80}; {nearest(str(kind), KINDS)}; export the bundle again")


def _values(hints: Mapping[str, Any], tree: Any, where: str) -> dict[str, Any]:
    """An object with exactly the keys of ``hints`` -> its decoded values."""
    for key in _object(tree, where):
        if key not in hints:
            raise BundleError(f"key {_join(where, key)!r:.120} is unknown; {nearest(key, hints)}; remove it, or update sepstream")
    for key in hints:
        if key not in tree:
            raise fault(_join(where, key), Words("missing"), "a value")
    return {key: _value(hint, tree[key], _join(where, key)) for key, hint in hints.items()}


def _value(kind: Any, value: Any, where: str) -> Any:
    """A JSON value -> ``kind``: int, float, str, a tuple, a dataclass, None or one of these, or a mapping of plain facts."""
    if isinstance(kind, type) and is_dataclass(kind):
        values = _values(get_type_hints(kind), value, where)
        with _naming(where, "."):
            return kind(**values)
    if get_origin(kind) is tuple:
        return _items(get_args(kind), value, where)
    if get_origin(kind) is Mapping:
        return _facts(_object(value, where), where, 0)
    if isinstance(kind, UnionType):
        (inner,) = (each for each in get_args(kind) if each is not NoneType)
        return None if value is None else _value(inner, value, where)
    return _SCALARS[kind](value, where)


def _items(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    """A JSON list -> a tuple, of any length for tuple[kind, ...]."""
    if not isinstance(value, list):
        raise fault(where, value, "a list")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(value) != len(kinds):
        raise fault(where, value, f"{len(kinds)} items")
    return tuple(_value(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _facts(value: Any, where: str, depth: int) -> Any:
    """Free-form facts for people: strings, finite numbers, yes and no, in lists and objects of bounded depth."""
    if depth > MAX_DEPTH:
        raise fault(where, Words(f"{depth} levels deep"), f"{MAX_DEPTH} at most")
    if isinstance(value, dict):
        return {_text(key, where): _facts(item, _join(where, key), depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_facts(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    if isinstance(value, str):
        return _text(value, where)
    if value is not None and not isinstance(value, bool):
        _real(value, where)
    return value


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise fault(where, value, "an object")
    return value


def _whole(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > 1 << 53:
        raise fault(where, value, "a whole number")
    return value


def _yes_or_no(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise fault(where, value, "true or false")
    return value


def _real(value: Any, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e300:
        raise fault(where, value, "a finite number")
    return float(value)


def _text(value: Any, where: str) -> str:
    """One line that a terminal can show: no control characters, no lone surrogates."""
    if not isinstance(value, str) or len(value) > 4096 or not value.isprintable():
        raise fault(where, value, "one line of printable text, 4096 characters at most")
    return value


_SCALARS = {int: _whole, float: _real, str: _text, bool: _yes_or_no}


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _match(field: str, value: str, pattern: str, expected: str) -> None:
    if not re.fullmatch(pattern, value, re.ASCII):
        raise fault(field, value, expected)


# ---- what the fields say together -----------------------------------------------------------------------------------


def _check_bundle(bundle: Bundle) -> None:
    """Everything in the manifest that one field alone cannot tell."""
    _match("name", bundle.name, r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "1 to 64 of letters, digits, . _ -")
    _match("card_sha256", bundle.card_sha256, r"[0-9a-f]{64}", "64 hex digits")
    for field, low, high in (("sample_rate_hz", 4000, 768000), ("lookahead_hops", 0, 1000), ("opset", 1, 99)):
        if not low <= getattr(bundle, field) <= high:
            raise fault(field, getattr(bundle, field), f"{low} to {high}")
    if bundle.band.bins > bundle.stft.bins:
        raise fault("band.bins", bundle.band.bins, f"{bundle.stft.bins} at most, the bins of the STFT")
    if bundle.masks not in MASKS:
        raise BundleError(f"masks is {bundle.masks!r:.80}; {nearest(bundle.masks, MASKS)}; export the bundle again")
    if bundle.signal not in SIGNALS:
        raise BundleError(f"signal is {bundle.signal!r:.80}; {nearest(bundle.signal, SIGNALS)}; export the bundle again")
    if bundle.gives_spectra and (bundle.disk or bundle.masks != INDEPENDENT):
        raise fault("signal", bundle.signal, f"no disk and masks {INDEPENDENT!r}, for spectra are neither placed nor shared")
    _check_classes(bundle)
    if bundle.disk and len(bundle.disk.vectors) != len(bundle.classes):
        raise fault("disk.vectors", Words(f"{len(bundle.disk.vectors)} rows"), f"{len(bundle.classes)}, one per class")
    if (bundle.kind == OFFLINE) != (bundle.latent is not None):
        raise fault("latent", bundle.latent, "a value for kind offline, and for no other")
    if bundle.latent:
        _check_offline(bundle, bundle.latent)
    else:
        _check_graphs(bundle)


def _check_classes(bundle: Bundle) -> None:
    """One or two levels; parents come first and each has a child, so that the masks of a level lie together."""
    names, parents = bundle.class_names, bundle.parents
    if not 1 <= len(names) <= 64 or len(set(names)) < len(names):
        raise fault("classes", list(names), "1 to 64 names, each once")
    for i, each in enumerate(bundle.classes):
        if each.parent is not None and each.parent not in parents:
            raise fault(f"classes[{i}].parent", each.parent, "a class without a parent", nearest(each.parent, parents))
        if each.parent is None and i >= len(parents):
            raise fault(f"classes[{i}].parent", None, "parents before leaves")
        if each.parent is None and len(parents) < len(names) and each.name in bundle.leaves:
            raise fault(f"classes[{i}].name", each.name, "at least one class with this parent")


def _check_offline(bundle: Bundle, latent: LatentSpec) -> None:
    """What LatentSpec says of the graphs."""
    if bundle.disk or bundle.lookahead_hops or bundle.masks != SHARES or len(bundle.levels) > 1 or len(bundle.classes) != 2:
        has = f"disk {bundle.disk}, lookahead_hops {bundle.lookahead_hops}, masks {bundle.masks}, {len(bundle.classes)} classes"
        raise fault("kind offline", Words(has[:200]), "no disk, no look-ahead, shares, and two classes without parents")
    for name in ("chunk_codes", "fade_codes"):
        if getattr(latent, name) * latent.hop_samples % bundle.stft.hop_samples:
            raise fault(f"latent.{name}", getattr(latent, name), f"whole hops of {bundle.stft.hop_samples} samples")
    if len(bundle.graphs) != 5:
        raise fault("graphs", [spec.file for spec in bundle.graphs], "five: encoder, decoder, tables, a prior for each class")
    _check_files(bundle)
    chunk, hop, encoder, decoder, tables, *priors = latent.chunk_codes, latent.hop_samples, *bundle.graphs
    heard, told = chunk + 2 * latent.margin_codes, chunk + latent.lead_codes
    _check_plain(0, encoder, chunk, [(1, heard * hop)], [(1, chunk)])
    _check_plain(1, decoder, told, [(1, told)], [(1, told * hop)])
    sizes = [tensor.shape[-1] for tensor in tables.outputs[:1]] + [tensor.shape[0] for tensor in tables.outputs[1:]]
    shapes = [(latent.codes, sizes[0]), (sizes[-1], 4)] if sizes else [(latent.codes, 1)]
    _check_plain(2, tables, 1, [], shapes[: 2 if latent.sampling.likelihood == "counts" else 1])
    for i, prior in enumerate(priors, 3):
        caches = [tensor.shape for tensor in prior.inputs[2:]]
        heads, units = (caches[0][1], caches[0][-1]) if caches and len(caches[0]) == 4 else (1, 1)
        cache, newest = (latent.draws, heads, latent.context_codes, units), (latent.draws, heads, units)
        inputs = [(latent.draws,), (latent.context_codes,), *[cache] * max(2, len(caches) // 2 * 2)]
        _check_plain(i, prior, 1, inputs, [(latent.draws, latent.codes), *[newest] * (len(inputs) - 2)])


def _check_plain(
    number: int, spec: GraphSpec, hops: int, inputs: Sequence[tuple[int, ...]], outputs: Sequence[tuple[int, ...]]
) -> None:
    """A graph of an offline bundle has these codes per call and shapes; its states are all inputs and outputs of a cache."""
    with _naming(f"graphs[{number}]", "."):
        _check_file(spec)
        if spec.hops != hops:
            raise fault("hops", spec.hops, str(hops))
        for side, tensors, shapes in (("inputs", spec.inputs, inputs), ("outputs", spec.outputs, outputs)):
            if (found := [tensor.shape for tensor in tensors]) != list(shapes):
                raise fault(f"{side} shapes", found, str(list(shapes)))
        pairs = tuple((old.name, new.name) for old, new in zip(spec.inputs[2:], spec.outputs[1:], strict=False))
        if spec.states != pairs:
            raise fault("states", spec.states, f"{list(pairs)}")


def _check_files(bundle: Bundle) -> None:
    files = [spec.file.casefold() for spec in bundle.graphs]
    if len(set(files)) < len(files):
        raise fault("graphs[].file", files, "each file once")


def _check_graphs(bundle: Bundle) -> None:
    hops = [spec.hops for spec in bundle.graphs]
    if not hops or hops != sorted(set(hops)) or hops[-1] > 4096 or (bundle.kind == "step" and hops[0] != 1):
        first = ", the first 1" if bundle.kind == "step" else ""
        raise fault("graphs[].hops", hops, f"rising numbers up to 4096{first}")
    _check_files(bundle)
    shapes = [tensor.shape for tensor in bundle.graphs[0].states_in]
    for i, spec in enumerate(bundle.graphs):
        with _naming(f"graphs[{i}]", "."):
            _check_graph(spec, bundle)
            if (mine := [tensor.shape for tensor in spec.states_in]) != shapes:
                raise fault("states shapes", mine, f"{shapes} as in graphs[0]")
    if bundle.kind == "window" and not _is_context(shapes, bundle):
        frame = ", ".join(map(str, _frame(bundle)[0]))
        expected = f"one, ({bundle.lookahead_hops} or more frames, {frame}): the context of a window"
        raise fault("graphs[0].states shapes", shapes, expected)


def _is_context(shapes: Sequence[tuple[int, ...]], bundle: Bundle) -> bool:
    """Frames that are heard again: at least those whose masks are yet to come."""
    shape = shapes[0] if len(shapes) == 1 else ()
    return len(shape) > 1 and shape[0] >= bundle.lookahead_hops and shape[1:] == _frame(bundle)[0]


def _frame(bundle: Bundle) -> tuple[tuple[int, ...], str]:
    """The shape of one frame of the signal, and what its sizes mean."""
    bins = bundle.band.bins
    return ((bundle.graph_channels, bins, 2), "channels, band bins, 2") if bundle.gives_spectra else ((bins,), "band bins")


def _check_file(spec: GraphSpec) -> None:
    """Its file, and that its names are different."""
    _match("file", spec.file, r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}\.onnx", "a plain file name that ends in .onnx")
    _match("sha256", spec.sha256, r"[0-9a-f]{64}", "64 hex digits")
    names = [tensor.name for tensor in (*spec.inputs, *spec.outputs)]
    if len(set(names)) < len(names):
        raise fault("inputs, outputs", names, "each name once")


def _check_graph(spec: GraphSpec, bundle: Bundle) -> None:
    _check_file(spec)
    found = 2 if bundle.disk else 1  # outputs that are no states
    lead = 2 if bundle.conditioned else 1  # inputs that are no states
    states_in, states_out = spec.inputs[lead:], spec.outputs[found:]
    pairs = tuple((before.name, after.name) for before, after in zip(states_in, states_out, strict=False))
    if spec.states != pairs or len(spec.inputs) != lead + len(pairs) or len(spec.outputs) != found + len(pairs):
        inputs = f"the {bundle.signal} and the condition" if bundle.conditioned else f"the {bundle.signal}"
        outputs = "masks and embedding" if bundle.disk else SPECTRA if bundle.gives_spectra else "masks"
        raise fault("states", spec.states, f"in order, pairs of all inputs after {inputs} and all outputs after {outputs}")
    bins, classes, dim = bundle.band.bins, len(bundle.classes), bundle.embedding_dim
    if bundle.gives_spectra and (len(shape := spec.inputs[0].shape) != 4 or not 1 <= shape[1] <= MAX_CHANNELS):
        expected = f"hops, 1 to {MAX_CHANNELS} channels, band bins, 2"
        raise fault(f"inputs[0].shape of {spec.inputs[0].name!r}", list(shape), expected)
    frame, meaning = _frame(bundle)
    _check_shape("inputs[0]", spec.inputs[0], (spec.hops, *frame), f"hops, {meaning}")
    _check_shape("outputs[0]", spec.outputs[0], (spec.hops, classes, *frame), f"hops, classes, {meaning}")
    if bundle.conditioned:
        _check_shape("inputs[1]", spec.inputs[1], (classes, classes), "classes, classes")
    if bundle.disk:
        _check_shape("outputs[1]", spec.outputs[1], (spec.hops, dim, bins), "hops, dim, band bins")
    for i, (before, after) in enumerate(zip(states_in, states_out, strict=True)):
        _check_shape(f"outputs[{found + i}]", after, before.shape, f"as {before.name!r}")


def _check_shape(field: str, tensor: TensorSpec, shape: tuple[int, ...], meaning: str) -> None:
    if tensor.shape != shape:
        raise fault(f"{field}.shape of {tensor.name!r}", list(tensor.shape), f"{list(shape)} ({meaning})")


def _check_onnx(data: bytes, spec: GraphSpec, opset: int) -> None:
    """The file's own inputs, outputs and opset are those of the manifest, and nothing in it is foreign."""
    model = read_model(data)
    if model.opset != opset:
        raise fault("opset_import.version", model.opset, f"{opset}, the opset of {MANIFEST}")
    _check_ports("graph.input", model.inputs, spec.inputs)
    _check_ports("graph.output", model.outputs, spec.outputs)


def _check_ports(side: str, ports: Sequence[Port], tensors: Sequence[TensorSpec]) -> None:
    if len(ports) != len(tensors):
        raise fault(side, [port.name for port in ports], f"the names {[tensor.name for tensor in tensors]} of {MANIFEST}")
    for i, (port, tensor) in enumerate(zip(ports, tensors, strict=True)):
        for field in ("name", "dtype", "shape"):
            if (found := getattr(port, field)) != (promised := getattr(tensor, field)):
                raise fault(f"{side}[{i}].{field}", found, f"{promised!r}, the one of {MANIFEST}")


# ---- writing --------------------------------------------------------------------------------------------------------


def write_bundle(
    manifest: Bundle, graphs: Mapping[str, bytes], card: str, folder: str | Path, *, overwrite: bool = False
) -> Bundle:
    """Write a bundle, all of it or nothing, and return it as ``read_bundle`` gives it back.

    ``graphs`` are the ONNX files by name; the hashes and the folder in ``manifest`` are filled in here. The bundle is
    written beside its place, read back with every check, and moved in by a rename. An existing bundle stays as it is
    unless ``overwrite``, and until the new one is whole. Raises BundleError, and OSError where the disk does.
    """
    folder = Path(folder).absolute()
    if folder.exists() and not (overwrite and (folder / MANIFEST).is_file()):
        raise fault("folder", str(folder), "a new folder, or an existing bundle and overwrite", "choose another name")
    files = {CARD: card.encode("utf8"), **graphs}
    sealed = _sealed(manifest, files)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        fresh = Path(scratch) / folder.name
        fresh.mkdir()
        for name, data in {**files, MANIFEST: _manifest_bytes(sealed)}.items():
            (fresh / name).write_bytes(data)
        try:
            bundle = read_bundle(fresh)
        except BundleError as error:
            raise BundleError(str(error).replace(str(fresh), str(folder))) from None
        _swap(fresh, folder, Path(scratch) / "old")
    return replace(bundle, folder=folder)


def _sealed(manifest: Bundle, files: Mapping[str, bytes]) -> Bundle:
    """The manifest with the hashes of ``files`` in it, and checked before anything touches the disk."""
    promised = {CARD, *(spec.file for spec in manifest.graphs)}
    if promised != files.keys():
        raise fault("graphs", sorted(files.keys() - {CARD}), f"the files of the manifest, {sorted(promised - {CARD})}")
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    specs = tuple(replace(spec, sha256=digests[spec.file]) for spec in manifest.graphs)
    sealed = replace(manifest, graphs=specs, card_sha256=digests[CARD])
    _check_bundle(sealed)
    return sealed


def manifest_tree(bundle: Bundle) -> dict[str, Any]:
    """The content of bundle.json, as plain dicts and lists."""
    tree = {"format": FORMAT, "latency_samples": bundle.latency_samples, **asdict(bundle)}
    del tree["folder"]
    if bundle.latent is None:
        del tree["latent"]
    return tree


def _manifest_bytes(bundle: Bundle) -> bytes:
    try:
        return (json.dumps(manifest_tree(bundle), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf8")
    except (TypeError, ValueError) as error:
        raise BundleError(f"{MANIFEST} cannot hold these values ({error}); use text, finite numbers, lists and dicts") from None


def _swap(fresh: Path, folder: Path, old: Path) -> None:
    """Put ``fresh`` in the place of ``folder``; should that fail, what was there comes back."""
    try:
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
