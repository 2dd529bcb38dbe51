"""A file that was heard once: what is kept of it, what a selection takes of it, how that sounds, and what is written."""

import itertools
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import disk_model
import scenes
import songs
import toy_bundle
from sepstream import explorer
from sepstream.analysis import FLOOR_DB, MASK_ONE, STEP_DB, ZOOM, Store, ahead, analyze, opened
from sepstream.contract import Bundle, StftSpec, read_bundle
from sepstream.errors import AudioFileError, ExpressionError
from sepstream.explorer import Choice, Patch, ask, ask_buses, bin_hz, export, listen, middle_s, select, statistics, view
from sepstream.expression import parse
from sepstream.render import RenderOptions, pipelines, render_file
from sepstream.selection import Selection, Strip, read_bus
from sepstream.separator import Separator
from sepstream.tape import Tape
from songs import read, sound

SMALL = StftSpec(64, 24, 16)  # quick, and the overlap is not half
RATE = 48000
noise = partial(songs.noise, wander_samples=300.0)
LEAVES = ("male", "female", "bass", "drums", "guitar")
CODE = 0.51 / MASK_ONE  # how far a mask may be from what the network gave
EXPRESSIONS = (
    "mix", "speech", "drums+0.5*bass", "!male", "cell(drums)&certain(0.2..0.8,soft=0.3)", "side(speech)|side(bass)",
    "side(speech)&side(bass)", "disc(0.3,0.1,r=0.9,soft=0.2)", "ellipse(0.1,0.2,0.4,0.2,angle=30,soft=0.1)", "music-guitar",
)  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(toy_bundle.make(tmp_path_factory.mktemp("small"), geometry=SMALL, hops=(1, 3)))


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(toy_bundle.make(tmp_path_factory.mktemp("late"), geometry=SMALL, hops=(1, 3), lookahead_hops=4))


