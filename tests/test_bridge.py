"""The streaming resampler: laws of a stream, its definition in float64, tones at a true delay, and the way there and back."""

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streaming_contract as contract
from sepstream import kernels
from sepstream.bridge import Bridge
from sepstream.errors import DeviceError

DEVICES = [8000, 11025, 16000, 22050, 44100, 88200, 96000, 192000]
PAIRS = [pair for hz in DEVICES for pair in ((hz, 48000), (48000, hz))]
ODD = [(48000, 48000), (44100, 44100), (7, 5), (5, 7), (1, 8), (9, 2), (768000, 8000), (8000, 768000)]
BAND = 0.907  # of the lower Nyquist frequency: what is kept flat and clean
WHOLES = ["source", "target"]


def noise(channels: int, samples: int) -> np.ndarray:
    return np.random.default_rng(4).standard_normal((channels, samples)).astype(np.float32)


def whole_signal(bridge: Bridge, signal: np.ndarray) -> np.ndarray:
    return bridge.step(signal, bridge.initial_state(len(signal)))[0]


def decibels(x: np.ndarray) -> float:
    return 20 * np.log10(np.abs(x).max() + 1e-30)


def definition(bridge: Bridge, signal: np.ndarray, source_hz: int, target_hz: int) -> np.ndarray:
    """One target sample at a time, from the formula, in float64, over the whole signal."""
    step, delay = source_hz / target_hz, float(bridge.delay_source_samples)
    reach, cutoff = 32 * max(1.0, step), min(1.0, target_hz / source_hz)
    out = np.zeros((len(signal), ceil(Fraction(signal.shape[1] * target_hz, source_hz))))
    for k in range(out.shape[1]):
        x = k * step - delay - np.arange(signal.shape[1])
        near = np.abs(x) < reach - 1e-9
        window = np.i0(0.1102 * (93.0 - 8.7) * np.sqrt(1 - (x[near] / reach) ** 2)) / np.i0(0.1102 * (93.0 - 8.7))
        out[:, k] = signal[:, near].astype(np.float64) @ (cutoff * np.sinc(cutoff * x[near]) * window)
    return out


@pytest.mark.parametrize("whole", WHOLES)
@pytest.mark.parametrize("pair", PAIRS + ODD, ids=str)
def test_a_bridge_obeys_the_laws_of_a_stream(pair: tuple[int, int], whole: str) -> None:
    bridge = Bridge(*pair, whole=whole)
    stage = contract.Stage(lambda: bridge.initial_state(2), bridge.step, lanes=True)
    contract.verify(stage, noise(2, 1100))


@pytest.mark.parametrize("whole", WHOLES)
@pytest.mark.parametrize("pair", [p for p in PAIRS + ODD if p[0] != p[1] and max(p) < 768000], ids=str)
def test_a_bridge_is_its_definition(pair: tuple[int, int], whole: str) -> None:
    bridge, signal = Bridge(*pair, whole=whole), noise(2, 500)
    got, wanted = whole_signal(bridge, signal), definition(bridge, signal, *pair)
    assert got.shape == wanted.shape
    # weights and products are rounded to 24 bits; squares of the weights add up to one at most
    assert np.abs(got - wanted).max() < 8 * np.finfo(np.float32).eps * np.abs(signal).max()


@pytest.mark.parametrize("hz", [44100, 48000])
def test_at_one_rate_samples_pass_as_they_are(hz: int) -> None:
    bridge, signal = Bridge(hz, hz, whole="target", behind=300), noise(3, 500)
    assert bridge.delay_source_samples == bridge.delay_target_samples == 0
    signal[1, 7] = np.inf
    given_ = signal.copy()
    passed = whole_signal(bridge, signal)
    np.testing.assert_array_equal(passed, signal)
    passed[:] = 0.0  # and they are not the caller's own
    np.testing.assert_array_equal(signal, given_)


RATES = st.sampled_from(PAIRS + ODD) | st.tuples(st.sampled_from(DEVICES), st.sampled_from(DEVICES))


@given(RATES, st.lists(st.integers(0, 70), max_size=8), st.integers(-2, 300))
@settings(deadline=None)
def test_what_comes_out_is_counted_beforehand(pair: tuple[int, int], blocks: list[int], wanted: int) -> None:
    bridge = Bridge(*pair)
    state, total = bridge.initial_state(1), 0
    for block in blocks:
        out, state = bridge.step(noise(1, block), state)
        total += out.shape[1]
    assert total == bridge.produced(sum(blocks)) == ceil(Fraction(sum(blocks) * pair[1], pair[0]))
    n = bridge.needed(state, wanted)
    assert n >= 0 and bridge.step(noise(1, n), state)[0].shape[1] >= wanted
    assert n == 0 or bridge.step(noise(1, n - 1), state)[0].shape[1] < wanted


