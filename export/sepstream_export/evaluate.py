"""Scores of what is heard: fixed mixtures through the streaming ONNX path, beside the mixture and the oracle.

Needs no torch: a bundle can be scored wherever it can be run.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sepstream.contract import Bundle
from sepstream.errors import BundleError
from sepstream.render import pipelines
from sepstream.selection import Selection
from sepstream.spectral import Stft
from sepstream_training.data.entries import Wanted
from sepstream_training.data.layouts import has_split, layout_of, read_library
from sepstream_training.data.library import Library, generate_library
from sepstream_training.data.mixing import MixSpec, draw_mixture, hear
from sepstream_training.metrics import is_silent, reference_means, si_sdr

F32 = NDArray[np.float32]

SYNTHETIC = "synthetic"  # in the place of a data set's folder: the generator's sounds, which need no data
ROUNDING = 1e-3  # of 16-bit files that add up
FAMILY = ("speech", "music")  # what folders of flat classes may be called after
SYNTHETIC_CLIPS, SYNTHETIC_SECONDS = 4, 20.0  # of each class
LONGEST_S = 60.0  # of a track; of a longer one its middle is heard
ISOLATED = ("folders", "manifest")  # layouts of sounds that the mixtures place, so they are read as mono

# SI-SDR counts within these bounds, for model, mixture and oracle alike. Silence in the place of a source is -inf: it
# scores the floor, and as the mixture never scores less, silence is never an improvement.
FLOOR_DB, CEILING_DB = -30.0, 100.0
LEAK_FLOOR_DB = -100.0  # an output this far below the mixture is silence

PLAIN = MixSpec(
    seconds=10.0, activity=0.8, partly=0.2, second_voice=0.0, level_db=3.0, family_db=2.0,
    mix_low_db=-24.0, mix_high_db=-16.0, speech_speed=0.0, music_speed=0.0, filtered=0.0, stereo=0.5,
)  # fmt: skip


class Separates(Protocol):
    """As much of a Pipeline as is scored; its buses are the classes, in order."""

    @property
    def latency_samples(self) -> int: ...

    def reset(self) -> None: ...

    def process(self, audio: F32) -> F32: ...


class SiSdr(NamedTuple):
    """dB of the model's output, of the unprocessed mixture and of the oracle."""

    heard: float
    mixture: float
    oracle: float


@dataclass(frozen=True)
class Score:
    """One class of one mixture, all channels as one signal. A class that is silent, or all there is, has no SI-SDR;
    of a silent one ``leak_db`` counts, the level of its output against the mixture."""

    name: str
    absent: bool
    si_sdr: SiSdr | None
    leak_db: float


