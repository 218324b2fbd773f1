"""The page as text: whole, escaped, and without a need for the network."""

import base64
import re
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from tests.train.conftest import make_clip_store
from tests.train.report.written import CLASSES, write_run

from resact.cache.store import open_store
from resact.train.report.as_html import html
from resact.train.report.charts import Series, confusion_matrix, curves, linear_axis, logarithmic_axis, scatter
from resact.train.report.details import confusion_words, gain_words, read_details, residual_gains
from resact.train.report.gallery import gallery
from resact.train.report.paper import PAPER_ROWS
from resact.train.report.report import build_report


def test_with_no_run_every_row_and_its_command_is_there(tmp_path: Path) -> None:
    page = html(build_report(tmp_path / "none"))
    for row in PAPER_ROWS:
        assert f'<th scope="row">{row.key.label}</th>' in page
        assert f'data-value="{row.top1}"' in page
    assert page.count(">not run</td>") == len(PAPER_ROWS) + 10
    assert "resact reproduce" in page
    assert page.count("<pre>resact train ") == 9


def test_it_needs_no_network_and_runs_no_script_but_its_own(tmp_path: Path) -> None:
    write_run(tmp_path, "a", modality="rgb")
    page = html(build_report(tmp_path))
    assert set(re.findall(r'(?:src|href)="([^"#][^"]*)"', page)) == {"https://arxiv.org/abs/2008.01057"}
    assert " style=" not in page
    assert not re.findall(r"<[^>]+\son[a-z]+=", page)
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    for tag in ("style", "script"):
        [text] = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.S)
        assert (
            f"{tag}-src &#39;sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}&#39;"
            in policy.replace("'", "&#39;").replace("&#43;", "+")
        )
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_names_are_text_whatever_they_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = '<script>alert("x")</script>'
    monkeypatch.setattr("tests.train.report.written.CLASSES", (*CLASSES[:-1], evil))
    write_run(tmp_path, "<img src=x onerror=alert(1)>", modality="rgb", epoch=1)
    write_run(tmp_path, "b", modality="rgb", partial=f"not {evil}")
    (tmp_path / "<b>broken").mkdir()
    (tmp_path / "<b>broken" / "config.json").write_text("{}")
    page = html(build_report(tmp_path))
    assert "alert(" in page
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "<b>broken" not in page


def test_classes_that_the_residual_helps_and_harms(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rgb, residual = (rng.random(72) < share for share in (0.4, 0.7))
    rgb[:12], residual[:12] = False, True  # class A
    rgb[12:24], residual[12:24] = True, False  # class B
    write_run(tmp_path, "rgb", modality="rgb", correct=rgb)
    write_run(tmp_path, "residual", modality="residual", correct=residual)
    report = build_report(tmp_path)
    page = html(report)
    details = read_details(report.groups[0].runs)
    assert [detail.run.folder.name for detail in details] == ["rgb", "residual"]
    assert "The residual helps most: A (+100.0 points)" in page
    assert "It harms most: B (-100.0 points)" in page
    assert "<td" in page
    assert 'data-value="-100.0">-100.0</td>' in page
    assert "A is taken for B in 12 of 12 videos." in page


def test_gains_and_confusions_in_words() -> None:
    assert residual_gains({}, ["A"]) == []
    assert list(gain_words([("A", 3.0), ("B", 0.0), ("C", -2.5)])) == [
        "The residual helps most: A (+3.0 points).",
        "It harms most: C (-2.5 points).",
    ]
    assert list(gain_words([])) == []


def test_the_worst_confusions_come_first(tmp_path: Path) -> None:
    write_run(tmp_path, "a", modality="rgb", correct=0.5)
    [detail] = read_details(build_report(tmp_path).groups[0].runs)
    words = list(confusion_words(detail.scores))
    assert words == [f"{a} is taken for {b} in 12 of 12 videos." for a, b in ("DE", "EF", "FA")]


def test_the_gallery_shows_videos_of_the_run_right_and_wrong(tmp_path: Path) -> None:
    make_clip_store(tmp_path / "clips.zarr", [12] * 6)
    store = open_store(tmp_path / "clips.zarr")
    write_run(tmp_path / "runs", "a", modality="residual", correct=0.5, clips=store)
    [detail] = read_details(build_report(tmp_path / "runs").groups[0].runs)
    shown = gallery([detail])
    assert shown is not None
    assert [item.right for item in shown.items] == [True] * 4 + [False] * 4
    for item in shown.items:
        height, width, _ = simplejpeg.decode_jpeg(base64.b64decode(item.jpeg)).shape
        assert (height, width) == (item.height, item.width)
        assert item.video_id in item.words
        assert ("taken for" in item.words) != item.right
    assert shown == gallery([detail]), "the same videos each time"


def test_a_store_that_is_gone_or_another_leaves_a_note(tmp_path: Path) -> None:
    make_clip_store(tmp_path / "clips.zarr", [12] * 6)
    write_run(tmp_path / "runs", "a", modality="rgb", clips=open_store(tmp_path / "clips.zarr"))
    assert html(build_report(tmp_path / "runs")).count("<img") == 8
    (tmp_path / "clips.zarr").rename(tmp_path / "away.zarr")
    page = html(build_report(tmp_path / "runs"))
    assert f"No pictures: no clip store at {tmp_path}/clips.zarr" in page
    assert "<img" not in page
    make_clip_store(tmp_path / "clips.zarr", [13] * 6)
    page = html(build_report(tmp_path / "runs"))
    assert f"No pictures: {tmp_path}/clips.zarr is no longer the store of these runs." in page
    assert "<img" not in page


@pytest.mark.parametrize("values", [[3], [0, 1], [65.3, 85.6], [-1e-3, 2e-3], [99.99, 100], [1, 2, 200]])
def test_axes_hold_their_values_between_round_ticks(values: list[float]) -> None:
    axis = linear_axis(values, 10, 110)
    assert axis.low <= min(values) <= max(values) <= axis.high
    assert 2 <= len(axis.ticks) <= 8
    assert (axis.at(axis.low), axis.at(axis.high)) == (10, 110)
    if min(values) > 0:
        axis = logarithmic_axis(values, 10, 110)
        assert axis.low <= min(values) <= max(values) <= axis.high
        assert all(10 <= axis.at(value) <= 110 for value in values)


def test_charts_leave_out_what_is_no_number_and_escape_words() -> None:
    line = Series(label="<&>", xs=[1, 2, 3, 4], ys=[1.0, None, 3.0, 4.0])
    drawn = curves("t", "epoch", "loss", [line])
    assert "<&>" not in drawn
    assert "&lt;&amp;&gt;" in drawn
    [path] = re.findall(r'class="line k0" d="([^"]+)"', drawn)
    assert path.count("M") == 2
    assert path.count("L") == 1
    points = scatter("t", "x", "y", [line])
    assert points.count("<circle") == 3
    matrix = confusion_matrix("t", ["a", "b"], [[2, 0], [1, 3]])
    assert "a: 2 of 2 right" in matrix
    assert "b: 1 of 4 taken for a" in matrix
    assert matrix.count('class="heat"') == 3