@given(RATES, st.integers(0, 5000))
@settings(deadline=None)
def test_a_delay_is_whole_where_it_is_asked_to_be_and_no_longer_than_it_must(pair: tuple[int, int], behind: int) -> None:
    ratio = Fraction(pair[1], pair[0])
    least = 0 if ratio == 1 else 32 * max(1 / ratio, Fraction(1))
    for whole, unit in (("source", Fraction(1)), ("target", ratio)):
        bridge = Bridge(*pair, whole=whole, behind=behind)
        assert bridge.delay_target_samples == bridge.delay_source_samples * ratio
        assert ((bridge.delay_source_samples + behind) * unit).denominator == 1
        assert least <= bridge.delay_source_samples < least + 1 / unit


def tone(hz: float, rate_hz: int, start: float, samples: int) -> np.ndarray:
    """(2, samples): cosine and sine, in float64, from ``start`` samples on."""
    angle = 2 * np.pi * hz / rate_hz * (start + np.arange(samples))
    return np.stack([np.cos(angle), np.sin(angle)])


def settled(bridge: Bridge, source_hz: int, target_hz: int) -> int:
    """Target samples after which the beginning of a tone is over."""
    return ceil((2 * bridge.delay_source_samples + 2) * Fraction(target_hz, source_hz))


@pytest.mark.parametrize("whole", WHOLES)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_a_tone_in_the_band_comes_out_after_the_declared_delay_and_nothing_else_does(pair: tuple[int, int], whole: str) -> None:
    bridge = Bridge(*pair, whole=whole)
    skip = settled(bridge, *pair)
    for share in np.linspace(0.003, BAND, 24):
        hz = share * min(pair) / 2
        got = whole_signal(bridge, tone(hz, pair[0], 0, 2000).astype(np.float32))[:, skip:]
        wanted = tone(hz, pair[1], skip - float(bridge.delay_target_samples), got.shape[1])
        fit = (got * wanted).sum() / (wanted * wanted).sum()
        assert abs(decibels(fit)) < 0.0005, f"{hz:.0f} Hz: gain"  # 0.01 dB is the promise to the ear
        assert decibels(got - fit * wanted) < -90, f"{hz:.0f} Hz: images and delay"
        assert decibels(got - wanted) < -88


@pytest.mark.parametrize("pair", [p for p in PAIRS if p[0] > p[1]], ids=str)
def test_a_tone_that_would_alias_into_the_band_is_gone(pair: tuple[int, int]) -> None:
    bridge = Bridge(*pair)
    skip = settled(bridge, *pair)
    lowest = (2 - BAND) * pair[1] / 2
    for hz in np.linspace(lowest, pair[0] / 2, 40) if lowest < pair[0] / 2 else []:
        got = whole_signal(bridge, tone(hz, pair[0], 0, 3000).astype(np.float32))[:, skip:]
        assert decibels(got) < -92, f"{hz:.0f} Hz"


def band_limited(hz: float, rate_hz: int, delay: float, samples: int) -> np.ndarray:
    """(2, samples) of 300 tones up to ``hz`` with random phases, ``delay`` samples late: exact at any rate, in float64."""
    rng = np.random.default_rng(8)
    angles = 2 * np.pi * rng.uniform(20, hz, 300)[:, None] / rate_hz * (np.arange(samples) - delay)
    return np.stack([np.cos(angles + rng.uniform(0, 7, (300, 1))).sum(axis=0) / 40 for _ in range(2)])


@pytest.mark.parametrize("device_hz", DEVICES)
def test_there_and_back_is_the_input_a_whole_number_of_samples_later(device_hz: int) -> None:
    inward = Bridge(device_hz, 48000, whole="source")
    outward = Bridge(48000, device_hz, whole="target")
    delay = inward.delay_source_samples + outward.delay_target_samples
    assert delay.denominator == 1
    signal = band_limited(BAND * min(device_hz, 48000) / 2, device_hz, 0, 4000)
    back = whole_signal(outward, whole_signal(inward, signal.astype(np.float32)))
    skip = 2 * int(delay)
    error = back[:, skip:4000] - signal[:, skip - int(delay) : 4000 - int(delay)]
    assert 20 * np.log10(error.std() / signal.std()) < -90
    assert decibels(error) - decibels(signal) < -85


