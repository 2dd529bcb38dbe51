"""The whole pipeline: laws 1 to 6, through a toy network that listens and remembers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streaming_contract as contract
import toy_bundle
from sepstream import kernels
from sepstream.contract import GEOMETRIES, Bundle, StftSpec, read_bundle
from sepstream.errors import ExpressionError, ProviderError
from sepstream.pipeline import LOUDEST, Pipeline
from sepstream.program import Program
from sepstream.selection import Selection, Strip, compile, read_bus

SMALL = StftSpec(64, 24, 16)  # quick, and the overlap is not half
LEVELS = ("parents", "leaves")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(toy_bundle.make(tmp_path_factory.mktemp("small"), geometry=SMALL, hops=(1, 3)))


@pytest.fixture(scope="module")
def ahead(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(toy_bundle.make(tmp_path_factory.mktemp("ahead"), geometry=SMALL, hops=(1, 3), lookahead_hops=4))


def noise(channels: int, samples: int, seed: int = 0) -> np.ndarray:
    """Noise whose level wanders, so that masks move."""
    rng = np.random.default_rng(seed)
    level = 10 ** (2 * np.sin(np.arange(samples) / 500) - 2)
    return (level * rng.standard_normal((channels, samples))).astype(np.float32)


def buses(*expressions: str, residual: bool = False) -> Selection:
    return Selection(tuple(read_bus(f"bus{i}={e}") for i, e in enumerate(expressions)), Strip() if residual else None)


def as_stage(pipeline: Pipeline) -> contract.Stage:
    """The pipeline as a pure function: state in, state out."""

    def step(block: np.ndarray, state: object) -> tuple[np.ndarray, object]:
        pipeline.state = state  # type: ignore[assignment]
        return pipeline.process(block), pipeline.state

    return contract.Stage(pipeline.initial_state, step)


@pytest.mark.parametrize("hops", [1, 3])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_grouping_of_blocks_obeys_the_laws_of_a_stream(small: Bundle, hops: int, channels: int) -> None:
    pipeline = Pipeline(small, Selection.stems(small, "all"), channels, provider="cpu", hops=hops)
    contract.verify(as_stage(pipeline), noise(channels, 1300))


def test_a_look_ahead_obeys_the_laws_of_a_stream(ahead: Bundle) -> None:
    pipeline = Pipeline(ahead, Selection.stems(ahead, "all"), 2, provider="cpu")
    contract.verify(as_stage(pipeline), noise(2, 1300))


def test_smoothed_regions_obey_the_laws_of_a_stream(small: Bundle) -> None:
    selection = buses("disc(0.2,0.1,r=0.7,soft=0.2)", "certain(0.3..1)&!speech")
    pipeline = Pipeline(small, selection, 2, provider="cpu")
    contract.verify(as_stage(pipeline), noise(2, 1300))


@pytest.mark.parametrize("name", GEOMETRIES)
def test_one_hop_and_many_hops_per_call_sound_the_same(tmp_path: Path, name: str) -> None:
    bundle = read_bundle(toy_bundle.make(tmp_path, geometry=name, hops=(1, 8)))
    signal = noise(2, 16 * bundle.stft.hop_samples)
    heard = []
    for hops in (1, 8):
        pipeline = Pipeline(bundle, Selection.stems(bundle, "leaves"), 2, provider="cpu", hops=hops)
        late = pipeline.latency_samples
        heard.append(pipeline.process(np.pad(signal, ((0, 0), (0, late))))[:, :, late:])
    np.testing.assert_allclose(heard[0], heard[1], atol=2e-5 * np.abs(signal).max())


@pytest.mark.parametrize("which", LEVELS)
@pytest.mark.parametrize("hops", [1, 3])
def test_a_level_of_stems_adds_up_to_the_mix_delayed_by_the_declared_latency(
    small: Bundle, ahead: Bundle, which: str, hops: int
) -> None:
    for bundle in (small, ahead):
        pipeline = Pipeline(bundle, Selection.stems(bundle, which), 2, provider="cpu", hops=hops)
        signal = noise(2, 1500)
        total = pipeline.process(signal).sum(axis=0)
        late = pipeline.latency_samples
        assert np.abs(total[:, :late]).max() < 1e-6 * np.abs(signal).max()
        np.testing.assert_allclose(total[:, late:], signal[:, :-late], atol=2e-5 * np.abs(signal).max())


@given(st.integers(0, SMALL.hop_samples - 1))
def test_an_impulse_at_every_phase_is_heard_after_the_declared_latency(small: Bundle, phase: int) -> None:
    pipeline = Pipeline(small, buses("mix"), 1, provider="cpu")
    signal = np.zeros((1, 400), np.float32)
    signal[0, 100 + phase] = 1.0
    heard = pipeline.process(signal)[0, 0]
    assert int(heard.argmax()) == 100 + phase + pipeline.latency_samples
    assert abs(heard.max() - 1) < 1e-5


@pytest.mark.parametrize("hops", [1, 3])
def test_independent_masks_leave_a_residual_that_makes_up_the_mix(tmp_path: Path, hops: int) -> None:
    """Masks that add up to more than one, or less: what was selected and the residual are the mix all the same."""
    bundle = read_bundle(toy_bundle.make(tmp_path, geometry=SMALL, hops=(1, 3), classes_only=True))
    pipeline = Pipeline(bundle, Selection.stems(bundle, "all", residual=True), 2, provider="cpu", hops=hops)
    x = noise(2, 960)
    heard = pipeline.process(x)
    late = pipeline.latency_samples
    assert np.abs(heard[:-1].sum(axis=0)[:, late:] - x[:, :-late]).max() > 0.1 * np.abs(x).max()
    np.testing.assert_allclose(heard.sum(axis=0)[:, late:], x[:, :-late], atol=1e-5)
    contract.verify(as_stage(pipeline), x)


def test_residual_is_what_nobody_selected(small: Bundle) -> None:
    pipeline = Pipeline(small, buses("drums", "disc(0.3,0,r=0.5)&speech", residual=True), 2, provider="cpu")
    signal = noise(2, 1500)
    heard, late = pipeline.process(signal), pipeline.latency_samples
    assert pipeline.buses[-1] == "residual"
    np.testing.assert_allclose(heard.sum(axis=0)[:, late:], signal[:, :-late], atol=3e-5 * np.abs(signal).max())


def test_every_channel_gets_the_same_mask(small: Bundle) -> None:
    """Stereo stays stereo: a channel that is another one, scaled, stays so in every bus."""
    pipeline = Pipeline(small, Selection.stems(small, "leaves"), 2, provider="cpu")
    left = noise(1, 1500)
    heard = pipeline.process(np.concatenate([left, 0.25 * left]))
    np.testing.assert_allclose(heard[:, 1], 0.25 * heard[:, 0], atol=1e-6)


def test_reset_replays_bit_for_bit(small: Bundle) -> None:
    pipeline = Pipeline(small, Selection.stems(small, "all"), 2, provider="cpu")
    signal = noise(2, 1500)
    first = pipeline.process(signal)
    pipeline.reset()
    np.testing.assert_array_equal(pipeline.process(signal), first)


def test_a_muted_bus_goes_on_listening(small: Bundle) -> None:
    """Law 2: muting is a fader, the network's memory advances; after the ramp the sound is the unmuted one."""
    signal = noise(2, 6000)
    open_ = Pipeline(small, buses("drums"), 2, provider="cpu").process(signal)
    pipeline = Pipeline(small, Selection((replace(read_bus("bus0=drums"), mute=True),)), 2, provider="cpu")
    assert not pipeline.process(signal[:, :2000]).any()
    pipeline.select(buses("drums"))
    heard = pipeline.process(signal[:, 2000:])
    ramp = round(0.02 * small.sample_rate_hz) + 2 * SMALL.hop_samples
    np.testing.assert_allclose(heard[:, :, ramp:], open_[:, :, 2000 + ramp :], atol=1e-6)


