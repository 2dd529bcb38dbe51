"""The live page in a browser, for tests: opened, drawn on, waited for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

WAIT_MS = 120_000.0  # on a machine that has other things to do
RADIUS = 0.48  # of the disk, in widths of its canvas


@contextmanager
def opened(browser: Any, url: str, width: int = 1280, height: int = 800, **settings: Any) -> Iterator[Any]:
    """A page that knows everything, and at the end has complained of nothing. Playwright waits by evaluating texts, which the
    page itself forbids (test_surface.py looks at that), so it goes round it."""
    context = browser.new_context(viewport={"width": width, "height": height}, bypass_csp=True, **settings)
    context.set_default_timeout(WAIT_MS)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(url)
    known(page)
    yield page
    context.close()
    assert not wrong


def known(page: Any) -> None:
    until(page, "window.sepstream?.line.ready && document.querySelector('#veil').hidden && sepstream.values.buses")


def until(page: Any, condition: str, argument: Any = None) -> None:
    page.wait_for_function(condition, arg=argument, polling=100, timeout=WAIT_MS)


def draw(page: Any, tool: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    """With a tool, from one point of the disk to another."""
    page.click(f"[data-tool={tool}]")
    drag(page, start, end)


def drag(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.locator("#disk").scroll_into_view_if_needed()
    page.mouse.move(*place(page, start))
    page.mouse.down()
    page.mouse.move(*place(page, end), steps=4)
    page.mouse.up()


def place(page: Any, point: tuple[float, float]) -> tuple[float, float]:
    box = page.locator("#disk .pen").bounding_box()
    middle, radius = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2), RADIUS * box["width"]
    return middle[0] + radius * point[0], middle[1] - radius * point[1]
