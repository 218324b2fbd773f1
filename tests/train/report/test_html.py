"""The page as text: whole, escaped, and without a need for the network."""

import base64
import re
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from tests.train.conftest import make_clip_store
from tests.train.report.written import CLASSES, write_run

from resact.train.clips.figure import Look, read_excerpt, visible_gain
from resact.train.report.as_html import html
from resact.train.report.charts import (
    Series,
    confusion_matrix,
    curves,
    linear_axis,
    logarithmic_axis,
    scatter,
    whole_axis,
)
from resact.train.report.details import Detail, confusion_words, gain_words, mistake_words, read_detail, residual_gains
from resact.train.report.gallery import gallery
from resact.train.report.paper import PAPER_ROWS
from resact.train.report.report import Report, build_report


def details_of(report: Report) -> list[Detail]:
    """Details of the finished runs of the first data set, the most accurate first."""
    data_set = report.sections[0].data_set
    assert data_set is not None
    return [read_detail(run) for entry in data_set.entries for run in entry.done]


def test_with_no_run_every_row_and_its_command_is_there(tmp_path: Path) -> None:
    page = html(build_report(tmp_path / "none"))
    for row in PAPER_ROWS:
        assert f'<th role="rowheader" scope="row">{row.key.label}</th>' in page
        assert f'<span class="value">{row.top1}</span>' in page
    assert page.count(">not run</span></td>") == len(PAPER_ROWS) + 10
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
    assert [detail.run.folder.name for detail in details_of(report)] == ["residual", "rgb"]
    assert "The residual helps most: A (+100.0 points)" in page
    assert "It harms most: B (-100.0 points)" in page
    assert '<span class="value">-100.0</span></td>' in page
    assert "A is classified as B in 12 of 12 videos." in page


def test_gains_and_confusions_in_words() -> None:
    assert residual_gains([]) == []
    assert list(gain_words([("A", 3.0), ("B", 0.0), ("C", -2.5)])) == [
        "The residual helps most: A (+3.0 points).",
        "It harms most: C (-2.5 points).",
    ]
    assert list(gain_words([])) == []


def test_the_worst_confusions_and_the_surest_mistakes_come_first(tmp_path: Path) -> None:
    write_run(tmp_path, "a", modality="rgb", correct=0.5)
    [detail] = details_of(build_report(tmp_path))
    words = list(confusion_words(detail.scores))
    assert words == [f"{a} is classified as {b} in 12 of 12 videos." for a, b in ("DE", "EF", "FA")]
    words = mistake_words(detail)
    assert len(words) == 5
    scores = detail.predictions.scores.max(1)[36:]
    assert words[0].startswith(f"v{36 + int(scores.argmax()):03} (")
    shares = [int(re.findall(r"(\d+) %\)$", line)[0]) for line in words]
    assert shares == sorted(shares, reverse=True)


def test_the_gallery_shows_videos_of_the_run_right_and_wrong_with_one_gain(tmp_path: Path) -> None:
    store = make_clip_store(tmp_path / "clips.zarr", [12] * 6)
    write_run(tmp_path / "runs", "a", modality="residual", step=2, correct=0.5, clips=store)
    [detail] = details_of(build_report(tmp_path / "runs"))
    shown = gallery([detail])
    assert shown is not None
    assert [item.right for item in shown.items] == [True] * 4 + [False] * 4
    for item in shown.items:
        assert item.video_id in item.words
        assert ("classified as" in item.words) != item.right
    assert [item.words for item in shown.items] == [item.words for item in gallery([detail]).items], "each time"
    look = Look(steps=(2,), frames=6, height=72)
    rows = {store.index.video_index(item.video_id) for item in shown.items}
    gain = visible_gain((read_excerpt(store, row, look), (2,)) for row in rows)
    assert f"{gain:g} times as bright" in shown.note


def test_a_store_that_is_gone_or_another_leaves_a_note(tmp_path: Path) -> None:
    store = make_clip_store(tmp_path / "clips.zarr", [12] * 6)
    write_run(tmp_path / "runs", "a", modality="rgb", clips=store)
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


def test_a_data_set_of_the_users_own_has_its_runs_and_none_of_the_papers_rows(tmp_path: Path) -> None:
    write_run(tmp_path, "mine", modality="residual", correct=0.75, dataset="gestures")
    write_run(tmp_path, "other|<b>", modality="rgb", correct=0.5, dataset="gestures", epoch=1)
    page = html(build_report(tmp_path))
    assert "<title>Runs on gestures</title>" in page
    # In the dark, a stronger colour is a lighter one.
    for foreign in ("ucf101", "UCF101", "arxiv", "not run", "paper's", "80.4", "darker"):
        assert foreign not in page, foreign
    for shown in (
        "75.0",
        "95 % interval",
        "mean class",
        "worst classes: F 0.0 % of 12",
        "stopped",
        "Confusion matrix of",
        "The stronger a cell&#39;s colour, the larger its share",
    ):
        assert shown in page, shown
    assert page.index("gestures, split1") < page.index(">mine<") < page.index("Costs and curves")


@pytest.mark.parametrize(
    ("partial", "first"), [(None, "tables"), ("not the whole of ucf101: 6 of 101 classes", "runs")]
)
def test_on_a_part_of_the_papers_data_set_the_runs_come_before_its_tables(
    tmp_path: Path, partial: str | None, first: str
) -> None:
    write_run(tmp_path, "mine", modality="residual", partial=partial)
    page = html(build_report(tmp_path))
    places = {"tables": page.index('aria-label="Table 2'), "runs": page.index('aria-label="Runs side by side"')}
    assert min(places, key=lambda name: places[name]) == first
    assert "arxiv" in page


def test_a_comparison_that_was_asked_for_comes_first(tmp_path: Path) -> None:
    write_run(tmp_path, "a", modality="rgb", correct=0.25, dataset="gestures")
    write_run(tmp_path, "b", modality="residual", correct=0.75, dataset="gestures")
    page = html(build_report(tmp_path, compare=(["b"], ["a"])))
    assert page.index("b minus a, points of top-1") < page.index("<h2>gestures, split1")
    assert "b is better at: C (+100.0 points)" in page


def test_a_point_without_neighbours_is_drawn_as_a_dot() -> None:
    """Such as the only epoch so far: a line through one point is invisible."""
    drawn = curves("t", "epoch", "loss", [Series(label="a", xs=[1], ys=[2.0])])
    assert drawn.count("<circle") == 1
    [x] = re.findall(r'<circle class="f0" cx="([\d.]+)"', drawn)
    assert 250 < float(x) < 400, "in the middle"
    assert re.findall(r'text-anchor="middle">([^<]*)<', drawn) == ["1"], "its epoch is the only tick"
    broken = curves("t", "epoch", "loss", [Series(label="a", xs=[1, 2, 3, 4, 5], ys=[1.0, None, 3.0, 4.0, 5.0])])
    assert broken.count("<circle") == 1


@pytest.mark.parametrize("last", [2, 3, 7, 20, 100, 101])
def test_epochs_have_whole_ticks(last: int) -> None:
    axis = whole_axis([1, last], 10, 110)
    assert 2 <= len(axis.ticks) <= 8
    assert all(tick == int(tick) and 1 <= tick <= last for tick in axis.ticks)
    assert (axis.at(1), axis.at(last)) == (10, 110)


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
    assert "a: 2 of 2 correct" in matrix
    assert "b: 1 of 4 classified as a" in matrix
    assert matrix.count('class="heat"') == 3
