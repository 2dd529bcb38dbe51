"""The live page while it is heard: Chromium beside a sep-live in a JACK server, whose sound is known to the sample.

What a region takes is computed once more, in float64, from what went in: a plain STFT, the model's graph run by itself, the
disk and the language of buses of disk_model.py, an overlap-add.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
import pytest

import disk_model
import live_rig
import toy_bundle
from live_page import draw, opened, until
from live_rig import RAMP, START_S, Rig, decibels
from page_client import Page as Raw
from sepstream.contract import Bundle, read_bundle
from sepstream.expression import parse
from sepstream.selection import read_selection

SCENE = '[buses.whole]\nselect = "mix"\n'
MEMORY_HOPS = 300  # the toy forgets: 0.9 ** 300
BLOCK = 128  # of the sound card
PAGES = 10
FLOOD = """
import sys
from websockets.sync.client import connect
text = '{"do": [%s]}' % ", ".join(['["bus/whole/pan", 0.0]'] * 64)
with connect(sys.argv[1], proxy=None, compression=None, ping_interval=None) as socket:
    print("ready", flush=True)
    while True:
        socket.send(text)
        socket.send("{" * 1000)
"""


class Show(NamedTuple):
    rig: Rig
    bundle: Bundle
    url: str


@pytest.fixture(scope="module")
def show(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Show]:
    bundle = read_bundle(toy_bundle.make(tmp_path_factory.mktemp("models")))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    arguments = ("--surface", address, "--model", str(bundle.folder))
    with live_rig.stage(*arguments, preset=SCENE, midi="virtual") as rig:
        rig.wait(lambda: rig.tape.state[5] == 5, "the MIDI cable")
        yield Show(rig, bundle, f"http://{address}/")


@pytest.fixture
def rig(show: Show) -> Rig:
    show.rig.set("preset/load", "test")
    return show.rig


# What should be heard, by a model of our own


def spectra(sound: np.ndarray, bundle: Bundle) -> np.ndarray:
    """(samples, channels) -> (hops, channels, bins) complex128; frame h ends with sample (h + 1) * hop of what follows the
    first analysis - hop samples."""
    spec = bundle.stft
    frames = np.lib.stride_tricks.sliding_window_view(sound, spec.analysis_samples, axis=0)[:: spec.hop_samples]
    return np.fft.rfft(frames * spec.windows().analysis)


def network(mix: np.ndarray, bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """(hops, channels, bins) -> masks and embedding: the graph for one hop, run as it is."""
    graph = bundle.graphs[0]
    session = ort.InferenceSession(str(bundle.folder / graph.file), providers=["CPUExecutionProvider"])
    magnitude = np.sqrt((np.abs(mix) ** 2).mean(axis=1))[:, : bundle.band.bins] * bundle.stft.magnitude_scale
    state = {tensor.name: np.zeros(tensor.shape, np.float32) for tensor in graph.states_in}
    found = []
    for frame in magnitude.astype(np.float32):
        masks, embedding, *states = session.run(None, {graph.inputs[0].name: frame[None], **state})
        state = dict(zip(state, states, strict=True))
        found.append((masks[0], embedding[0]))
    return np.array([masks for masks, _ in found]), np.array([embedding for _, embedding in found], np.float64)


def expected(sound: np.ndarray, bundle: Bundle, regions: dict[str, Any], expression: str) -> np.ndarray:
    """(samples, channels) -> (samples', channels) of a bus: whole hops from the end of the first frame on, each sample where it
    was heard, synthesis - hop samples earlier."""
    spec, band = bundle.stft, bundle.band
    mix = spectra(sound, bundle)
    masks, embedding = network(mix, bundle)
    selection = read_selection({"buses": {"a": {"select": expression}}, "regions": regions})
    for name, region in selection.regions:
        expression = expression.replace(f"region({name})", str(region))
    tree = parse(expression)
    chosen = np.stack([disk_model.evaluate(tree, m, u.T, bundle) for m, u in zip(masks, embedding, strict=True)])
    above = chosen[:, band.follow_low : band.follow_high].mean(axis=1, keepdims=True)
    full = np.concatenate([chosen, np.repeat(above, spec.bins - band.bins, axis=1)], axis=1)
    frames = np.fft.irfft(mix * full[:, None])[:, :, -spec.synthesis_samples :] * spec.windows().synthesis
    hop, count = spec.hop_samples, len(frames)
    out = np.zeros((count * hop + spec.synthesis_samples - hop, sound.shape[1]))
    for h, frame in enumerate(frames):
        out[h * hop : h * hop + spec.synthesis_samples] += frame.T
    return out


def error_db(show: Show, start: int, end: int, regions: dict[str, Any], expression: str) -> float:
    """How far what was heard is from what should be, at the worst sample, relative to the loudest; hops may begin with any of
    the sound card's blocks."""
    rig, spec = show.rig, show.bundle.stft
    last = start - MEMORY_HOPS * spec.hop_samples
    last -= (last - rig.delay - rig.now) % BLOCK
    best = np.inf
    for first in range(last - spec.hop_samples + BLOCK, last + 1, BLOCK):
        out, fed = rig.heard(first, end + spec.synthesis_samples)
        wanted = expected(fed.astype(np.float64), show.bundle, regions, expression)
        lead = spec.analysis_samples - spec.synthesis_samples  # of the first frame: not heard
        skip = start - first
        heard, wanted = out[skip : end - first, :2], wanted[skip - lead :][: end - start]
        best = min(best, decibels(np.abs(heard - wanted).max() / np.abs(wanted).max()))
    return float(best)


# Journeys


def test_a_region_drawn_on_the_page_is_what_is_heard_and_a_move_of_it_within_two_blocks(
    browser: Any, show: Show, rig: Rig
) -> None:
    rig.feed("tones")
    spec = show.bundle.stft
    with opened(browser, show.url) as page:
        draw(page, "disc", (0.45, 0.0), (0.62, 0.1))
        until(page, "sepstream.values.buses.includes('region1')")
        page.click("[data-control='bus/whole/mute']")
        until(page, "sepstream.values['bus/whole/mute'] === true")
        rig.settle()
        start = rig.run(rig.delay + 2 * RAMP + (MEMORY_HOPS + 8) * spec.hop_samples)
        before = page.evaluate("sepstream.values.regions")
        assert error_db(show, start - 6000, start - 2000, before, "region(1)") < -60
        assert error_db(show, start - 6000, start - 2000, before, "!region(1)") > -20, "it takes a part, and no other"
        page.locator("#disk .pen").focus()
        asked = rig.posting(lambda: page.keyboard.press("ArrowLeft"))
        late = int(rig.words["QUEUE_NOW"]) + 2 * spec.hop_samples + spec.synthesis_samples - spec.hop_samples
        rig.run(rig.delay + late + 4 * spec.hop_samples + 4000)
        until(page, "x => sepstream.values.regions['1'].disc.x < x", before["1"]["disc"]["x"] - 0.01)
        after = page.evaluate("sepstream.values.regions")
    assert error_db(show, asked - 3000, asked, before, "region(1)") < -60
    assert error_db(show, asked + late, asked + late + 3000, after, "region(1)") < -60
    assert error_db(show, asked + late, asked + late + 3000, before, "region(1)") > -50, "the move is to be heard"


def test_a_fader_learns_a_knob_of_another_process(browser: Any, show: Show, rig: Rig) -> None:
    rig.feed("bright")
    with opened(browser, show.url) as page:
        page.click("#learn")
        page.click("[data-control='bus/whole/pan']")
        until(page, "sepstream.values.learn === 'bus/whole/pan'")
        rig.tell("midi b01500")
        until(page, "(sepstream.values.bindings['bus/whole/pan'] ?? '').startsWith('cc 21')")
        mail = int(rig.words["MAIL"])
        rig.tell("midi b01540 b0157f")  # met on its way, and taken along
        rig.posted(mail)
        until(page, "sepstream.values['bus/whole/pan'] === 1")
        rig.settle()
        start = rig.run(rig.delay + 2 * RAMP + 4096)
        out, fed = rig.heard(start - 2000, start)
        assert decibels(np.abs(out[:, 0]).max()) < -100 and decibels(np.abs(out[:, 1] - fed[:, 1]).max()) < -100


def test_ten_pages_and_one_that_floods_cost_the_sound_nothing(browser: Any, show: Show, rig: Rig) -> None:
    start = rig.feed("music")
    with ExitStack() as stack:
        stack.enter_context(opened(browser, show.url))
        pages = [stack.enter_context(Raw(show.url)).begin() for _ in range(PAGES)]
        for page in pages:
            page.say({"watch": {"meters": True, "points": True, "bus": "whole"}})
        flood = stack.enter_context(rig.jack.child("-c", FLOOD, show.url.replace("http", "ws") + "socket"))
        flood.expect("ready", START_S)
        for turn in range(20):
            assert pages[turn % PAGES].do(("bus/whole/gain_db", 0.0)) == ""
        for page in pages:
            while not page.frames:
                page.hear()
    rig.ping()
    rig.run(rig.delay + 4096)
    rig.assert_unity(start, rig.now)
    assert rig.late(start, rig.now) == 0 and rig.telemetry.restarts == 0