@pytest.fixture(scope="module")
def store(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("store")
    with opened(sound(folder / "in.wav", noise(2, 1500)), bundle, folder) as found:
        analyze(found, provider="cpu")
        yield found


@pytest.fixture(scope="module", params=["mono 44.1", "stereo 32 late", "one sample"])
def other(request: Any, bundle: Bundle, late: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Other rates, channels, models and lengths."""
    folder = tmp_path_factory.mktemp("other")
    kinds = {"mono 44.1": (noise(1, 901), 44100, bundle), "stereo 32 late": (noise(2, 800), 32000, late)}
    audio, rate_hz, model = kinds.get(request.param, (np.full((3, 1), 0.5, np.float32), RATE, bundle))
    with opened(sound(folder / "in.wav", audio, rate_hz), model, folder) as found:
        analyze(found, provider="cpu")
        yield found


# What is kept.


def independent(store: Store, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(frames, channels, bins) float64 spectra of a plain STFT, and the network's masks and embedding of their magnitudes,
    frame by frame."""
    spec, bundle = store.bundle.stft, store.bundle
    frames = audio.shape[1] // spec.hop_samples
    padded = np.pad(audio.astype(np.float64), ((0, 0), (spec.analysis_samples, 0)))
    window = spec.windows().analysis
    ends = [spec.analysis_samples + (h + 1) * spec.hop_samples for h in range(frames)]
    spectra = np.fft.rfft(np.stack([padded[:, e - spec.analysis_samples : e] * window for e in ends]))
    magnitude = np.sqrt((np.abs(spectra) ** 2).mean(axis=1)) * spec.magnitude_scale
    network = Separator(bundle, 1, "cpu")
    state, found = network.initial_state(), []
    for row in magnitude[:, : bundle.band.bins].astype(np.float32):
        separation, state = network.step(row[None], state)
        found.append((separation.masks[0].copy(), separation.embedding[0].copy()))
    masks, embedding = (np.stack(part)[bundle.lookahead_hops :] for part in zip(*found, strict=True))
    return spectra, masks.astype(np.float64), embedding.astype(np.float64)


def test_the_store_holds_what_the_network_says_of_a_plain_transform(store: Store) -> None:
    audio = store.sound.read(0, store.sound.rows).T
    np.testing.assert_array_equal(audio[:, :1500], noise(2, 1500))
    assert not audio[:, 1500:].any()
    spectra, masks, embedding = independent(store, audio)
    assert len(masks) == store.hops == store.masks.rows
    np.testing.assert_allclose(store.masks.read(0, store.hops) / MASK_ONE, masks, atol=1e-4)
    np.testing.assert_allclose(store.embedding.read(0, store.hops), embedding, atol=1e-4)
    level = np.sqrt((np.abs(spectra) ** 2).mean(axis=1)) * SMALL.magnitude_scale
    db = 20 * np.log10(np.maximum(2 * level, 1e-9))
    shown = store.picture[0].read(0, store.hops) * STEP_DB + FLOOR_DB
    np.testing.assert_allclose(shown, np.maximum(db, FLOOR_DB), atol=STEP_DB / 2 + 1e-2)


def test_each_scale_of_the_picture_has_the_loudest_of_the_one_before(store: Store) -> None:
    finest = store.picture[0].read(0, store.picture[0].rows)
    for k, tape in enumerate(store.picture):
        blocks = [finest[at : at + ZOOM**k].max(axis=0) for at in range(0, len(finest), ZOOM**k)]
        np.testing.assert_array_equal(tape.read(0, tape.rows), blocks)


def test_a_sine_at_full_scale_reads_0_db(tmp_path: Path, bundle: Bundle) -> None:
    tone = np.sin(2 * np.pi * np.arange(4096) * 8 / SMALL.analysis_samples).astype(np.float32)[None]
    with opened(sound(tmp_path / "in.wav", tone), bundle, tmp_path) as found:
        analyze(found, provider="cpu")
        levels = found.picture[0].read(50, 200) * STEP_DB + FLOOR_DB
    np.testing.assert_allclose(levels[:, 8], 0, atol=STEP_DB)


def test_a_store_leaves_nothing_behind(tmp_path: Path, bundle: Bundle) -> None:
    cache = tmp_path / "cache"
    with opened(sound(tmp_path / "in.wav", noise(1, 500)), bundle, cache) as found:
        analyze(found, provider="cpu")
        assert any(cache.rglob("masks"))
    assert not any(cache.iterdir())


def test_what_progress_raises_ends_the_analysis_and_its_files(tmp_path: Path, bundle: Bundle) -> None:
    def stop(fraction: float) -> None:
        raise KeyboardInterrupt(fraction)

    before = threading.active_count()
    with (
        pytest.raises(KeyboardInterrupt),
        opened(sound(tmp_path / "in.wav", noise(1, 90000)), bundle, tmp_path / "cache") as found,
    ):
        analyze(found, stop, provider="cpu")
    assert not any((tmp_path / "cache").iterdir())
    assert threading.active_count() == before


def test_progress_rises_to_one(tmp_path: Path, bundle: Bundle) -> None:
    told: list[float] = []
    with opened(sound(tmp_path / "in.wav", noise(1, 40000)), bundle, tmp_path) as found:
        analyze(found, told.append, provider="cpu")
    assert told == sorted(told) and told[-1] == 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_what_is_no_sound_is_told_in_one_line(tmp_path: Path, bundle: Bundle, value: float) -> None:
    audio = noise(1, 5000)
    audio[0, 3000] = value
    with (
        pytest.raises(AudioFileError, match=r"in\.wav' holds (nan|inf|samples beyond)[^\n]*$"),
        opened(sound(tmp_path / "in.wav", audio), bundle, tmp_path / "cache") as found,
    ):
        analyze(found, provider="cpu")
    assert not any((tmp_path / "cache").iterdir())


def test_it_can_be_listened_to_while_it_is_heard(tmp_path: Path, bundle: Bundle) -> None:
    audio = noise(2, 40000)
    seen: list[int] = []

    def look(_: float) -> None:
        ready = found.model_samples
        seen.append(ready)
        heard = listen(found, ask(bundle, Choice()), max(0, ready - 100), ready)
        np.testing.assert_allclose(heard[0], audio[:, max(0, ready - 100) : ready], atol=1e-5)
        assert view(found, -200).hops[-1] == found.hops - 1

    with opened(sound(tmp_path / "in.wav", audio), bundle, tmp_path) as found:
        analyze(found, look, provider="cpu")
        assert found.model_samples == 40000
    assert seen == sorted(seen) and len(set(seen)) > 10


# Masks.


def model_mask(store: Store, text: str, masks: np.ndarray, embedding: np.ndarray) -> np.ndarray:
    """(frames, band bins) of the independent model."""
    tree, bundle = parse(text), store.bundle
    return np.stack([disk_model.evaluate(tree, m, u.T, bundle) for m, u in zip(masks, embedding, strict=True)])


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_a_selection_is_that_of_an_independent_model(store: Store, text: str) -> None:
    seen = view(store, -200)
    found = select(store, ask(store.bundle, Choice(parse(text))), seen)[0]
    codes = store.masks.read(0, store.hops) / MASK_ONE
    expected = model_mask(store, text, codes, store.embedding.read(0, store.hops).astype(np.float64))
    assert len(found) == expected.size
    np.testing.assert_allclose(found, expected[seen.frame, seen.bin], atol=1e-3)


def test_a_view_has_the_loud_bins_of_its_range_and_no_others(store: Store) -> None:
    levels = store.picture[0].read(0, store.hops)[:, : store.bundle.band.bins] * STEP_DB + FLOOR_DB
    times = middle_s(store, np.arange(store.hops))
    seen = view(store, -40.0, 0.005, 0.02)
    inside = (times >= 0.005) & (times < 0.02)
    np.testing.assert_array_equal(seen.hops, np.flatnonzero(inside))
    frame, bin = np.nonzero(levels[inside] >= -40.0)
    np.testing.assert_array_equal(seen.frame, frame)
    np.testing.assert_array_equal(seen.bin, bin)


@pytest.mark.parametrize("span", [(5.0, 9.0), (0.01, 0.01), (0.02, 0.01), (-3.0, -1.0)])
def test_a_view_of_nothing_is_empty_and_everything_can_be_asked_of_it(store: Store, span: tuple[float, float]) -> None:
    seen = view(store, -60.0, *span)
    mask = select(store, ask(store.bundle, Choice(parse("certain(0.4..1)"), Patch.rectangle(0, 1, 0, 9000))), seen)[0]
    assert len(mask) == len(explorer.cloud(store.bundle, seen, 100).x) == 0
    assert statistics(store.bundle, seen, mask).energy_share == 0


def test_a_long_view_takes_frames_from_all_over(store: Store) -> None:
    seen = view(store, -200, most=7)
    assert len(seen.hops) == 7 and seen.hops[0] == 0 and seen.hops[-1] == store.hops - 1
    everything = view(store, -200)
    q = ask(store.bundle, Choice(parse("speech&certain(0.2..1,soft=0.4)")))
    whole = select(store, q, everything)[0].reshape(store.hops, -1)
    np.testing.assert_array_equal(select(store, q, seen)[0].reshape(7, -1), whole[seen.hops])


corners = st.tuples(st.integers(-10_000, 50_000).map(lambda us: us / 1e6), st.floats(-1000, 30000))


@given(st.lists(corners, min_size=3, max_size=7))
@settings(max_examples=40)
def test_a_patch_takes_the_bins_whose_middle_it_encloses(store: Store, points: list[tuple[float, float]]) -> None:
    hops = np.arange(store.hops)
    found = explorer.patch_mask(store, Patch(tuple(points)), hops)
    t, f = np.meshgrid(middle_s(store, hops), bin_hz(store.bundle), indexing="ij")
    inside, near = np.zeros(t.shape, bool), np.zeros(t.shape, bool)
    for (t0, f0), (t1, f1) in zip(points, points[1:] + points[:1], strict=True):
        if t0 != t1:  # rays upwards
            between = (t >= min(t0, t1)) & (t < max(t0, t1))
            above = f0 + (t - t0) / (t1 - t0) * (f1 - f0)
            inside ^= between & (above <= f)
            near |= between & (np.abs(above - f) < 1e-3)
    np.testing.assert_array_equal(found[~near], inside[~near])


def test_a_rectangle_is_what_lies_between_its_sides(store: Store) -> None:
    found = explorer.patch_mask(store, Patch.rectangle(0.01, 0.02, 2000, 9000), np.arange(store.hops))
    t, f = middle_s(store, np.arange(store.hops)), bin_hz(store.bundle)
    np.testing.assert_array_equal(found, np.outer((t >= 0.01) & (t < 0.02), (f >= 2000) & (f < 9000)))


@pytest.mark.parametrize(
    "bad",
    [((0, 0), (1, 1)), ((0, 0),) * 513, ((0, 0), (1, np.nan), (1, 0)), ((0, 0), (1, "x"), (1, 0)), ((0, 0), (1, 2e6), (1, 0))],
)
def test_a_patch_that_is_none_is_refused(bad: Any) -> None:
    with pytest.raises(ExpressionError, match=r"^patch: [^\n]*expected[^\n]*$"):
        Patch(bad)


# Sound.


def test_everything_is_the_input(store: Store) -> None:
    np.testing.assert_allclose(listen(store, ask(store.bundle, Choice()), 0, 1500)[0], noise(2, 1500), atol=2e-6)


def test_everything_is_the_input_at_any_rate_and_length(other: Store) -> None:
    audio = other.sound.read(other.lead_samples, other.lead_samples + other.model_samples).T
    assert other.samples is not None
    assert other.model_samples == round(other.samples * RATE / other.rate_hz)
    np.testing.assert_allclose(listen(other, ask(other.bundle, Choice()), 0, other.model_samples)[0], audio, atol=2e-6)


@given(st.lists(st.integers(-40, 1600), min_size=1, max_size=6), st.sampled_from(EXPRESSIONS))
@settings(max_examples=30)
def test_any_grouping_of_ranges_sounds_the_same(store: Store, cuts: list[int], text: str) -> None:
    question = ask(store.bundle, Choice(parse(text)))
    whole = listen(store, question, -40, 1600)
    edges = sorted({-40, 1600, *cuts})
    parts = [listen(store, question, a, b) for a, b in itertools.pairwise(edges)]
    np.testing.assert_allclose(np.concatenate(parts, axis=2), whole, atol=1e-6)


@given(scenes.regions, st.one_of(st.none(), st.builds(lambda p: Patch(tuple(p)), st.lists(corners, min_size=3, max_size=5))))
@settings(max_examples=30)
def test_a_selection_and_the_rest_add_up_to_the_input(store: Store, region: Any, patch: Patch | None) -> None:
    tree = parse(str(region))
    parts = listen(store, ask(store.bundle, Choice(tree, patch), Choice(tree, patch, rest=True)), 0, 1500)
    np.testing.assert_allclose(parts.sum(axis=0), noise(2, 1500), atol=3e-6)


@pytest.mark.parametrize("which", ["parents", "leaves"])
@pytest.mark.parametrize("kind", ["{}", "cell({})"])
def test_a_level_of_classes_or_cells_adds_up_to_the_input(store: Store, which: str, kind: str) -> None:
    names = getattr(store.bundle, which)
    total = listen(store, ask(store.bundle, *(Choice(parse(kind.format(n))) for n in names)), 0, 1500).sum(axis=0)
    audio = noise(2, 1500)
    np.testing.assert_allclose(total, audio, atol=3e-6 + len(names) * CODE * 40 * np.abs(audio).max())  # 33 bins may conspire


def test_the_intersection_is_inside_each_and_the_union_is_their_sum_without_it(store: Store) -> None:
    seen = view(store, -200)
    texts = ("side(speech)", "side(bass)", "side(speech)&side(bass)", "side(speech)|side(bass)")
    a, b, both, either = select(store, ask(store.bundle, *(Choice(parse(t)) for t in texts)), seen)
    np.testing.assert_array_equal(both, np.minimum(a, b))
    np.testing.assert_array_equal(either, np.maximum(a, b))
    assert 0 < both.sum() < min(a.sum(), b.sum())


def test_a_patch_holds_back_what_is_not_in_it(store: Store) -> None:
    """The sound of a rectangle, taken apart again, has next to nothing elsewhere in time."""
    heard = listen(store, ask(store.bundle, Choice(patch=Patch.rectangle(0.01, 0.02, -1, 30000))), 0, 1500)[0]
    inside = slice(round(0.01 * RATE) + 24, round(0.02 * RATE) - 24)
    np.testing.assert_allclose(heard[:, inside], noise(2, 1500)[:, inside], atol=2e-6)
    assert not heard[:, : round(0.01 * RATE) - 24].any() and not heard[:, round(0.02 * RATE) + 24 :].any()


def test_unknown_classes_and_regions_are_told(store: Store) -> None:
    with pytest.raises(ExpressionError, match="unknown class 'drum'; did you mean 'drums'"):
        ask(store.bundle, Choice(parse("drum")))


# Files.


SELECTION = Selection(
    (
        read_bus("vox=speech&certain(0.2..1,soft=0.2)"),
        read_bus("band=music-drums"),
        read_bus("half=0.5*disc(0.2,0,r=0.7,soft=0.3)"),
    ),
    Strip(),
)


def slow(selection: Selection) -> Selection:
    """The same, with masks that follow the network's slowly."""
    first = type(selection.buses[0])(selection.buses[0].name, selection.buses[0].expression, smooth_ms=3.0)
    return Selection((first, *selection.buses[1:]), selection.residual)


@pytest.mark.parametrize("selection", [SELECTION, slow(SELECTION)], ids=["quick", "slow"])
def test_what_is_written_is_what_a_rendering_writes(store: Store, other: Store, tmp_path: Path, selection: Selection) -> None:
    for found in (store, other):
        folder = tmp_path / found.source.parent.name
        report = render_file(found.source, folder, pipelines(found.bundle, selection, "cpu"))
        paths = [folder / "mine" / f"{name}.wav" for name in selection.names]
        written = export(found, ask_buses(found.bundle, selection), paths, RenderOptions())
        assert [w.path for w in written] == paths
        for bus, path in zip(report.buses, paths, strict=True):
            expected, mine = read(bus.path), read(path)
            assert mine.shape == expected.shape == (found.channels, found.samples)
            np.testing.assert_allclose(mine, expected, atol=3e-6 + 40 * CODE * np.abs(read(found.source)).max())


def test_everything_written_is_the_file(other: Store, tmp_path: Path) -> None:
    """At another rate, what a file at that rate can hold: what is left after resampling there and back."""
    export(other, ask(other.bundle, Choice()), [tmp_path / "all.wav"], RenderOptions())
    render_file(other.source, tmp_path, pipelines(other.bundle, Selection((read_bus("all=mix"),)), "cpu"), name=Path("r"))
    found = read(tmp_path / "all.wav")
    np.testing.assert_allclose(found, read(tmp_path / "r" / "all.wav"), atol=2e-6)
    if other.rate_hz == RATE:
        np.testing.assert_allclose(found, read(other.source), atol=2e-6)


def test_gains_act_on_what_is_written(store: Store, tmp_path: Path) -> None:
    paths = [tmp_path / "out" / name for name in ("a.wav", "b.wav")]
    export(store, ask(store.bundle, Choice(), Choice()), paths, RenderOptions(), gains=[0.5, 0.0])
    np.testing.assert_allclose(read(paths[0]), 0.5 * noise(2, 1500), atol=2e-6)
    assert not read(paths[1]).any()


def test_an_export_that_fails_leaves_nothing(store: Store, tmp_path: Path) -> None:
    def stop(fraction: float) -> None:
        raise KeyboardInterrupt(fraction)

    with pytest.raises(KeyboardInterrupt):
        export(store, ask(store.bundle, Choice()), [tmp_path / "out" / "a.wav"], RenderOptions(), progress=stop)
    assert not any(tmp_path.iterdir())
    with pytest.raises(AudioFileError, match="is the input itself"):
        export(store, ask(store.bundle, Choice()), [store.source], RenderOptions())


# Statistics.


def test_statistics_are_sums_of_energy_over_hz_and_certainty(store: Store) -> None:
    seen = view(store, -60.0)
    mask = select(store, ask(store.bundle, Choice(parse("speech"))), seen)[0]
    found = statistics(store.bundle, seen, mask)
    energy, taken = np.zeros(store.bundle.band.bins), np.zeros(store.bundle.band.bins)
    bars = np.zeros((2, explorer.CERTAINTY_BARS))
    norms = np.tanh(np.minimum(np.linalg.norm(store.embedding.read(0, store.hops), axis=1), np.arctanh(0.999)))
    for frame, bin, level, m in zip(seen.frame, seen.bin, seen.level, mask, strict=True):
        e = 10 ** ((level * STEP_DB + FLOOR_DB) / 10)
        energy[bin] += e
        taken[bin] += e * m * m
        bar = int(norms[seen.hops[frame], bin] * explorer.CERTAINTY_BARS)
        bars[:, bar] += e, e * m * m
    np.testing.assert_allclose(found.there, energy / len(seen.hops), rtol=1e-5)
    np.testing.assert_allclose(found.taken, taken / len(seen.hops), rtol=1e-5)
    np.testing.assert_allclose(found.there_by_certainty.cumsum(), bars[0].cumsum() / energy.sum(), atol=1e-3)
    np.testing.assert_allclose(found.taken_by_certainty.cumsum(), bars[1].cumsum() / energy.sum(), atol=1e-3)
    assert found.energy_share == pytest.approx(taken.sum() / energy.sum(), rel=1e-5)
    np.testing.assert_allclose(found.hz, np.fft.rfftfreq(64, 1 / RATE)[: store.bundle.band.bins])


def test_everything_is_all_of_the_energy(store: Store) -> None:
    seen = view(store, -90.0)
    found = statistics(store.bundle, seen, select(store, ask(store.bundle, Choice()), seen)[0])
    assert found.energy_share == pytest.approx(1) and found.bin_share == 1


def test_a_cloud_has_the_points_of_its_bins(store: Store) -> None:
    seen = view(store, -60.0)
    found = explorer.cloud(store.bundle, seen, 200)
    assert len(found.x) == 200 and (np.diff(found.place) >= 0).all() and found.place[-1] > 0.9 * len(seen.bin)
    u = store.embedding.read(0, store.hops)[seen.hops[seen.frame], :, seen.bin][found.place]
    np.testing.assert_allclose(np.stack([found.x, found.y], axis=1), disk_model.to_disk(u), atol=1e-6)
    leaves = store.masks.read(0, store.hops)[seen.hops[seen.frame], 2:, seen.bin][found.place]
    np.testing.assert_array_equal(found.leaf, leaves.argmax(axis=1))


# The tape and the reading thread.


@given(st.lists(st.integers(0, 5), max_size=6), st.integers(-3, 20), st.integers(-3, 20))
def test_a_tape_gives_back_what_it_was_given(tmp_path_factory: Any, sizes: list[int], start: int, stop: int) -> None:
    total = np.arange(sum(sizes) * 6, dtype=np.float32).reshape(-1, 2, 3)
    with Tape(tmp_path_factory.mktemp("tape") / "t", (2, 3), np.float32) as tape:
        for end, size in zip(np.cumsum(sizes), sizes, strict=True):
            tape.append(total[end - size : end])
        around = np.pad(total, ((3, 30), (0, 0), (0, 0)))
        np.testing.assert_array_equal(tape.read(start, stop), around[start + 3 : max(start, stop) + 3])
        places = np.arange(0, tape.rows, 2)
        np.testing.assert_array_equal(tape.pick(places), total[::2])


def test_a_full_disk_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "t").touch()
    with pytest.raises(AudioFileError, match=r"cannot keep what is heard[^\n]*another --cache"):
        Tape(tmp_path / "t", (1,), np.float32)


def test_a_reading_thread_gives_all_items_in_order_and_raises_what_was_raised() -> None:
    def items() -> Iterator[int]:
        yield from range(20)
        raise AudioFileError("the end")

    taken = []
    with pytest.raises(AudioFileError, match="the end"), ahead(items(), 2) as fetched:
        for item in fetched:
            taken.append(item)
    assert taken == list(range(20))


def test_a_reading_thread_that_nobody_listens_to_ends() -> None:
    def items() -> Iterator[int]:
        while True:
            yield 1

    before = threading.active_count()
    with ahead(items(), 2) as fetched:
        assert next(fetched) == 1
    assert threading.active_count() == before