def test_a_fader_moves_without_a_click(small: Bundle) -> None:
    """Opening a closed bus on a constant: no step is larger than the ramp's own slope."""
    closed = Selection((replace(read_bus("bus0=mix"), mute=True),))
    pipeline = Pipeline(small, closed, 1, provider="cpu")
    constant = np.ones((1, 3000), np.float32)
    pipeline.process(constant)
    pipeline.select(buses("mix"))
    heard = pipeline.process(constant)[0, 0]
    assert abs(heard[-1] - 1) < 1e-5
    assert np.abs(np.diff(heard)).max() < 1.1 * 1000 / (20 * small.sample_rate_hz) + 1e-5


def test_other_buses_than_the_running_ones_are_refused(small: Bundle) -> None:
    pipeline = Pipeline(small, buses("drums"), 1, provider="cpu")
    with pytest.raises(ExpressionError, match="keep names and order"):
        pipeline.select(buses("drums", "bass"))


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf, 10 * LOUDEST])
def test_a_fault_in_the_input_is_counted_and_does_not_live_on(small: Bundle, fault: float) -> None:
    pipeline = Pipeline(small, Selection.stems(small, "all"), 2, provider="cpu")
    signal = noise(2, 1500)
    signal[1, 700] = fault
    heard = pipeline.process(signal)
    assert np.isfinite(heard).all()
    assert pipeline.faults == 1
    signal[1, 700] = 0.0
    pipeline.reset()
    np.testing.assert_array_equal(pipeline.process(signal), heard)


