"""The asymmetric STFT: windows, laws, perfect reconstruction, latency, against a float64 transform written here."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import streaming_contract as contract
from sepstream.contract import GEOMETRIES, StftSpec
from sepstream.errors import BundleError
from sepstream.spectral import Stft

SPECS = [*GEOMETRIES.values(), StftSpec(64, 24, 16), StftSpec(32, 32, 16), StftSpec(64, 16, 16)]


def noise(spec: StftSpec, channels: int = 2, hops: int = 24) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.standard_normal((channels, hops * spec.hop_samples)).astype(np.float32)


def reference_spectra(signal: np.ndarray, spec: StftSpec) -> np.ndarray:
    """(hops, channels, bins) by the definition, one frame at a time, in float64."""
    n, r = spec.analysis_samples, spec.hop_samples
    padded = np.concatenate([np.zeros((len(signal), n - r)), signal.astype(np.float64)], axis=1)
    window = spec.windows().analysis
    return np.stack([np.fft.rfft(padded[:, at : at + n] * window) for at in range(0, signal.shape[1], r)])


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_window_products_add_up_to_one(spec: StftSpec) -> None:
    windows = spec.windows()
    product = windows.analysis[-spec.synthesis_samples :] * windows.synthesis
    total = np.zeros(8 * spec.hop_samples + spec.synthesis_samples)
    for at in range(0, 8 * spec.hop_samples, spec.hop_samples):
        total[at : at + spec.synthesis_samples] += product
    np.testing.assert_allclose(total[spec.synthesis_samples : -spec.synthesis_samples], 1.0, atol=1e-14)
    assert windows.synthesis.max() < 1.1  # well conditioned: no noise is blown up


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_analysis_is_the_definition(spec: StftSpec) -> None:
    stft, signal = Stft(spec), noise(spec)
    got, _ = stft.analyze(signal, stft.analysis_state(2))
    wanted = reference_spectra(signal, spec)
    # float32 rounding of a sum of n products: sqrt(n) * eps, with room for the FFT's log2(n) stages
    assert np.abs(got - wanted).max() < 8 * np.sqrt(spec.analysis_samples) * np.finfo(np.float32).eps


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_analysis_and_synthesis_obey_the_laws_of_a_stream(spec: StftSpec) -> None:
    stft, signal = Stft(spec), noise(spec, hops=40)
    analysis = contract.Stage(
        lambda: stft.analysis_state(2),
        lambda block, state: _move_hops_last(*stft.analyze(block, state)),
        grain=spec.hop_samples,
        empty=False,
        lanes=True,
    )
    contract.verify(analysis, signal)
    spectra = np.moveaxis(stft.analyze(signal, stft.analysis_state(2))[0], 0, -1)
    synthesis = contract.Stage(
        lambda: stft.synthesis_state(2),
        lambda block, state: stft.synthesize(np.ascontiguousarray(np.moveaxis(block, -1, 0)), state),
        empty=False,
        lanes=True,
    )
    contract.verify(synthesis, spectra)


def _move_hops_last(spectra: np.ndarray, state: object) -> tuple[np.ndarray, object]:
    return np.moveaxis(spectra, 0, -1), state


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_there_and_back_is_the_input_delayed(spec: StftSpec) -> None:
    stft, signal = Stft(spec), noise(spec)
    spectra, _ = stft.analyze(signal, stft.analysis_state(2))
    back, _ = stft.synthesize(spectra, stft.synthesis_state(2))
    delay = spec.synthesis_samples - spec.hop_samples
    np.testing.assert_allclose(back[:, delay:], signal[:, : signal.shape[1] - delay], atol=8e-6)


@given(st.integers(0, 255))
def test_an_impulse_comes_out_after_the_declared_latency_at_every_phase(phase: int) -> None:
    spec = GEOMETRIES["live"]
    stft = Stft(spec)
    signal = np.zeros((1, 4 * spec.hop_samples), np.float32)
    signal[0, spec.hop_samples + phase] = 1.0
    spectra, _ = stft.analyze(signal, stft.analysis_state(1))
    back, _ = stft.synthesize(spectra, stft.synthesis_state(1))
    delay = spec.latency_samples - spec.hop_samples  # the hop itself was collected before the call
    assert int(np.abs(back[0]).argmax()) == spec.hop_samples + phase + delay
    assert abs(back[0].max() - 1) < 1e-5
    assert np.abs(np.delete(back[0], spec.hop_samples + phase + delay)).max() < 1e-5


@given(st.integers(-4, 70), st.integers(-4, 70), st.integers(-4, 40))
def test_a_geometry_is_refused_or_reconstructs(analysis: int, synthesis: int, hop: int) -> None:
    try:
        spec = StftSpec(analysis, synthesis, hop)
    except BundleError as error:
        assert str(analysis) in str(error) and "\n" not in str(error)
        return
    signal = noise(spec, 1, 12)
    stft = Stft(spec)
    spectra, _ = stft.analyze(signal, stft.analysis_state(1))
    back, _ = stft.synthesize(spectra, stft.synthesis_state(1))
    delay = spec.synthesis_samples - spec.hop_samples
    scale = spec.windows().synthesis.max()
    np.testing.assert_allclose(back[:, delay:], signal[:, : signal.shape[1] - delay], atol=2e-5 * max(1.0, scale))


@pytest.mark.parametrize("spec", GEOMETRIES.values(), ids=str)
def test_a_full_scale_sine_reads_one_half(spec: StftSpec) -> None:
    bin_ = 40
    t = np.arange(spec.analysis_samples)
    frame = np.sin(2 * np.pi * bin_ * t / spec.analysis_samples + 0.3) * spec.windows().analysis
    assert abs(np.abs(np.fft.rfft(frame))[bin_] * spec.magnitude_scale - 0.5) < 1e-3
