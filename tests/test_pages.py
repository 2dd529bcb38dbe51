"""The live page in Chromium: drawn on, played, reloaded, left alone by its server; looked at in four widths.

It plays a host without an audio process (page_stage.py); test_pages_live.py hears it. Screenshots go to SEPSTREAM_SHOTS, or to
pytest's folder.
"""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import page_stage
from jack_server import wait_until
from live_page import drag, draw, known, opened, until
from page_stage import Stage
from sepstream import disk
from sepstream.control import osc

WIDTHS = {360: 740, 800: 1100, 1440: 900, 2560: 1440}


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: Any) -> Iterator[Stage]:
    monkeypatch.setenv("SEPSTREAM_PRESETS", str(tmp_path / "presets"))
    with page_stage.stage(tmp_path, model="disk-live") as stage:
        yield stage


def regions(stage: Stage) -> dict[str, Any]:
    return dict(stage.playing.scene.selection.regions)


def test_a_region_is_drawn_moved_scaled_and_taken_back(browser: Any, stage: Stage) -> None:
    with opened(browser, stage.url) as page:
        draw(page, "disc", (0.3, 0.3), (0.5, 0.3))
        until(page, "sepstream.values.buses.includes('region1') && sepstream.view.chosen === '1'")
        disc = regions(stage)["1"]
        assert isinstance(disc, disk.Disc)
        np.testing.assert_allclose((disc.x, disc.y), (0.3, 0.3), atol=0.01)
        far = disk.distance(np.array([[0.3], [0.3]]), np.array([[0.5], [0.3]]))
        np.testing.assert_allclose(disc.r, far, rtol=0.05)
        drag(page, (0.3, 0.3), (-0.2, 0.1))
        until(page, "Math.abs(sepstream.values.regions['1'].disc.x + 0.2) < 0.01")
        page.keyboard.press("ArrowRight")
        until(page, "Math.abs(sepstream.values.regions['1'].disc.x + 0.18) < 0.01")
        size = regions(stage)["1"].r
        page.keyboard.press("+")
        until(page, "size => sepstream.values.regions['1'].disc.r > 1.04 * size", size)
        page.click("#undo")
        until(page, "sepstream.values.steps.redo === 1")
        draw(page, "lasso", (-0.5, -0.5), (-0.1, -0.6))
        draw(page, "half", (0.5, -0.5), (0.7, -0.7))
        until(page, "Object.keys(sepstream.values.regions).length >= 2")
        wait_until(lambda: disk.HalfPlane in map(type, regions(stage).values()), "the half plane")


def test_faders_switches_and_names_play_the_table(browser: Any, stage: Stage) -> None:
    with opened(browser, stage.url) as page:
        bus = stage.playing.scene.selection.names[0]
        fader = page.locator(f"[data-control='bus/{bus}/gain_db']")
        fader.focus()
        page.keyboard.press("ArrowDown")
        until(page, "bus => sepstream.values[`bus/${bus}/gain_db`] < -0.1", bus)
        assert "dB" in fader.get_attribute("aria-valuetext") and f"OSC /bus/{bus}/gain_db" in fader.get_attribute("title")
        page.click(f"[data-control='bus/{bus}/mute']")
        until(page, "bus => sepstream.values[`bus/${bus}/mute`]", bus)
        wait_until(lambda: stage.playing.scene.selection.buses[0].mute, "the mute")  # the page shows it before it is done
        page.click(f".strip[data-bus={bus}] .name")
        select = page.locator(f"[data-control='bus/{bus}/select']")
        select.fill("nobody")
        select.press("Enter")
        page.wait_for_selector("#toast:not([hidden])")
        assert "unknown class 'nobody'" in page.inner_text("#toast")
        select.fill("mix - drums")
        select.press("Enter")
        until(page, "bus => sepstream.values[`bus/${bus}/select`] === 'mix - drums'", bus)
        page.click("#add-bus")
        until(page, "sepstream.values.buses.includes('mix')")


def test_two_pages_in_step_and_a_reload_that_finds_everything(browser: Any, stage: Stage) -> None:
    with opened(browser, stage.url) as one, opened(browser, stage.url) as two:
        draw(one, "ellipse", (0.0, 0.0), (0.3, 0.2))
        until(two, "Object.keys(sepstream.values.regions).length === 1 && sepstream.view.regions['1'].ellipse")
        two.locator("[data-control='master/gain_db']").focus()
        two.keyboard.press("PageDown")
        until(one, "sepstream.values['master/gain_db'] < -0.5")
        before = one.evaluate("sepstream.values")
        one.reload()
        known(one)
        assert one.evaluate("sepstream.values") == before == two.evaluate("sepstream.values")