@pytest.mark.parametrize("hop", [128, 256, 512])
@pytest.mark.parametrize("device_hz", DEVICES)
def test_with_a_model_in_between_the_sum_is_whole_and_the_sound_is_there(device_hz: int, hop: int) -> None:
    model_samples = 512 - hop // 2
    inward = Bridge(device_hz, 48000, whole="source")
    outward = Bridge(48000, device_hz, whole="target", behind=model_samples)
    total = inward.delay_source_samples + model_samples * Fraction(device_hz, 48000) + outward.delay_target_samples
    assert total.denominator == 1
    delay, samples = int(total), 3000 + int(total)
    signal = band_limited(BAND * min(device_hz, 48000) / 2, device_hz, 0, samples)
    heard = whole_signal(inward, signal.astype(np.float32))
    modelled = np.concatenate([np.zeros((2, model_samples), np.float32), heard], axis=1)
    back = whole_signal(outward, modelled[:, : heard.shape[1]])
    error = back[:, samples - 1000 : samples] - signal[:, samples - 1000 - delay : samples - delay]
    assert decibels(error) - decibels(signal) < -85


@given(st.sampled_from(DEVICES), st.sampled_from([128, 256, 512]), st.integers(0, 10**9))
@settings(deadline=None)
def test_a_model_that_takes_hops_owes_at_most_a_hop_less_one_sample(device_hz: int, hop: int, fed: int) -> None:
    """What a live engine must hold ready in front of its output, in device samples, whatever the blocks."""
    inward, outward = Bridge(device_hz, 48000), Bridge(48000, device_hz)
    given_back = outward.produced(inward.produced(fed) // hop * hop)
    assert fed - given_back <= floor(Fraction((hop - 1) * device_hz, 48000))


def test_a_fault_is_over_when_it_has_left_the_filter() -> None:
    bridge, signal = Bridge(44100, 48000), noise(1, 400)
    clean = whole_signal(bridge, signal)
    signal[0, 100] = np.nan
    ill = np.isnan(whole_signal(bridge, signal))[0]
    assert ill.any() and not ill[: bridge.produced(100)].any() and not ill[bridge.produced(100 + 64) :].any()
    np.testing.assert_array_equal(whole_signal(bridge, signal)[0, ~ill], clean[0, ~ill])


def test_any_layout_of_a_block_is_heard_and_none_compiles_anew() -> None:
    bridge = Bridge(44100, 48000)
    signal = noise(2, 300)
    wanted, signatures = whole_signal(bridge, signal), len(kernels.resample.signatures)
    for same in (np.asfortranarray(signal), np.repeat(signal, 2, axis=1)[:, ::2], signal.astype(np.float64)):
        np.testing.assert_array_equal(whole_signal(bridge, same), wanted)
    passing = Bridge(48000, 48000)
    np.testing.assert_array_equal(whole_signal(passing, np.asfortranarray(signal)), signal)
    assert len(kernels.resample.signatures) == signatures == 1


def test_a_block_of_other_channels_is_refused() -> None:
    bridge = Bridge(44100, 48000)
    with pytest.raises(ValueError):
        bridge.step(noise(1, 10), bridge.initial_state(2))


@pytest.mark.parametrize("phases, taps, advance", [(160, 64, 147), (3, 5, 8), (1, 1, 1)])
def test_the_kernel_is_its_plain_twin(phases: int, taps: int, advance: int) -> None:
    table, audio = noise(phases, taps), noise(2, taps + 1 + 20 * advance // phases + 1)
    runs = [np.zeros((2, 20), np.float32) for _ in range(2)]
    for function, out in zip((kernels.resample, kernels.resample.py_func), runs, strict=True):
        function(audio, table, advance, 1, phases - 1, out)
    assert runs[0].all()
    np.testing.assert_allclose(runs[0], runs[1], rtol=1e-5, atol=1e-5)  # sums in another order


@pytest.mark.parametrize("bad", [0, -44100, 768001, 10**400, 44100.5, float("nan"), float("inf")])
def test_rates_that_are_none_are_refused_in_one_line(bad: float) -> None:
    for pair in ((bad, 48000), (48000, bad)):
        with pytest.raises(DeviceError, match=r"^cannot resample .* Hz to .* Hz: .*choose another rate for the device$") as error:
            Bridge(*pair)
        assert len(str(error.value)) < 200


@pytest.mark.parametrize("pair", [(44101, 48000), (48000, 44101), (768000, 1), (1, 768000), (767999, 768000)])
def test_ratios_whose_table_would_be_huge_are_refused_before_it_is_made(pair: tuple[int, int]) -> None:
    said = f"^cannot resample {pair[0]} Hz to {pair[1]} Hz: .* ratio {pair[0]}:{pair[1]} .* choose a common rate"
    with pytest.raises(DeviceError, match=said):
        Bridge(*pair)
