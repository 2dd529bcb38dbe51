"""The explorer's page in a real browser: what hands do is what is selected, seen, heard and kept."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Browser, ViewportSize

import chromium
import disk_model
import toy_bundle
from sepstream.analysis import MASK_ONE, Store
from sepstream.contract import Bundle, read_bundle
from sepstream.explore import Explorer
from sepstream.explorer import bin_hz, middle_s
from sepstream.expression import parse
from sepstream.selection import load_preset, read_selection
from sepstream.surface.questions import questions
from sepstream.surface.server import Server
from songs import noise, sound

RATE = 48000
SAMPLES = 2 * RATE
READY = "window.sepstream && sepstream.seen && sepstream.file.heard"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(toy_bundle.make(tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sound(tmp_path_factory.mktemp("songs") / "song.wav", noise(2, SAMPLES))


@pytest.fixture(scope="module")
def explorer(bundle: Bundle, song: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explorer]:
    folder = tmp_path_factory.mktemp("explored")
    found = Explorer(bundle, out=folder / "out", cache=folder / "cache", provider="cpu")
    found.open(song)
    found.wait()
    yield found
    found.close()


@pytest.fixture(scope="module")
def server(explorer: Explorer) -> Iterator[Server]:
    found = Server("127.0.0.1", 0, index="explore.html", api=questions(explorer.answer))
    found.start()
    yield found
    found.close()


@pytest.fixture(scope="module")
def open_page(browser: Browser, server: Server) -> Iterator[chromium.Shown]:
    with chromium.page(browser, server.url) as page:
        page.until(READY)
        yield page


@pytest.fixture
def shown(open_page: chromium.Shown, explorer: Explorer, song: Path) -> chromium.Shown:
    """The same page for all tests, with nothing chosen and the song open."""
    page = open_page.page
    if explorer.state()["file"]["name"] != song.name:
        explorer.open(song)
        explorer.wait()
        open_page.until(f"sepstream.file.name === '{song.name}' && sepstream.file.heard")
    for selector in ("#none", "#all", "#tools label:first-of-type", "#shapes label:first-of-type", "#voices label:last-of-type"):
        page.click(selector)
    page.set_checked("#match", True)
    page.fill("#db", "-60")
    open_page(
        "sepstream.player.stop(), sepstream.player.setLoop(null), sepstream.player.seek(0), "
        "document.querySelector('#loop').setAttribute('aria-pressed', 'false')"
    )
    open_page.until("sepstream.expression() === 'mix' && !sepstream.now.patch && sepstream.masks === null && sepstream.seen")
    return open_page


def masks_of(store: Store, now: dict[str, Any], expression: str) -> np.ndarray:
    """(frames, band bins) float64 of what the page says is chosen, by the independent model."""
    selection = read_selection({"buses": {"a": {"select": expression}}, "regions": now["regions"]})
    tree = parse(expression.replace("region(1)", str(selection.regions[0][1])) if selection.regions else expression)
    masks, embedding = store.masks.read(0, store.hops) / MASK_ONE, store.embedding.read(0, store.hops).astype(np.float64)
    return np.stack([disk_model.evaluate(tree, m, u.T, store.bundle) for m, u in zip(masks, embedding, strict=True)])


def heard_of(store: Store, masks: np.ndarray, start: int, stop: int) -> np.ndarray:
    """(channels, stop - start) float64: a plain STFT of the file times the masks, overlap-added."""
    spec, band = store.bundle.stft, store.bundle.band
    audio = np.pad(noise(2, SAMPLES).astype(np.float64), ((0, 0), (spec.analysis_samples, spec.analysis_samples)))
    windows = spec.windows()
    above = masks[:, band.follow_low : band.follow_high].mean(axis=1, keepdims=True)
    full = np.concatenate([masks, np.repeat(above, spec.bins - band.bins, axis=1)], axis=1)
    out = np.zeros_like(audio)
    for h in range(max(0, start // spec.hop_samples - 4), min(len(masks), stop // spec.hop_samples + 4)):
        end = spec.analysis_samples + (h + 1) * spec.hop_samples
        frame = np.fft.irfft(np.fft.rfft(audio[:, end - spec.analysis_samples : end] * windows.analysis) * full[h])
        out[:, end - spec.synthesis_samples : end] += frame[:, -spec.synthesis_samples :] * windows.synthesis
    return out[:, spec.analysis_samples + start : spec.analysis_samples + stop]


def heard_by(shown: chromium.Shown, start: int, count: int) -> np.ndarray:
    """What the page's player gets for the selection."""
    script = "([start, count]) => sepstream.player.fetch('selection', start, count).then((samples) => Array.from(samples))"
    return np.array(shown(script, [start, count])).reshape(2, count)