def test_silence_in_silence_out(small: Bundle) -> None:
    pipeline = Pipeline(small, Selection.stems(small, "all"), 2, provider="cpu")
    assert not pipeline.process(np.zeros((2, 1000), np.float32)).any()


def test_a_provider_that_is_not_there_is_refused(small: Bundle) -> None:
    with pytest.raises(ProviderError, match="tpu"):
        Pipeline(small, buses("mix"), 1, provider="tpu")
    pipeline = Pipeline(small, buses("mix"), 1, provider="auto")
    if pipeline.provider == "cpu":
        with pytest.raises(ProviderError, match="sepstream\\[cuda\\]"):
            Pipeline(small, buses("mix"), 1, provider="cuda")


def test_cuda_sounds_like_the_cpu(small: Bundle) -> None:
    if Pipeline(small, buses("mix"), 1, provider="auto").provider != "cuda":
        pytest.skip("no NVIDIA GPU, or pip install 'sepstream[cuda]' is missing")
    heard = [Pipeline(small, Selection.stems(small, "all"), 2, provider=p).process(noise(2, 1500)) for p in ("cpu", "cuda")]
    np.testing.assert_allclose(heard[0], heard[1], atol=1e-4)


def test_nothing_is_compiled_after_the_warm_up(small: Bundle) -> None:
    """A kernel that meets a new kind of array compiles for a second: never while playing."""
    selection = buses("disc(0.2,0.1,r=0.7,soft=0.2)", "drums", residual=True)
    pipeline = Pipeline(small, selection, 2, provider="cpu")
    compiled = [k for k in vars(kernels).values() if hasattr(k, "signatures")]
    before = [len(k.signatures) for k in compiled]
    signal = noise(4, 1000)
    signal.flags.writeable = False
    pipeline.process(signal[::2])
    pipeline.process(signal[:2].astype(np.float64)[:, ::-1])
    pipeline.process(np.asfortranarray(signal[2:]))
    assert [len(k.signatures) for k in compiled] == before
    assert len(compiled) > 5


# Other buses while it plays: change. A gap in the sound: rejoin.

LONG = StftSpec(128, 64, 32)  # the longest overlap there is
few = settings(max_examples=6)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(toy_bundle.make(tmp_path_factory.mktemp("long"), geometry=LONG, hops=(1, 3)))


