"""Scores of what is heard: fixed mixtures through the streaming ONNX path, beside the mixture and the oracle."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepstream.contract import Bundle
from sepstream.pipeline import Pipeline
from sepstream.selection import Selection
from sepstream.spectral import Stft
from sepstream_training.data.library import load_library
from sepstream_training.data.mixing import MixSpec, draw_mixture
from sepstream_training.metrics import si_sdr

F32 = NDArray[np.float32]

PLAIN = MixSpec(
    seconds=10.0, activity=0.8, partly=0.2, second_voice=0.0, level_db=3.0, family_db=2.0,
    mix_low_db=-24.0, mix_high_db=-16.0, speech_speed=0.0, music_speed=0.0, filtered=0.0, stereo=0.5,
)  # fmt: skip


@dataclass(frozen=True)
class Score:
    """One class of one mixture, all channels as one signal; dB. A class that is silent, or all there is, has no
    SI-SDR (NaN); of a silent one ``leak_db`` counts."""

    name: str
    absent: bool
    si_sdr_db: float
    mixture_db: float
    oracle_db: float
    leak_db: float  # level of the output against the mixture


def mixtures(root: Path, bundle: Bundle, count: int, seed: int = 2026) -> Iterable[F32]:
    """(leaves, channels, samples) stems of ``count`` unseen mixtures at the bundle's rate: mono and stereo, no augmentation.

    A class is looked for in ``root/valid/CLASS`` or ``root/valid/PARENT_CLASS``.
    """
    families = {p: [c.name for c in bundle.classes if c.parent == p] for p in bundle.parents}
    library = load_library(root, "valid", {leaf: _folder(root, bundle, leaf) for leaf in bundle.leaves}, bundle.sample_rate_hz)
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        yield draw_mixture(library, families, replace(PLAIN, stereo=float(index % 2)), bundle.sample_rate_hz, rng)


def score(bundle: Bundle, stems: F32, pipeline: Pipeline, stft: Stft) -> list[Score]:
    """Every class of one mixture of ``stems`` (leaves, channels, samples)."""
    targets = _with_parents(stems, bundle)
    mix = stems.sum(axis=0)
    pipeline.reset()
    late = pipeline.latency_samples
    heard = pipeline.process(np.pad(mix, ((0, 0), (0, late))))[:, :, late:]
    oracle = _oracle(targets, mix, bundle, stft)
    return [
        _score(name, heard[i], targets[i], oracle[i], mix) for i, name in enumerate(bundle.class_names)
    ]


def evaluate(bundle: Bundle, mixtures: Iterable[F32]) -> dict[str, Any]:
    """Means per class, per level and over all classes present; every figure in dB."""
    pipeline = Pipeline(bundle, Selection.stems(bundle, "all"), 2, provider="cpu", hops=bundle.graphs[-1].hops)
    stft = Stft(bundle.stft)
    scores = [one for stems in mixtures for one in score(bundle, stems, pipeline, stft)]
    groups = {name: [name] for name in bundle.class_names}
    groups |= {"parents": list(bundle.parents), "leaves": list(bundle.leaves), "all": list(bundle.class_names)}
    return {label: _mean([s for s in scores if s.name in names]) for label, names in groups.items()}


def table(result: Mapping[str, Any]) -> str:
    """The result as Markdown, for cards."""
    head = "| class | SI-SDR | improvement | mixture | oracle mask | level when absent | n |\n|---|---|---|---|---|---|---|\n"

    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    return head + "\n".join(
        f"| {label} | {cell(r['si_sdr_db'])} | {cell(r['improvement_db'])} | {cell(r['mixture_db'])} | {cell(r['oracle_db'])} "
        f"| {cell(r['absent_level_db'])} | {r['present']} |"
        for label, r in result.items()
    )


def _with_parents(stems: F32, bundle: Bundle) -> F32:
    rows = [
        sum(stem for leaf, stem in zip(bundle.leaves, stems, strict=True) if name == leaf or _parent(bundle, leaf) == name)
        for name in bundle.class_names
    ]
    return np.stack(rows)


def _folder(root: Path, bundle: Bundle, leaf: str) -> str:
    longer = f"{_parent(bundle, leaf)}_{leaf}"
    return longer if (root / "valid" / longer).is_dir() else leaf


def _parent(bundle: Bundle, leaf: str) -> str | None:
    return next(c.parent for c in bundle.classes if c.name == leaf)


def _oracle(targets: F32, mix: F32, bundle: Bundle, stft: Stft) -> F32:
    """Ideal ratio masks of each level through the same STFT: the best that masks of this geometry can do."""
    spec = bundle.stft
    late = spec.latency_samples - spec.hop_samples
    usable = (mix.shape[1] + late + spec.hop_samples - 1) // spec.hop_samples * spec.hop_samples

    def spectra(signal: F32) -> Any:
        padded = np.pad(signal, ((0, 0), (0, usable - signal.shape[1])))
        return stft.analyze(padded, stft.analysis_state(len(signal)))[0]

    power = [np.square(np.abs(spectra(t))).sum(axis=1, keepdims=True) for t in targets]
    whole, out = spectra(mix), []
    for i, name in enumerate(bundle.class_names):
        level = bundle.leaves if name in bundle.leaves else bundle.parents
        total = sum(np.sqrt(power[bundle.class_names.index(other)]) for other in level)
        masked = (whole * (np.sqrt(power[i]) / np.maximum(total, 1e-12))).astype(np.complex64)
        out.append(stft.synthesize(masked, stft.synthesis_state(len(mix)))[0][:, late : late + mix.shape[1]])
    return np.stack(out)


def _score(name: str, heard: F32, target: F32, oracle: F32, mix: F32) -> Score:
    absent, alone = not target.any(), np.allclose(target, mix, atol=1e-6)
    values = [np.nan] * 3 if absent or alone else [si_sdr(estimate, target) for estimate in (heard, mix, oracle)]
    leak = 10 * np.log10(max(np.square(heard).mean(), 1e-20) / max(np.square(mix).mean(), 1e-20))
    return Score(name, absent, *values, float(leak))


def _mean(scores: list[Score]) -> dict[str, Any]:
    present = [s for s in scores if np.isfinite(s.si_sdr_db) and np.isfinite(s.mixture_db)]

    def mean(values: list[float]) -> float | None:
        return round(float(np.mean(values)), 2) if values else None

    return {
        "si_sdr_db": mean([s.si_sdr_db for s in present]),
        "improvement_db": mean([s.si_sdr_db - s.mixture_db for s in present]),
        "mixture_db": mean([s.mixture_db for s in present]),
        "oracle_db": mean([s.oracle_db for s in present]),
        "absent_level_db": mean([s.leak_db for s in scores if s.absent]),
        "present": len(present),
        "absent": sum(s.absent for s in scores),
    }