def test_a_region_drawn_on_the_disk_is_what_is_heard(shown: chromium.Shown, explorer: Explorer) -> None:
    store = explorer._file().store
    shown.page.click("#shapes label:has-text('disc')")
    shown.drag("#box .pen", (0.62, 0.45), (0.75, 0.4))
    shown.until("sepstream.expression() === 'region(1)'")
    before = shown("sepstream.now")["regions"]["1"]["disc"]
    expected = heard_of(store, masks_of(store, shown("sepstream.now"), "region(1)"), 30000, 34000)
    np.testing.assert_allclose(heard_by(shown, 30000, 4000), expected, atol=2e-4 * np.abs(expected).max())
    assert np.abs(expected).max() > 1e-3
    shown.drag("#box .pen", (0.62, 0.45), (0.4, 0.45))  # it is dragged to the other side
    shown.until("sepstream.now.regions['1'].disc.x < 0")
    after = shown("sepstream.now")["regions"]["1"]["disc"]
    assert after["r"] == before["r"] and after["y"] == pytest.approx(before["y"], abs=0.02)
    moved = heard_of(store, masks_of(store, shown("sepstream.now"), "region(1)"), 30000, 34000)
    np.testing.assert_allclose(heard_by(shown, 30000, 4000), moved, atol=2e-4 * np.abs(moved).max())
    assert np.abs(moved - expected).max() > 0.1 * np.abs(expected).max()


def test_what_plays_is_the_selection_and_changes_with_it(shown: chromium.Shown, explorer: Explorer) -> None:
    """The samples that are scheduled are recorded on their way to the speakers."""
    shown("""() => {
      const {player} = sepstream, schedule = player.schedule.bind(player);
      window.scheduled = [];
      player.schedule = (voice, samples, count) => {
        const {name, first, next} = voice, at = Math.floor(player.folded(next));
        window.scheduled.push({name, first, at, said: sepstream.expression(), samples: Array.from(samples.subarray(0, 500))});
        schedule(voice, samples, count);
      };
    }""")
    shown.page.select_option("#classes select[data-name=speech]", "mask")
    shown.page.click("#loop")  # a slow machine is not to miss the end
    shown.page.click("#play")
    shown.until("window.scheduled.length >= 2 && sepstream.player.position > 1000", "sound")
    shown.page.fill("#expression", "drums")
    shown.page.press("#expression", "Enter")
    shown.until(
        "window.scheduled.some((piece) => piece.name === 'selection' && piece.first && piece.said === 'drums')", "the other one"
    )
    store = explorer._file().store
    pieces = shown("window.scheduled")
    for name, text in (("selection", "speech"), ("mixture", "mix")):
        first = next(piece for piece in pieces if piece["name"] == name)
        expected = heard_of(store, masks_of(store, shown("sepstream.now"), text), 0, 500)[0]
        np.testing.assert_allclose(first["samples"], expected, atol=1e-4)
    later = next(piece for piece in pieces if piece["first"] and piece["said"] == "drums")
    at = int(later["at"])
    expected = heard_of(store, masks_of(store, shown("sepstream.now"), "drums"), at, at + 500)[0]
    np.testing.assert_allclose(later["samples"], expected, atol=1e-4)
    shown.page.click("#play")
    assert not shown("sepstream.player.playing")


def test_a_rectangle_on_the_spectrogram_highlights_on_the_disk_and_is_all_that_is_heard(
    shown: chromium.Shown, explorer: Explorer
) -> None:
    shown.page.click("#tools label:has-text('Rectangle')")
    shown.drag("#filegram", (0.25, 0.3), (0.5, 0.8))
    shown.until(
        "sepstream.idle && sepstream.now.patch && sepstream.masks?.some((m) => m === 0) && sepstream.masks.some((m) => m)"
    )
    corners = np.array(shown("sepstream.now.patch"))
    assert corners[:, 0].min() == pytest.approx(0.5, abs=0.02) and corners[:, 0].max() == pytest.approx(1.0, abs=0.02)
    store = explorer._file().store
    found = {name: shown(f"Array.from(sepstream.seen.{name})") for name in ("frame", "bin", "hops")}
    masks = np.array(shown("Array.from(sepstream.masks)"))
    times, hz = middle_s(store, np.array(found["hops"]))[found["frame"]], bin_hz(store.bundle)[found["bin"]]
    (s0, hz0), (s1, hz1) = corners.min(axis=0), corners.max(axis=0)
    inside = (times >= s0) & (times < s1) & (hz >= hz0) & (hz < hz1)
    np.testing.assert_array_equal(masks > 0, inside)
    assert not heard_by(shown, 0, 20000).any() and heard_by(shown, 30000, 4000).any()


