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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`own.html` of a user's videos, `paper.html` of a part of UCF101, `begun.html` of one epoch, `asked.html`."""
    path = tmp_path_factory.mktemp("page")
    store = make_clip_store(path / "clips.zarr", [12] * 6)
    for name, given in (("own", {"clips": store}), ("paper", {"partial": "not the whole of ucf101: 6 of 101 classes"})):
        runs = path / name
        write_run(runs, "rgb", modality="rgb", correct=0.4 if name == "own" else 0.1, **given)
        for step, correct in ((1, 0.7), (2, 0.6)):
            write_run(runs, f"residual-{step}", modality="residual", step=step, correct=correct, **given)
        write_run(runs, "third-step-and-a-name-that-is-long", modality="residual", step=3, correct=0.5, **given)
        write_run(runs, "begun", modality="both", network="3d-resnet50", epoch=1, **given)
    begun = write_run(path / "begun", "one", modality="rgb", epoch=1, clips=store)
    first = [line for line in begun.metrics.read_text().splitlines() if '"epoch": 0' in line]
    begun.metrics.write_text("\n".join(first) + "\n")
    for name in ("own", "paper", "begun"):
        (path / f"{name}.html").write_text(html(build_report(path / name)), encoding="utf-8")
    asked = build_report(path / "own", compare=(["rgb"], ["residual-1"]))
    (path / "asked.html").write_text(html(asked), encoding="utf-8")
    return path


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def page(browser: Browser, folder: Path, said: list[str], request: pytest.FixtureRequest) -> Iterator[Page]:
    given = {"name": "own", "viewport": {"width": 1280, "height": 800}, **getattr(request, "param", {})}
    name = given.pop("name")
    context = browser.new_context(**given)
    context.set_default_timeout(1000 * PATIENCE_SECONDS)
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith(("data:", "file:")) else said.append(asked.url))
    page.goto((folder / f"{name}.html").as_uri())
    yield page
    context.close()
    assert said == [], "the console, or the network, was used"


def column(page: Page, place: int, table: int = 0) -> list[str]:
    """A column of one of the tables."""
    return page.locator("table.sortable").nth(table).locator(f"tbody tr > :nth-child({place})").all_inner_texts()


def test_the_tables_are_there_and_sort_by_a_click(page: Page) -> None:
    assert page.locator("table").count() == 3
    assert page.locator("img").count() == 16
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert column(page, 4) == ["70.8", "61.1", "50.0", "40.3", "stopped"], "the most accurate first"
    heading = page.locator("table.sortable thead th").nth(3)
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    heading.get_by_role("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert column(page, 4) == ["40.3", "50.0", "61.1", "70.8", "stopped"], "what is no number stays at the end"
    name = page.locator("table.sortable thead th").first
    name.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") is None
    assert column(page, 1) == sorted(column(page, 1), key=str.lower, reverse=True)


@pytest.mark.parametrize("page", [{"name": "paper"}], indirect=True, ids=str)
def test_names_with_digits_sort_as_words_and_a_p_below_a_limit_is_a_number(page: Page) -> None:
    for table, place, least in ((0, 2, "3D-R50"), (1, 5, "< 0.001")):
        button = page.locator("table.sortable").nth(table).locator(f"th:nth-child({place}) button")
        button.click()
        assert column(page, place, table)[-1] == least
        button.click()
        assert column(page, place, table)[0] == least


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


PAGES = [{"name": name} for name in ("own", "paper", "begun", "asked")]


HIDDEN = """() => [...document.querySelectorAll('main *')]
    .filter((e) => e.getClientRects().length && !e.closest('svg'))
    .filter((e) => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== 'inline'
        || e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1)
    .map((e) => e.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("page", PAGES, indirect=True, ids=str)
def test_nothing_hangs_over_the_edge_and_on_a_phone_nothing_is_scrolled_sideways(page: Page) -> None:
    """Checks tables, commands and charts for parts that are cut off or, on a phone, need a scroll bar."""
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    for width in (1280, 768, 360, 320):
        page.set_viewport_size({"width": width, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
        assert page.evaluate("[...document.querySelectorAll('svg, img')].every((e) => e.clientWidth <= innerWidth)")
        assert width > 360 or page.evaluate(HIDDEN) == [], width
    said = page.evaluate(
        "[...document.querySelectorAll('td')].map((e) => getComputedStyle(e, '::before').content.slice(1, -1))"
    )
    assert all(said), "each cell says its heading"
    assert {"top-1", "95 % interval", "mean class", "G"} <= set(said)


LETTERS = """() => [...document.querySelectorAll('main svg')]
    .filter((svg) => svg.getClientRects().length)
    .flatMap((svg) => {
        const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
        return [...svg.querySelectorAll('text')].map((text) => {
            const at = text.getBoundingClientRect();
            const inside = at.left >= box.left - 1 && at.right <= box.right + 1 && at.top >= box.top - 2;
            return {words: text.textContent, size: parseFloat(getComputedStyle(text).fontSize) * scale, inside};
        });
    })"""


@pytest.mark.parametrize("page", PAGES, indirect=True, ids=str)
def test_letters_in_charts_can_be_read_and_are_not_cut_off(page: Page) -> None:
    for width in (360, 1280):
        page.set_viewport_size({"width": width, "height": 700})
        letters = page.evaluate(LETTERS)
        assert len(letters) > 10
        assert [letter["words"] for letter in letters if letter["size"] < 9] == [], width
        assert [letter["words"] for letter in letters if not letter["inside"]] == [], width


@pytest.mark.parametrize("page", [{"name": "begun"}], indirect=True, ids=str)
def test_the_only_epoch_is_seen_and_read_off(page: Page) -> None:
    dot = page.locator(".wide svg[data-curves] circle").first
    box = dot.bounding_box()
    assert box is not None
    assert box["width"] > 4
    assert "epoch 1 — one: 1.75" in page.locator(".wide output.readout").first.inner_text()


def test_a_name_in_a_legend_shows_its_line_alone(page: Page) -> None:
    figure = page.locator("figure", has=page.locator(".legend")).first
    figure.locator(".legend li").nth(1).hover()
    lit = figure.locator(".wide g.lit")
    assert lit.count() == 1
    assert lit.get_attribute("data-line") == "1"
    page.mouse.move(0, 0)
    assert lit.count() == 0


@pytest.mark.parametrize(
    "page",
    [{"name": name, "color_scheme": scheme} for name in ("paper", "asked") for scheme in ("light", "dark")],
    indirect=True,
    ids=str,
)
def test_words_stand_out_in_light_and_dark(page: Page) -> None:
    """Contrast of 4.5 and more (WCAG AA) for each kind of text."""
    kinds = ["body", "footer p", "small", ".better", ".worse", ".confirmed", ".unresolved", ".undecided", "figcaption"]
    colours = page.evaluate(
        """(kinds) => kinds.map((kind) => document.querySelector(kind)).filter((found) => found)
            .map((found) => [getComputedStyle(found).color, getComputedStyle(document.body).backgroundColor])""",
        kinds,
    )
    assert len(colours) >= 5
    for ink, paper in colours:
        bright, dim = sorted((luminance(ink), luminance(paper)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, (ink, paper)


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as defined by WCAG 2."""
    shares = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_on_paper_everything_is_open(page: Page) -> None:
    assert page.locator("details:not([open])").count() > 0
    assert page.pdf().startswith(b"%PDF")
    assert page.locator("details:not([open])").count() == 0