def steps(pipeline: Pipeline, signal: np.ndarray) -> np.ndarray:
    """Block by block, as the worker does."""
    blocks = np.split(signal, signal.shape[1] // pipeline.block_samples, axis=1)
    return np.concatenate([pipeline.step(block) for block in blocks], axis=2)


def program(bundle: Bundle, *expressions: str, prefix: str = "other", residual: bool = False) -> Program:
    """Buses of other names."""
    read = tuple(read_bus(f"{prefix}{i}={e}") for i, e in enumerate(expressions))
    return compile(Selection(read, Strip() if residual else None), bundle)


def plus(heard: np.ndarray, owed: np.ndarray | None) -> np.ndarray:
    """The blocks after a change, and what the old buses owe."""
    assert owed is not None
    heard = heard.copy()
    heard[:, :, : owed.shape[2]] += owed
    return heard


@pytest.mark.parametrize("hops", [1, 3])
@few
@given(when=st.integers(1, 20))
def test_a_change_to_the_same_buses_by_other_names_is_heard_by_nobody(small: Bundle, long: Bundle, hops: int, when: int) -> None:
    """What is owed and what is new are, together, the uninterrupted run."""
    for bundle in (small, long):
        pipeline = Pipeline(bundle, buses("drums", "speech"), 2, provider="cpu", hops=hops)
        signal, at = noise(2, 30 * pipeline.block_samples), when * pipeline.block_samples
        whole = steps(pipeline, signal)
        pipeline.reset()
        before = steps(pipeline, signal[:, :at])
        owed = pipeline.change(program(bundle, "drums", "speech"))
        after = plus(steps(pipeline, signal[:, at:]), owed)
        np.testing.assert_array_equal(before, whole[:, :, :at])
        np.testing.assert_allclose(after, whole[:, :, at:], atol=1e-6 * np.abs(signal).max())
        assert owed is not None and owed.shape == (2, 2, bundle.stft.synthesis_samples - bundle.stft.hop_samples)


@pytest.mark.parametrize("hops", [1, 3])
def test_after_a_change_the_new_buses_are_an_uninterrupted_run_of_theirs(
    small: Bundle, long: Bundle, ahead: Bundle, hops: int
) -> None:
    """But for the overlap, which the old ones and they share by the window: what one has of a frame the other has not."""
    for bundle in (small, long, ahead):
        pipeline = Pipeline(bundle, buses("drums"), 2, provider="cpu", hops=hops)
        signal, at = noise(2, 30 * pipeline.block_samples), 12 * pipeline.block_samples
        new = steps(Pipeline(bundle, buses("bass", "mix - bass"), 2, provider="cpu", hops=hops), signal)
        steps(pipeline, signal[:, :at])
        pipeline.change(program(bundle, "bass", "mix - bass"))
        heard = steps(pipeline, signal[:, at:])
        overlap = bundle.stft.synthesis_samples - bundle.stft.hop_samples
        np.testing.assert_array_equal(heard[:, :, overlap:], new[:, :, at + overlap :])
        assert pipeline.buses == ("other0", "other1")


@pytest.mark.parametrize("hops", [1, 3])
@few
@given(way=st.lists(st.sampled_from([("drums",), ("bass", "speech"), ("disc(0.2,0.1,r=0.7)", "guitar", "male")]), max_size=6))
def test_buses_that_add_up_to_the_mix_do_so_through_every_change(long: Bundle, hops: int, way: list[tuple[str, ...]]) -> None:
    pipeline = Pipeline(long, buses("drums", residual=True), 1, provider="cpu", hops=hops)
    part = pipeline.block_samples  # changes on top of one another
    signal = noise(1, (len(way) + 6) * part)
    total = np.zeros(signal.shape[1] + 4 * part)
    for n in range(signal.shape[1] // part):
        if n < len(way):
            owed = pipeline.change(program(long, *way[n], prefix=f"turn{n}-", residual=True))
            assert owed is not None
            total[n * part :][: owed.shape[2]] += owed.sum(axis=(0, 1))
        total[n * part :][:part] += steps(pipeline, signal[:, n * part : (n + 1) * part]).sum(axis=(0, 1))
    late = pipeline.latency_samples - pipeline.block_samples
    np.testing.assert_allclose(
        total[late : signal.shape[1]], signal[0, : signal.shape[1] - late], atol=3e-5 * np.abs(signal).max()
    )


def test_what_is_owed_is_as_loud_as_its_bus_was(long: Bundle) -> None:
    """A muted bus rings no more; one at -6 dB rings at -6 dB."""
    signal, loud = noise(1, 20 * LONG.hop_samples), buses("mix").buses[0]
    owed = []
    for bus in (loud, replace(loud, mute=True), replace(loud, gain_db=-6.0)):
        pipeline = Pipeline(long, Selection((bus,)), 1, provider="cpu")
        steps(pipeline, signal)
        owed.append(pipeline.change(program(long, "mix")))
    assert owed[0] is not None and np.abs(owed[0]).max() > 0
    assert owed[1] is not None and not owed[1].any()
    np.testing.assert_allclose(owed[2], owed[0] * np.float32(10 ** (-6 / 20)), rtol=1e-6)


def test_a_change_that_keeps_the_buses_owes_nothing_and_is_a_selection(small: Bundle) -> None:
    signal = noise(2, 40 * SMALL.hop_samples)
    at, heard = 13 * SMALL.hop_samples, []
    for turn in (
        lambda pipeline: pipeline.change(program(small, "speech", "mix", prefix="bus")),
        lambda pipeline: pipeline.select(buses("speech", "mix")),
    ):
        pipeline = Pipeline(small, buses("drums", "bass"), 2, provider="cpu")
        before = steps(pipeline, signal[:, :at])
        assert turn(pipeline) is None
        heard.append(np.concatenate([before, steps(pipeline, signal[:, at:])], axis=2))
    np.testing.assert_array_equal(heard[0], heard[1])


@pytest.mark.parametrize("hops", [1, 3])
@few
@given(pending=st.integers(0, 60))
def test_a_change_between_blocks_keeps_the_latency(small: Bundle, ahead: Bundle, hops: int, pending: int) -> None:
    for bundle in (small, ahead):
        pipeline = Pipeline(bundle, buses("drums"), 1, provider="cpu", hops=hops)
        signal, at = noise(1, 900), 200 + pending
        pipeline.process(signal[:, :at])
        pipeline.change(program(bundle, "mix"))
        heard = pipeline.process(signal[:, at:])[0]
        late, settled = pipeline.latency_samples, 2 * pipeline.block_samples + SMALL.synthesis_samples
        np.testing.assert_allclose(heard[:, settled:], signal[:, at + settled - late : -late], atol=1e-5 * np.abs(signal).max())


@pytest.mark.parametrize("hops", [1, 3])
@few
@given(gap=st.integers(1, 12))
def test_after_a_gap_only_the_networks_memory_is_older(small: Bundle, long: Bundle, ahead: Bundle, hops: int, gap: int) -> None:
    """Rejoined, it plays what a run plays that heard the gap but did not remember it, once the overlap and look-ahead are new."""
    for bundle in (small, long, ahead):
        pipeline = Pipeline(bundle, Selection.stems(bundle, "leaves"), 2, provider="cpu", hops=hops)
        block, history = pipeline.block_samples, bundle.stft.analysis_samples - bundle.stft.hop_samples
        signal, left = noise(2, 40 * block), 10 * block
        back = left + gap * block
        steps(pipeline, signal[:, :left])
        memory = pipeline.state.model
        steps(pipeline, signal[:, left:back])
        pipeline.state = pipeline.state._replace(model=memory)
        expected = steps(pipeline, signal[:, back:])
        pipeline.reset()
        steps(pipeline, signal[:, :left])
        pipeline.rejoin(signal[:, back - history : back].copy())
        heard = steps(pipeline, signal[:, back:])
        stale = bundle.lookahead_hops * bundle.stft.hop_samples + bundle.stft.synthesis_samples - bundle.stft.hop_samples
        np.testing.assert_array_equal(heard[:, :, stale:], expected[:, :, stale:])
        assert pipeline.latency_samples - block <= stale


def test_it_rejoins_from_silence_not_from_what_it_played_before(small: Bundle) -> None:
    pipeline = Pipeline(small, buses("mix"), 2, provider="cpu")
    pipeline.process(noise(2, 1003))
    pipeline.rejoin(np.zeros((2, SMALL.analysis_samples - SMALL.hop_samples), np.float32))
    assert not pipeline.process(np.zeros((2, 500), np.float32)).any()
