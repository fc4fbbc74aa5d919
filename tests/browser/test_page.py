"""The report in a real browser: read in light and dark, on a phone and on paper, by whatever means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from onnxheadprune import GridPoint, prune
from onnxheadprune.reporting.page import Result, page_of
from tests.benchmarking.made_results import benchmark_result
from tests.graphs import toys
from tests.reporting.made_curves import curve_result

pytestmark = pytest.mark.browser
WIDTHS = (360, 800, 1400)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page with every plot."""
    cut = prune(toys.attention(), heads="0:1,3")
    timed = benchmark_result(["/a/m.onnx", "/b/m.onnx"], [GridPoint(1, 128), GridPoint(8, 1, 2048)])
    results = [Result(item.facts(), {"command": "onnxheadprune x"}) for item in (cut, timed, curve_result())]
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(page_of(results), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Any]:
    """The page, whose console must stay silent and which must ask for nothing."""
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": 1400, "height": 900}, color_scheme="light")
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if request.url == address else complaints.append(request.url))
    page.goto(address)
    yield page
    context.close()
    assert complaints == []


def test_an_answer_leads_to_its_section(opened: Any) -> None:
    opened.get_by_role("link", name="what cuts cost").click()
    assert opened.url.endswith("#result2")
    assert opened.locator("#result2 svg").is_visible()


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out_and_plots_are_read(width: int, opened: Any) -> None:
    opened.set_viewport_size({"width": width, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    plots = opened.locator("svg")
    assert plots.count() == 3
    for index in range(3):
        height = (
            plots.nth(index).locator("text").first.evaluate("text => text.getBoundingClientRect().height")
        )
        assert height >= 10, "letters of a phone's notes"


def colors(page: Any, inside: str) -> tuple[str, ...]:
    where = f"section:has(svg) {inside}" if inside else "body"
    style = "element => [getComputedStyle(element).fill, getComputedStyle(element).backgroundColor]"
    return tuple(page.locator(where).first.evaluate(style))


def test_light_dark_and_paper(opened: Any) -> None:
    light = colors(opened, ""), colors(opened, "svg text"), colors(opened, "svg path")
    opened.emulate_media(color_scheme="dark")
    dark = colors(opened, ""), colors(opened, "svg text")
    assert dark[0] != light[0] and dark[1] != light[1]
    opened.emulate_media(color_scheme="dark", media="print")
    assert colors(opened, "svg text") == light[1] and opened.locator("svg").last.is_visible()
    assert opened.locator("svg").last.evaluate("plot => plot.getBoundingClientRect().height") < 800
