"""The page in a real Chromium: nothing on the console, nothing fetched; sorting, reading off, widths and schemes."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from tests.conftest import PATIENCE_SECONDS
from tests.train.conftest import make_clip_store
from tests.train.report.written import write_run

from resact.cache.store import open_store
from resact.train.report.as_html import html
from resact.train.report.report import build_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("background-networking", "component-update", "sync", "gpu", "quic")
ARGUMENTS = ["--no-first-run", "--no-sandbox", *(f"--disable-{what}" for what in QUIET)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        assert "CI" not in os.environ, "CI needs chromium: apt-get install chromium"
        pytest.skip("no chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=1000 * PATIENCE_SECONDS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page")
    make_clip_store(path / "clips.zarr", [12] * 6)
    store = open_store(path / "clips.zarr")
    runs = path / "runs"
    write_run(runs, "rgb", modality="rgb", correct=0.4, clips=store)
    for step, correct in ((1, 0.7), (2, 0.6)):
        write_run(runs, f"residual-{step}", modality="residual", step=step, correct=correct, clips=store)
    write_run(runs, "third", modality="residual", step=3, correct=0.5, clips=store)
    (path / "page.html").write_text(html(build_report(runs)), encoding="utf-8")
    return path / "page.html"


@pytest.fixture
def said(file: Path) -> list[str]:
    return []


@pytest.fixture
def page(browser: Browser, file: Path, said: list[str], request: pytest.FixtureRequest) -> Iterator[Page]:
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **getattr(request, "param", {})})
    context.set_default_timeout(1000 * PATIENCE_SECONDS)
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith(("data:", "file:")) else said.append(asked.url))
    page.goto(file.as_uri())
    yield page
    context.close()
    assert said == [], "the console, or the network, was used"


def column(page: Page, place: int) -> list[str]:
    """Of the first table."""
    return page.locator("table.sortable").first.locator(f"tbody tr > :nth-child({place})").all_inner_texts()


def test_the_tables_are_there_and_sort_by_a_click(page: Page) -> None:
    assert page.locator("table").count() == 8
    assert page.locator("img").count() == 16
    before = column(page, 5)
    assert before == ["40.3", "70.8", "not run", "not run"]
    heading = page.locator("table.sortable thead th").nth(4)
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert column(page, 5) == ["70.8", "40.3", "not run", "not run"]
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert column(page, 5) == ["40.3", "70.8", "not run", "not run"], "what is no number stays at the end"
    name = page.locator("table.sortable thead th").first
    name.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") is None
    assert column(page, 1) == sorted(column(page, 1), key=str.lower, reverse=True)


def test_images_are_whole(page: Page) -> None:
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")


def test_curves_are_read_off_by_pointer_and_by_keys(page: Page) -> None:
    chart = page.locator("svg[data-curves]").first
    readout = page.locator("output.readout").first
    assert "epoch 2 " in readout.inner_text()
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.15 * box["width"], box["y"] + box["height"] / 2)
    assert "epoch 1 " in readout.inner_text()
    chart.focus()
    page.keyboard.press("ArrowRight")
    assert "epoch 2 " in readout.inner_text()


@pytest.mark.parametrize(
    "page", [{"viewport": {"width": width, "height": 700}} for width in (320, 768, 1280)], indirect=True, ids=str
)
def test_nothing_hangs_over_the_edge(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("[...document.querySelectorAll('svg, img')].every((e) => e.clientWidth <= innerWidth)")


@pytest.mark.parametrize("page", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True, ids=str)
def test_words_stand_out_in_light_and_dark(page: Page) -> None:
    """Contrast of 4.5 and more (WCAG AA) for each kind of text."""
    colours = page.evaluate(
        """() => ['body', 'header p', '.confirmed', '.refuted', '.unresolved', 'a', 'figcaption']
            .map((kind) => document.querySelector(kind)).filter((found) => found)
            .map((found) => [getComputedStyle(found).color, getComputedStyle(document.body).backgroundColor])"""
    )
    assert len(colours) >= 4
    for ink, paper in colours:
        bright, dim = sorted((luminance(ink), luminance(paper)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, (ink, paper)


def luminance(colour: str) -> float:
    """Relative, as WCAG 2 defines it, of `rgb(r, g, b)`."""
    shares = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_on_paper_everything_is_open(page: Page) -> None:
    assert page.locator("details:not([open])").count() > 0
    assert page.pdf().startswith(b"%PDF")
    assert page.locator("details:not([open])").count() == 0
