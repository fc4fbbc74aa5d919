"""The report in a real browser: what a colleague does who has never seen the tool."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onnxheadprune.reporting.page import Documents, page_of
from tests.reporting.made_documents import benchmark_document, curve_document, cut_document

pytestmark = pytest.mark.browser
WIDTHS = (360, 800, 1400)


def written(folder: Path, *documents: Any) -> str:
    found = Documents()
    for document in documents:
        found.add(document, "the result")
    path = folder / "page.html"
    path.write_text(page_of(found), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    return written(folder, cut_document(sites=4, heads=8), benchmark_document(), curve_document())


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


def background(page: Any) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def test_five_questions_are_answered_by_what_is_seen(opened: Any) -> None:
    def section(name: str) -> str:
        found = opened.locator("section", has=opened.get_by_role("heading", level=2, name=name))
        assert found.count() == 1 and found.is_visible()
        return " ".join(found.inner_text().split())

    assert "YES it computes what the original computes" in section("Is it exact?")
    result = section("Result")
    assert "exact, 25 % fewer operations, its effect on your task is unknown" in result
    assert "heads 32 16 -50 %" in result and "17.0 kB 13.0 kB" in result
    assert "selection drift" in section("What did it cost") and "faster (1.50x)" in section(
        "What did it cost"
    )
    assert "CPUExecutionProvider" in section("How was that measured?")
    assert "onnxheadprune validate here/large.onnx here/small.onnx" in section("How do I repeat it?")


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out(width: int, opened: Any) -> None:
    opened.set_viewport_size({"width": width, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    assert opened.locator("h1").bounding_box()["width"] <= width


def test_heads_tell_their_story_to_mouse_and_keyboard(opened: Any) -> None:
    detail, cells = opened.locator("#detail"), opened.locator("#heads td.cell")
    cells.nth(8).hover()
    assert "layer.1.attention, head 0: removed: chosen by measured drift; score 0.02" in detail.inner_text()
    cells.nth(0).focus()
    opened.keyboard.press("ArrowRight")
    assert "layer.0.attention, head 1: kept; score 0.02" in detail.inner_text()
    opened.keyboard.press("ArrowDown")
    opened.keyboard.press("End")
    assert "layer.1.attention, head 7: kept" in detail.inner_text()
    assert opened.evaluate("document.activeElement.cellIndex") == 8
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.closest('#heads')") is None


def test_tables_are_sorted(opened: Any) -> None:
    table = opened.locator("#cost table.sortable").first
    head = table.get_by_role("button", name="median ms")
    medians = table.locator("tbody td:nth-child(3)")
    head.click()
    assert medians.all_inner_texts() == ["2", "3"]
    head.click()
    assert medians.all_inner_texts() == ["3", "2"]
    assert table.locator('th[aria-sort="descending"]').inner_text().startswith("median ms")


def test_light_and_dark(opened: Any, browser: Any, address: str) -> None:
    light = background(opened)
    opened.locator("#theme").click()
    dark = background(opened)
    opened.reload()
    assert light != dark == background(opened), "the choice is kept"
    page = browser.new_context(color_scheme="dark").new_page()
    page.goto(address)
    assert background(page) == dark, "as the system wants it"
    page.context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("several", [False, True])
def test_no_barrier_for_assistive_technology(theme: str, several: bool, browser: Any, tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    one = cut_document()
    more = ({**one, "output": "there/other.onnx"},) if several else ()
    page = browser.new_context(color_scheme=theme).new_page()
    page.goto(written(tmp_path, one, *more, benchmark_document(), curve_document()))
    found = axe.Axe().run(page).response["violations"]
    page.context.close()
    assert [(item["id"], [node["target"] for node in item["nodes"]]) for item in found] == []


def test_a_large_model_is_there_at_once(browser: Any, tmp_path: Path) -> None:
    address = written(tmp_path, cut_document(sites=24, heads=32))
    page = browser.new_page()
    page.goto("about:blank")
    start = time.perf_counter()
    page.goto(address)
    page.locator("#heads td.cell").last.hover()
    # A second on a machine of one's own; this one may be busy with other tests.
    assert time.perf_counter() - start < 5
    assert "head 31" in page.locator("#detail").inner_text()
    page.close()


def work_of(page: Any, address: str) -> float:
    """Seconds of processor time that the page's own thread takes until it is there: waiting for others is no work."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(address, wait_until="load")
    page.locator("body").hover()
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(item["value"] for item in metrics if item["name"] == "TaskDuration"))


def test_a_large_model_is_interactive_within_a_second(browser: Any, tmp_path: Path) -> None:
    address = written(tmp_path, cut_document(sites=24, heads=32), benchmark_document(), curve_document())
    page = browser.new_page()
    assert work_of(page, address) < 1
    page.close()
    slow = tmp_path / "slow.html"
    script = "<script>const end = performance.now() + 1500; while (performance.now() < end);</script>"
    slow.write_text(f"<body>slow{script}</body>", encoding="utf-8")
    page = browser.new_page()
    assert work_of(page, slow.as_uri()) > 0.2, "the check can fail"
    page.close()


def test_print_shows_all_and_no_controls(opened: Any) -> None:
    opened.emulate_media(media="print")
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    controls = ("nav", ".detail")
    assert not any(opened.locator(name).first.is_visible() for name in controls)
    assert opened.locator(".chart").last.evaluate("chart => chart.getBoundingClientRect().height") < 570