def test_a_lasso_on_the_spectrogram_and_one_on_the_disk_act_together(shown: chromium.Shown) -> None:
    taken = "sepstream.masks.filter((m) => m).length"
    shown.page.click("#tools label:has-text('Lasso')")
    shown.drag("#filegram", (0.2, 0.2), (0.6, 0.3), (0.5, 0.9), (0.2, 0.7))
    shown.until(f"sepstream.idle && sepstream.now.patch && sepstream.masks?.some((m) => m === 0) && {taken} > 0")
    of_one = shown(taken)
    shown.page.click("#shapes label:has-text('lasso')")
    shown.drag("#box .pen", (0.5, 0.3), (0.8, 0.5), (0.5, 0.7), (0.4, 0.5))
    shown.until(f"sepstream.idle && sepstream.expression() === 'region(1)' && {taken} > 0 && {taken} < {of_one}")
    of_both = shown(taken)
    shown.page.click("#clear")
    shown.until(f"sepstream.now.patch === null && {taken} > {of_both}")


def test_unions_intersections_certainty_and_the_rest_are_said_in_the_language_of_buses(shown: chromium.Shown) -> None:
    shown.page.select_option("#classes select[data-name=speech]", "side")
    shown.page.select_option("#classes select[data-name=drums]", "cell")
    assert shown("sepstream.expression()") == "(side(speech) | cell(drums))"
    shown.page.click("#join label:has-text('all of')")
    shown.page.fill("#certain", "0.4")
    assert shown("sepstream.expression()") == "(side(speech) & cell(drums)) & certain(0.4..1)"
    shown.page.click("text=everything else")
    assert shown("sepstream.now.rest") is True
    shown.until("document.querySelector('#share').textContent.includes('%')")
    shown.page.click("#none")
    assert shown("sepstream.expression()") == "mix"


def test_an_expression_that_is_none_is_told_and_nothing_else_happens(shown: chromium.Shown) -> None:
    shown.errors.clear()
    shown.page.fill("#expression", "drum & speech")
    shown.page.press("#expression", "Enter")
    shown.until("document.querySelector('#wrong').textContent.includes(\"did you mean 'drums'\")")
    shown.page.fill("#expression", "drums - speech")
    shown.page.press("#expression", "Enter")
    shown.until("document.querySelector('#wrong').textContent === '' && sepstream.masks")
    assert all("400" in error for error in shown.errors)  # the browser's own line about the refusal
    shown.errors.clear()


def test_a_page_that_is_loaded_again_finds_what_was_chosen(shown: chromium.Shown) -> None:
    shown.page.select_option("#classes select[data-name=bass]", "cell")
    shown.page.fill("#db", "-40")
    shown.page.reload()
    shown.until(READY)
    assert shown("sepstream.expression()") == "cell(bass)"
    assert shown.page.input_value("#classes select[data-name=bass]") == "cell"
    assert shown("sepstream.seen.asked.db") == -40


def test_the_transport_seeks_loops_and_matches_loudness(shown: chromium.Shown) -> None:
    box = shown.page.locator("#filegram").bounding_box()
    assert box
    shown.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 20)
    assert shown("sepstream.player.position") == pytest.approx(SAMPLES / 2, rel=0.01)
    shown.page.focus("#filegram")
    shown.page.keyboard.press("Home")
    assert shown("sepstream.player.position") == 0
    shown.page.keyboard.press("+")
    shown.until("sepstream.seen.asked.stop_s < 1.9")
    shown.page.click("#loop")
    start, stop = shown("sepstream.player.loop")
    assert 0 <= start < stop < SAMPLES
    shown.page.click("#all")
    shown.page.select_option("#classes select[data-name=drums]", "mask")
    shown.until("sepstream.player.levels.mixture < 0.99", "the mixture made as quiet as the selection")
    shown.page.click("#play")
    shown.until("sepstream.player.playing && sepstream.player.position > 2000")
    shown.page.click("#voices label:has-text('Mixture')")
    shown.until(
        "sepstream.player.voices.mixture.gain.gain.value > 0.05 && sepstream.player.voices.selection.gain.gain.value < 0.01"
    )
    shown.page.click("#match")
    shown.until("sepstream.player.levels.mixture === 1")
    shown.page.click("#play")


