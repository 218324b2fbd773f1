"""The page of a store: histograms, classes and pictures, without network."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.commands import call
from tests.train.conftest import CLASSES, make_clip_store

from resact.cache.store import ClipStore
from resact.cache.summary import summarise
from resact.errors import UsageError
from resact.train.report import store_page as module
from resact.train.report.charts import histogram
from resact.train.report.store_page import store_page


@pytest.fixture(scope="module")
def page(clip_store: ClipStore) -> str:
    return store_page(clip_store, summarise(clip_store))


def test_it_shows_each_class_and_needs_no_network(page: str) -> None:
    pictures = re.findall(r'<img src="data:image/jpeg;base64,(.*?)" width="(.*?)" height="(.*?)" alt="(.*?)">', page)
    assert [re.findall(r"videos of (\w+),", words) for *_, words in pictures] == [[name] for name in CLASSES]
    for data, width, height, _ in pictures:
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            assert picture.size == (int(width), int(height))
    assert "://" not in "".join(re.findall(r"<[a-z][^>]*>", page))
    assert "default-src 'none'" in page
    assert "12 in 3 classes" in page


def test_histograms_count_every_video_with_frames(page: str) -> None:
    for caption in ("Lengths.", "Frame rates of the sources.", "Sizes of the source files.", "Long side of the stored"):
        assert caption in page
    lengths = page[page.index('aria-label="Lengths"') :].partition("</svg>")[0]
    assert sum(int(count) for count in re.findall(r" s: (\d+) videos", lengths)) == 12


def test_classes_are_a_table_with_their_sides(page: str) -> None:
    text = re.sub(r"<[^>]+>", " ", page[page.index("<tbody") : page.index("</tbody")])
    assert [line.split()[:4] for line in text.splitlines() if line.strip()] == [
        [name, "4", "3", "1"] for name in CLASSES
    ]


def test_names_are_escaped(tmp_path: Path) -> None:
    store = make_clip_store(tmp_path / "<b>&.zarr", [9, 9, 9])
    text = store_page(store, summarise(store) | {"dataset": "<script>alert(1)</script>"})
    assert "<script>alert" not in text
    assert "&lt;b&gt;&amp;.zarr" in text


def test_many_problems_are_cut_and_said_to_be(clip_store: ClipStore) -> None:
    failed = [{"video_id": f"video {number}", "problem": "empty"} for number in range(80)]
    text = store_page(clip_store, summarise(clip_store) | {"failed": failed})
    assert "video 48: empty" in text
    assert "video 49: empty" not in text
    assert "and 31 more: <code>resact info</code> lists all" in text


def test_of_many_classes_fewer_videos_each(clip_store: ClipStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MANY", 2)
    text = store_page(clip_store, summarise(clip_store))
    assert text.count("Frames of 2 videos of") == 3


def test_bins_of_a_histogram() -> None:
    drawn = histogram("Lengths", "s", [0, 1, 2.5, 4], [3, 0, 1])
    assert re.findall(r"<title>(.*?)</title>", drawn) == ["0 to 1 s: 3 videos", "2.5 to 4 s: 1 videos"]
    heights = [float(height) for height in re.findall(r'height="([\d.]+)"', drawn)]
    assert heights[0] == pytest.approx(3 * heights[1], abs=0.2)
    ticks = re.findall(r'text-anchor="end">([^<]*)<', histogram("Lengths", "s", [0, 1, 2], [12, 1]))
    assert ticks == ["0", "5", "10", "15", "s"], "videos are whole"
    single = np.histogram([5.0], 20)
    assert "5" in histogram("Lengths", "s", single[1].tolist(), single[0].tolist())


def test_the_command_writes_it(clip_store: ClipStore, tmp_path: Path) -> None:
    result = call("info", clip_store.files, "--html", tmp_path / "page.html")
    assert result.exit_code == 0
    assert f"page: {tmp_path / 'page.html'}" in result.stdout
    assert (tmp_path / "page.html").read_text() == store_page(clip_store, summarise(clip_store))
    with pytest.raises(UsageError, match="got --html "):
        call("info", clip_store.files, "--html", tmp_path / "no" / "page.html")