def mixtures(root: Path | str, bundle: Bundle, count: int, seed: int = 2026) -> Iterator[F32]:
    """(leaves, 2, samples) stems of ``count`` unseen mixtures at the bundle's rate: the data set's own tracks as they stand
    (at most as many as there are), or, where it has none, drawn ones: mono and stereo in turn, no augmentation; mixture n
    depends on ``seed``, n and the order of the classes. What a track's own mixture holds beside its leaves is one more stem.

    ``root`` is a data set of any layout, heard in its split for testing or, if it has none, for validation. A class goes by
    CLASS or PARENT_CLASS there. Raises DataError where it is not there.
    """
    library, families = _library(root, bundle), _families(bundle)
    for track in library.tracks[:count]:
        length = min(track.length, round(LONGEST_S * bundle.sample_rate_hz))
        heard = hear(track, families, (track.length - length) // 2, length)
        rest = heard.mix - heard.leaves.sum(axis=0)
        yield heard.leaves if np.abs(rest).max() <= ROUNDING else np.concatenate([heard.leaves, rest[None]])
    for index in range(0 if library.tracks else count):
        rng = np.random.default_rng([seed, index])
        yield draw_mixture(library, families, replace(PLAIN, stereo=float(index % 2)), bundle.sample_rate_hz, rng)


def what_is_heard(root: Path | str, bundle: Bundle, count: int) -> str:
    """The mixtures of ``mixtures`` in words."""
    if str(root) != SYNTHETIC and layout_of(_unseen(root, bundle)) not in ISOLATED:
        return f"The data set's own tracks as they stand, at most {count}, of at most {LONGEST_S:g} s"
    origin = "generated" if str(root) == SYNTHETIC else "unseen"
    return f"{count} mixtures of {PLAIN.seconds:g} s, half mono, half stereo, of {origin} sounds"


def evaluate(bundle: Bundle, scenes: Iterable[F32]) -> dict[str, Any]:
    """Means per class, per level and over all classes present; every figure in dB, None where nothing counted."""
    scores = [one for each in _scores(bundle, scenes, bounded=True) for one in each]
    groups: dict[str, tuple[str, ...]] = {name: (name,) for name in bundle.class_names}
    groups |= {"parents": bundle.parents, "leaves": bundle.leaves, "all": bundle.class_names}
    return {label: _means([s for s in scores if s.name in names]) for label, names in groups.items()}


def evaluate_as_reference(bundle: Bundle, scenes: Iterable[F32]) -> dict[str, Any]:
    """The same mixtures, by the rules of the reference system: see ``metrics.reference_means``."""
    files = [{one.name: _pair(one) for one in each} for each in _scores(bundle, scenes, bounded=False)]
    means = reference_means(files)
    return {name: None if value is None else round(value, 2) for name, value in means.items()} | {"files": len(files)}


def _scores(bundle: Bundle, scenes: Iterable[F32], bounded: bool) -> Iterator[list[Score]]:
    pipeline = pipelines(bundle, Selection.stems(bundle, "all"), "cpu")(2)
    stft = Stft(bundle.stft)
    return (score(bundle, stems, pipeline, stft, bounded) for stems in scenes)


def _pair(one: Score) -> tuple[float, float]:
    return (one.si_sdr.heard, one.si_sdr.mixture) if one.si_sdr else (math.nan, math.nan)


def score(bundle: Bundle, stems: F32, pipeline: Separates, stft: Stft, bounded: bool = True) -> list[Score]:
    """Every class of one mixture of ``stems`` (leaves, channels, samples); ``bounded`` keeps SI-SDR between FLOOR_DB and
    CEILING_DB. Raises BundleError for an output with NaN or Inf."""
    targets = _with_parents(stems, bundle)
    mix = stems.sum(axis=0)
    pipeline.reset()
    late = pipeline.latency_samples
    heard = pipeline.process(np.pad(mix, ((0, 0), (0, late))))[:, :, late:]
    if not np.isfinite(heard).all():
        raise BundleError(f"{bundle.folder}: the output holds NaN or Inf, expected sound; train or export the model again")
    oracle = _oracle(targets, stems[len(bundle.leaves) :], mix, bundle, stft)
    found = [_score(name, heard[i], targets[i], oracle[i], mix) for i, name in enumerate(bundle.class_names)]
    return [_bounded(one) for one in found] if bounded else found


def table(result: Mapping[str, Any]) -> str:
    """The result of ``evaluate`` as Markdown, for cards."""
    head = "| class | SI-SDR | improvement | mixture | oracle mask | level when absent | n |\n|---|---|---|---|---|---|---|\n"

    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    return head + "\n".join(
        f"| {label} | {cell(r['si_sdr_db'])} | {cell(r['improvement_db'])} | {cell(r['mixture_db'])} | {cell(r['oracle_db'])} "
        f"| {cell(r['absent_level_db'])} | {r['present']} |"
        for label, r in result.items()
    )


def reference_table(result: Mapping[str, Any]) -> str:
    """The result of ``evaluate_as_reference`` as Markdown."""

    def cell(name: str) -> str:
        return "-" if result.get(name) is None else f"{result[name]:.1f}"

    sources = [name.removeprefix("est_") for name in result if name.startswith("est_")]
    rows = [f"| {name} | {cell(f'est_{name}')} | {cell(f'noisy_{name}')} |" for name in sources]
    return "\n".join(["| source | SI-SDR | mixture |", "|---|---|---|", *rows, f"| global_avg | {cell('global_avg')} | |"])


def _library(root: Path | str, bundle: Bundle) -> Library:
    if str(root) == SYNTHETIC:
        rate_hz = bundle.sample_rate_hz
        return generate_library(
            [*bundle.leaves, *_others(bundle)], "valid", rate_hz, count=SYNTHETIC_CLIPS, seconds=SYNTHETIC_SECONDS
        )
    wanted = _unseen(root, bundle)
    return read_library(wanted, bundle.sample_rate_hz, channels=1 if layout_of(wanted) in ISOLATED else 2)


def _unseen(root: Path | str, bundle: Bundle) -> Wanted:
    """The split for testing, or the one for validation."""
    names: dict[str, tuple[str, ...]] = {leaf: _names(bundle, leaf) for leaf in bundle.leaves}
    names |= {other: (other,) for other in _others(bundle)}
    splits = [Wanted(Path(root), split, names, _families(bundle)) for split in ("test", "valid")]
    return next(filter(has_split, splits), splits[-1])


def _names(bundle: Bundle, leaf: str) -> tuple[str, ...]:
    """What a class may go by in a folder: its own name, and after its parent's; of a flat class, after any of FAMILY."""
    parent = _parent(bundle, leaf)
    return (leaf, *(f"{each}_{leaf}" for each in ([parent] if parent else FAMILY)))


def _families(bundle: Bundle) -> dict[str, list[str]]:
    """What the mixtures are made of: the classes, and what the network was trained to leave out."""
    return {parent: _members(bundle, parent) for parent in bundle.parents} | {other: [other] for other in _others(bundle)}


def _others(bundle: Bundle) -> list[str]:
    return [str(other) for other in bundle.training.get("others", ())]


def _parent(bundle: Bundle, leaf: str) -> str | None:
    return next(c.parent for c in bundle.classes if c.name == leaf)


def _members(bundle: Bundle, parent: str) -> list[str]:
    """The leaves of a parent; a flat tree's class is its own."""
    return [c.name for c in bundle.classes if c.parent == parent] or [parent]


def _with_parents(stems: F32, bundle: Bundle) -> F32:
    """(leaves, channels, samples) -> (classes, channels, samples)."""
    stem = dict(zip([*bundle.leaves, *_others(bundle)], stems, strict=True))
    rows = [[name] if name in stem else _members(bundle, name) for name in bundle.class_names]
    return np.stack([np.sum([stem[leaf] for leaf in row], axis=0) for row in rows])


def _oracle(targets: F32, others: F32, mix: F32, bundle: Bundle, stft: Stft) -> F32:
    """Ideal ratio masks of each level, and of what has no class, through the same STFT: about the best that masks of this
    geometry can do."""
    spec = bundle.stft
    late = spec.latency_samples - spec.hop_samples
    whole_hops = -(-(mix.shape[1] + late) // spec.hop_samples) * spec.hop_samples

    def spectra(signal: F32) -> Any:
        padded = np.pad(signal, ((0, 0), (0, whole_hops - signal.shape[1])))
        return stft.analyze(padded, stft.analysis_state(len(signal)))[0]

    size, rest = (
        [np.sqrt(np.square(np.abs(spectra(sound))).sum(axis=1, keepdims=True)) for sound in sounds]
        for sounds in (targets, others)
    )
    whole, out = spectra(mix), []
    for level in bundle.levels:
        total = np.maximum(sum([*size[level], *rest]), 1e-12)
        for each in size[level]:
            masked = (whole * (each / total)).astype(np.complex64)
            out.append(stft.synthesize(masked, stft.synthesis_state(len(mix)))[0][:, late : late + mix.shape[1]])
    return np.stack(out)


def _score(name: str, heard: F32, target: F32, oracle: F32, mix: F32) -> Score:
    absent = is_silent(target)
    counts = not absent and not is_silent(mix - target)
    values = SiSdr(*(si_sdr(each, target) for each in (heard, mix, oracle))) if counts else None
    power, of_mix = (max(float(np.square(each, dtype=np.float64).mean()), 1e-30) for each in (heard, mix))
    return Score(name, absent, values, max(LEAK_FLOOR_DB, 10 * math.log10(power / of_mix)))


def _bounded(one: Score) -> Score:
    return replace(one, si_sdr=SiSdr(*(min(max(db, FLOOR_DB), CEILING_DB) for db in one.si_sdr))) if one.si_sdr else one


def _means(scores: Sequence[Score]) -> dict[str, Any]:
    present = [s.si_sdr for s in scores if s.si_sdr]
    return {
        "si_sdr_db": _mean([each.heard for each in present]),
        "improvement_db": _mean([each.heard - each.mixture for each in present]),
        "mixture_db": _mean([each.mixture for each in present]),
        "oracle_db": _mean([each.oracle for each in present]),
        "absent_level_db": _mean([s.leak_db for s in scores if s.absent]),
        "present": len(present),
        "absent": sum(s.absent for s in scores),
    }


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 2) if values else None