def test_files_are_opened_by_hand_and_what_is_no_sound_is_told(shown: chromium.Shown, tmp_path: Path) -> None:
    other = tmp_path / "other song.flac"
    soundfile.write(other, noise(1, 30000, seed=1).T, 44100)
    shown.page.set_input_files("#file", other)
    shown.until("sepstream.file.name === 'other song.flac' && sepstream.file.heard")
    shown.until("sepstream.seen && sepstream.seen.asked.stop_s < 0.8")
    assert "44.1 kHz · mono" in shown.page.inner_text("#name")
    (tmp_path / "notes.wav").write_text("no sound at all")
    shown.page.set_input_files("#file", tmp_path / "notes.wav")
    shown.until("document.querySelector('#log').textContent.includes(\"'notes.wav' is not a sound file\")")
    assert shown("sepstream.file.name") == "other song.flac"
    shown.errors.clear()  # the browser's own line about the refusal


def test_what_is_found_is_written_and_kept_as_a_preset(shown: chromium.Shown, explorer: Explorer) -> None:
    shown.page.click("#shapes label:has-text('ellipse')")
    shown.drag("#box .pen", (0.6, 0.5), (0.7, 0.6))
    shown.until("sepstream.expression() === 'region(1)'")
    shown.page.fill("#as", "blob")
    shown.page.click("#preset")
    shown.until("document.querySelector('#log').textContent.includes('sep-live --preset blob')")
    preset = load_preset("blob")
    assert [bus.name for bus in preset.buses] == ["blob"] and preset.residual and preset.regions[0][0] == "1"
    shown.page.click("#write")
    shown.until("document.querySelector('#log').textContent.includes('blob.wav')")
    written, _ = soundfile.read(explorer.out / "song" / "blob.wav", always_2d=True)
    store = explorer._file().store
    expected = heard_of(store, masks_of(store, shown("sepstream.now"), "region(1)"), 30000, 34000)
    np.testing.assert_allclose(written.T[:, 30000:34000], expected, atol=2e-4 * np.abs(expected).max())


def test_a_page_goes_on_when_its_server_comes_back(browser: Browser, explorer: Explorer, song: Path) -> None:
    first = Server("127.0.0.1", 0, index="explore.html", api=questions(explorer.answer))
    first.start()
    with chromium.page(browser, first.url, strict=False) as shown:
        shown.until(READY)
        shown.page.select_option("#classes select[data-name=bass]", "cell")
        first.close()
        shown.until("document.querySelector('#log').textContent.includes('the server has gone')")
        second = Server(*first.address, index="explore.html", api=questions(explorer.answer))
        second.start()
        try:
            before = explorer.state()["number"]
            explorer.open(song)
            shown.until(f"sepstream.file.number > {before} && sepstream.file.heard && sepstream.seen && sepstream.masks")
            assert shown("sepstream.expression()") == "cell(bass)"
        finally:
            second.close()


def test_nothing_is_cut_and_nothing_lies_on_something_else(shown: chromium.Shown, tmp_path: Path) -> None:
    shown.page.select_option("#classes select[data-name=drums]", "cell")
    shown.page.click("#shapes label:has-text('ellipse')")
    shown.drag("#box .pen", (0.55, 0.45), (0.7, 0.55))
    shown.until("document.querySelector('#share').textContent.includes('%') && sepstream.masks")
    faults = {}
    for width, height in chromium.WIDTHS:
        shown.page.set_viewport_size(ViewportSize(width=width, height=height))
        shown.page.wait_for_timeout(200)  # for the frames in which canvases are drawn anew
        shown.keep(f"explore-{width}", tmp_path)
        faults[width] = shown(chromium.FAULTS)
    shown.page.set_viewport_size(ViewportSize(width=1440, height=900))
    assert faults == {width: [] for width, _ in chromium.WIDTHS}


def test_everything_has_a_name_for_those_who_listen_to_the_page(shown: chromium.Shown) -> None:
    nameless = shown("""() => [...document.querySelectorAll("button, select, input, canvas[role], progress")].filter((e) => {
      const label = e.closest("label")?.innerText || [...(e.labels ?? [])].map((l) => l.innerText).join("");
      return !(e.getAttribute("aria-label") || label || e.innerText?.trim() || e.title);
    }).map((e) => e.outerHTML)""")
    assert nameless == []