def test_a_control_is_learnt_while_another_program_moves_it(browser: Any, stage: Stage) -> None:
    """The click asks to learn; what is learnt is told by whoever hears MIDI (test_midi_ports.py); OSC moves the fader here."""
    with opened(browser, stage.url) as page:
        bus = stage.playing.scene.selection.names[0]
        page.click("#learn")
        page.click(f"[data-control='bus/{bus}/pan']")
        until(page, "bus => sepstream.values.learn === `bus/${bus}/pan`", bus)
        assert page.locator(f"[data-control='bus/{bus}/pan'].waiting").count() == 1
        page.click("#learn")
        until(page, "sepstream.values.learn === ''")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(osc.encode(f"/bus/{bus}/gain_db", -12.0), ("127.0.0.1", stage.port))
        until(page, "bus => sepstream.values[`bus/${bus}/gain_db`] === -12", bus)
        fader = page.locator(f"[data-control='bus/{bus}/gain_db']")
        assert fader.get_attribute("aria-valuetext") == "-12.0 dB"


def test_a_lost_server_is_said_and_found_again(browser: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("SEPSTREAM_PRESETS", str(tmp_path / "presets"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with page_stage.stage(tmp_path, model="disk-live", surface=address) as first, opened(browser, first.url) as page:
        first.close()
        page.wait_for_selector("#veil:not([hidden])")
        with page_stage.stage(tmp_path, model="disk-live", surface=address) as second:
            known(page)
            page.click("#add-bus")
            until(page, "sepstream.values.buses.includes('mix')")
            assert "mix" in second.playing.scene.selection.names


def test_the_token_of_the_address_opens_the_page(browser: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("SEPSTREAM_PRESETS", str(tmp_path / "presets"))
    with page_stage.stage(tmp_path, model="disk-live", token="secret") as stage:
        with opened(browser, f"{stage.url}#secret") as page:
            page.reload()
            known(page)
        page = browser.new_page(bypass_csp=True)
        page.goto(f"{stage.url}#wrong")
        until(page, "document.querySelector('#veil-text').textContent.includes('wrong token')")
        page.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_and_nothing_overlaps(browser: Any, stage: Stage, tmp_path: Path, width: int) -> None:
    over = threading.Event()

    def paint() -> None:
        number = 0
        while not over.wait(0.05):
            stage.paint(number)
            number += 1

    painter = threading.Thread(target=paint)
    painter.start()
    try:
        touch = width < 1000
        with opened(browser, stage.url, width, WIDTHS[width], has_touch=touch) as page:
            draw(page, "disc", (0.3, 0.3), (0.5, 0.3))
            until(page, "sepstream.values.buses.includes('region1') && sepstream.view.chosen === '1'")
            page.click(".strip[data-bus=region1] .name")
            until(page, "sepstream.view.dark === false")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate(OVERLAPS) == []
            assert page.evaluate(SMALL) == []
            shots = Path(os.environ.get("SEPSTREAM_SHOTS") or tmp_path)
            page.screenshot(path=shots / f"live-{width}.png", full_page=touch)
            assert (shots / f"live-{width}.png").stat().st_size > 20_000
    finally:
        over.set()
        painter.join()


OVERLAPS = """() => {
  const shown = [...document.querySelectorAll('main button, main select, main input, main h2, header button, header select')]
    .filter((each) => each.checkVisibility()).map((each) => [each, each.getBoundingClientRect()]);
  const found = [];
  for (const [a, p] of shown) for (const [b, q] of shown) {
    if (a === b || a.contains(b) || b.contains(a) || a.closest('header') !== b.closest('header')) continue;
    if (Math.min(p.right, q.right) - Math.max(p.left, q.left) > 2 && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 2)
      found.push(`${a.outerHTML.slice(0, 60)} and ${b.outerHTML.slice(0, 60)}`);
  }
  return found;
}"""
SMALL = """() => [...document.querySelectorAll('body *')].filter((each) => each.checkVisibility() && each.textContent.trim()
  && !each.children.length && parseFloat(getComputedStyle(each).fontSize) < 11).map((each) => each.outerHTML.slice(0, 80))"""
