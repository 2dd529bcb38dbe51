"""A browser for tests: Debian's Chromium without a screen, and pages that tell what went wrong in them.

with chromium.browser() as browser, chromium.page(browser, url) as page:
    page.until("document.title === 'sepstream'")
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

import jack_server

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --autoplay-policy=no-user-gesture-required"
).split()
PATIENCE_S = 120.0  # on a machine that has other things to do
WIDTHS = ((360, 780), (800, 1100), (1440, 900), (2560, 1440))

# What is cut or lies on something else: texts wider than their box, controls that share pixels, a page wider than its window.
FAULTS = """() => {
  const shown = (e) => e.checkVisibility({opacityProperty: true, visibilityProperty: true}) && e.getClientRects().length;
  const told = (e) => `${e.tagName.toLowerCase()}#${e.id} "${(e.innerText || e.value || "").slice(0, 30)}"`;
  const faults = [], wide = document.documentElement.scrollWidth;
  if (wide > innerWidth) faults.push(`the page is ${wide} wide`);
  const kinds = "button, select, input:not([type=file]):not([type=radio]), .choice label, canvas, p, h2, output";
  const controls = [...document.querySelectorAll(kinds)].filter(shown).filter((e) => !e.closest(".disk"));
  for (const e of controls) {
    const box = e.getBoundingClientRect();
    if (box.left < -1 || box.right > innerWidth + 1) faults.push(`${told(e)} leaves the page`);
    if (e.matches("button, label, p, h2") && e.scrollWidth > e.clientWidth + 1) faults.push(`${told(e)} is cut`);
  }
  for (const [i, a] of controls.entries()) {
    for (const b of controls.slice(i + 1)) {
      if (a.contains(b) || b.contains(a) || a.closest("header") || b.closest("header")) continue;
      const [p, q] = [a, b].map((e) => e.getBoundingClientRect());
      const across = Math.min(p.right, q.right) - Math.max(p.left, q.left);
      const down = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
      if (across > 1.5 && down > 1.5) faults.push(`${told(a)} lies on ${told(b)}`);
    }
  }
  return faults;
}"""


@contextmanager
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        jack_server.lacking("apt-get install chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield found
        finally:
            found.close()


class Shown:
    """A page that is open. ``errors`` collects what its console and its scripts complained of."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.host = page, urlsplit(url).netloc
        page.set_default_timeout(1000 * PATIENCE_S)
        self.errors: list[str] = []
        self.strangers: list[str] = []  # hosts that are not ours
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: self._meet(request.url))
        page.goto(url)

    def _meet(self, url: str) -> None:
        if url.startswith(("http", "ws")) and urlsplit(url).netloc != self.host:
            self.strangers.append(url)

    def __call__(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def until(self, condition: str, what: str = "") -> None:
        """Raises TimeoutError. The page's own rules forbid what playwright's wait_for_function does."""
        end = time.monotonic() + PATIENCE_S
        while not self.page.evaluate(f"Boolean({condition})"):
            if time.monotonic() > end:
                raise TimeoutError(f"{what or condition}; {self.errors}")
            self.page.wait_for_timeout(20)

    def keep(self, name: str, folder: Path) -> Path:
        """A screenshot, in SEPSTREAM_SHOTS if that is set, else in ``folder``."""
        path = Path(os.environ.get("SEPSTREAM_SHOTS") or folder) / f"{name}.png"
        self.page.screenshot(path=path, full_page=True)
        return path

    def drag(self, selector: str, *way: tuple[float, float]) -> None:
        """Along places of an element, as shares of its box."""
        box = self.page.locator(selector).bounding_box()
        assert box
        for i, (x, y) in enumerate(way):
            self.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
            if i == 0:
                self.page.mouse.down()
        self.page.mouse.up()


@contextmanager
def page(browser: Browser, url: str, width: int = 1440, height: int = 900, *, strict: bool = True) -> Iterator[Shown]:
    """``strict``: it is an error when the page's console has one, or when it asks another host for something."""
    found = browser.new_page(viewport=ViewportSize(width=width, height=height))
    shown = Shown(found, url)
    try:
        yield shown
        assert not shown.strangers
        if strict and shown.errors:
            pytest.fail(f"the page complained: {shown.errors}")
    finally:
        found.close()
