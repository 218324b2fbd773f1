"""`resact evaluate` and `resact predict`, from real videos to the last line of standard output."""

import csv
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from tests.commands import call, error_of, last_json
from tests.pipeline.conftest import encode, footage
from tests.prepped import at_15_fps, prepped
from tests.train.runs.untrained import untrained_run

from resact.cache.settings import DatasetSettings
from resact.cache.store import ClipStore
from resact.cli import along as along_command
from resact.cli import evaluation
from resact.errors import RunError, RunNotFoundError, SettingsError, StoreNotFoundError, UsageError
from resact.pipeline.datasets.dataset import Dataset, SourceVideo
from resact.pipeline.decoding.binary import find_ffmpeg
from resact.pipeline.job.single_video import single_video_store
from resact.pipeline.job.windows import VideoWindows, Window
from resact.train.runs.testing.evaluate import evaluate_run
from resact.train.runs.testing.fusion import fuse
from resact.train.runs.testing.notes import padding_note
from resact.train.runs.testing.predict import predict_video
from resact.train.runs.testing.predictions import read_predictions
from resact.train.runs.testing.trained import find_run, load_trained

CLASSES = tuple("ABCDEF")
SECONDS = (1.4, 0.4, 1.0, 2.0)  # at 15 fps a clip of 9 frames is longer than the second one


class Workplace:
    """A folder with videos, a store of each codec, and two runs of the lossless one."""

    def __init__(self, root: Path) -> None:
        self.root, self.runs = root, root / "runs"
        self.videos = [root / f"video {number}.avi" for number in range(len(SECONDS))]
        for number, (path, seconds) in enumerate(zip(self.videos, SECONDS, strict=True)):
            encode(footage("bikes" if number % 2 else "carphone_pristine"), path, start=0.3 * number, seconds=seconds)
        self.zstd, self.jpeg = (self._prep(codec) for codec in ("zstd", "jpeg"))
        untrained_run(self.runs / "a", self.zstd, modality="residual", seed=3)
        untrained_run(self.runs / "b", self.zstd, modality="both", seed=4)

    def _prep(self, codec: str) -> ClipStore:
        dataset = DatasetSettings(
            name="clips", videos=9, all_classes=6, classes=CLASSES, splits=("1",), flip_safe=True
        )  # fmt: skip
        videos = tuple(
            SourceVideo(
                video_id=f"v{number}",
                class_name=CLASSES[number],
                label=number,
                group=f"g{number}",
                splits={"1": "test"},
                path=path,
                name=path.name,
            )
            for number, path in enumerate(self.videos)
        )
        whole = Dataset(settings=dataset, videos=videos, missing=(), notes=())
        return prepped(whole, at_15_fps(short_side=32), codec, self.root / f"{codec}.zarr")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks this small only wait for more
    yield Workplace(tmp_path_factory.mktemp("workplace"))
    torch.set_num_threads(threads)


def test_evaluate_prints_figures_and_keeps_logits(place: Workplace) -> None:
    result = call("evaluate", "a", "--runs", place.runs, "--json")
    payload = last_json(result)
    assert len(result.stdout.splitlines()) == 1
    trained = load_trained(find_run("a", place.runs))
    expected = evaluate_run(trained, place.zstd)
    kept = read_predictions(place.runs / "a" / "predictions.npz")
    np.testing.assert_array_equal(kept.logits, expected.logits)
    assert kept.provenance == expected.provenance
    assert kept.logits.shape == (4, 10, 6)
    best = kept.scores.argmax(1)
    assert (payload["videos"], payload["views"]) == (4, 10)
    assert payload["video_top1"] == (best == kept.label).mean()
    assert payload["clip_top1"] == (kept.logits.argmax(2) == kept.label[:, None]).mean()
    assert payload["mean_class"] == (best == kept.label).mean(), "one video each, in four of the six classes"
    for name in ("video_top5", "clip_top5"):
        assert 0 <= payload[name] <= 1
    assert payload["classes"] == list(CLASSES)
    assert [row["videos"] for row in payload["per_class"]] == [1, 1, 1, 1, 0, 0]
    assert np.array(payload["confusion"])[np.arange(4), best].tolist() == [1] * 4
    assert payload["padded_share"] == 0.25
    assert (payload["codec"], payload["differs_from_training"], payload["precision"]) == ("zstd", {}, "float32")
    assert payload["store"] == str(place.root / "zstd.zarr")
    words = " ".join(result.stderr.split())
    for part in (
        f"a: p3d-resnet50, 6 classes of clips; last weights, of epoch 2 of 2; float32 on {trained.device}",
        "4 test videos of clips (1), 10 views, from",
        "25.0% of the clips are longer than their video",
        "note: not the whole of clips: 4 of 9 videos",
        "mean video top-1 class video top-5 clip top-1 clip top-5",
        "note: 6 of 6 classes have fewer than 5 test videos (",
        "most often classified as",
    ):
        assert part in words


def test_views_weights_and_output(place: Workplace, tmp_path: Path) -> None:
    before = (place.runs / "a" / "predictions.npz").exists()
    payload = last_json(
        call("evaluate", place.runs / "a", "--views", 3, "--batch-size", 2, "--threads", 1, "--output",
             tmp_path / "other.npz", "--json")
    )  # fmt: skip
    assert payload["views"] == 3
    assert read_predictions(tmp_path / "other.npz").logits.shape == (4, 3, 6)
    assert (place.runs / "a" / "predictions.npz").exists() == before
    assert "got --weights 'first', expected last or best" in str(
        error_of("evaluate", "a", "--runs", place.runs, "--weights", "first")
    )
    assert "create /nowhere" in str(error_of("evaluate", "a", "--runs", place.runs, "--output", "/nowhere/o.npz"))
    assert "has no best.safetensors" in str(error_of("evaluate", "a", "--runs", place.runs, "--weights", "best"))


def test_another_codec_is_named(place: Workplace, tmp_path: Path) -> None:
    result = call(
        "evaluate", "a", "--runs", place.runs, "--store", place.root / "jpeg.zarr", "--output", tmp_path / "o.npz",
        "--views", 1, "--json",
    )  # fmt: skip
    assert last_json(result)["differs_from_training"]["codec"] == ["zstd", "jpeg"]
    assert "note: --codec: trained on zstd, evaluated on jpeg" in result.stderr


def test_a_store_that_has_moved_or_is_another(place: Workplace, tmp_path: Path) -> None:
    moved = untrained_run(tmp_path / "runs" / "moved", place.zstd)
    text = moved.config.read_text()
    moved.config.write_text(text.replace(str(place.root / "zstd.zarr"), "/nowhere.zarr"))
    error = error_of("evaluate", "--runs", tmp_path / "runs")
    assert isinstance(error, StoreNotFoundError)
    assert "the store of moved is not at /nowhere.zarr any more: say where it is now with --store" in str(error)
    moved.config.write_text(text.replace('"fps": "15"', '"fps": "25"'))
    error = error_of("evaluate", "--runs", tmp_path / "runs", "--store", place.root / "zstd.zarr")
    assert isinstance(error, SettingsError)
    assert "--fps: trained on '25', store has '15'" in str(error)


def test_a_run_that_is_not_done_is_told(place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    untrained_run(tmp_path / "runs" / "early", place.zstd, epoch=1)
    monkeypatch.setattr(evaluation, "_PLAIN_LINE_SECONDS", 0.0)
    result = call("evaluate", "--runs", tmp_path / "runs", "--views", 2)
    assert result.exit_code == 0
    assert "note: its training is not finished" in result.stdout
    assert [line.split(" clips, ")[0] for line in result.stdout.splitlines() if line.endswith(" s left")] == [
        "2 of 8", "4 of 8", "6 of 8", "8 of 8",
    ]  # fmt: skip


def test_two_runs_are_fused_from_disk(place: Workplace, tmp_path: Path) -> None:
    for run in ("a", "b"):
        call("evaluate", run, "--runs", place.runs, "--views", 2 if run == "a" else 3)
    result = call("evaluate", "a", "--runs", place.runs, "--fuse", "b", "--weight", 0.25, "--json")
    payload = last_json(result)
    first, second = (read_predictions(place.runs / run / "predictions.npz") for run in ("a", "b"))
    fused = 0.75 * first.scores + 0.25 * second.scores
    np.testing.assert_array_equal(fuse(first, second, 0.25), fused)
    assert payload["video_top1"] == (fused.argmax(1) == first.label).mean()
    assert np.array(payload["confusion"])[first.label, fused.argmax(1)].tolist() == [1] * 4
    assert (payload["videos"], payload["views"], payload["clip_top1"], payload["clip_top5"]) == (4, None, None, None)
    assert payload["weight"] == 0.25
    assert [(part["run"], part["views"]) for part in payload["fused"]] == [("a", 2), ("b", 3)]
    assert payload["fused"][1]["video_top1"] == (second.scores.argmax(1) == second.label).mean()
    assert "0.75 x a + 0.25 x b" in result.stderr
    assert "trained further" not in result.stderr
    half = last_json(call("evaluate", "a", "--runs", place.runs, "--fuse", "b", "--json"))
    assert half["weight"] == 0.5


def test_fusing_what_was_evaluated_before_more_training_is_told(place: Workplace, tmp_path: Path) -> None:
    folder = untrained_run(tmp_path / "a", place.zstd, seed=1)
    call("evaluate", folder, "--views", 1)
    untrained_run(tmp_path / "b", place.zstd, seed=2).weights("last").replace(folder.weights("last"))
    words = call("evaluate", folder, "--fuse", folder).stdout
    assert f"note: a has been trained further since: `resact evaluate {folder}` evaluates it again" in words


def test_mistakes_with_fuse(place: Workplace, tmp_path: Path) -> None:
    untrained_run(tmp_path / "runs" / "a", place.zstd)
    untrained_run(tmp_path / "runs" / "b", place.zstd)
    arguments = ("evaluate", "a", "--runs", tmp_path / "runs")
    error = error_of(*arguments, "--fuse", "b")
    assert isinstance(error, RunError)
    assert f"make them with `resact evaluate {tmp_path / 'runs' / 'a'}`" in str(error)
    error = error_of(*arguments, "--fuse", "b", "--views", 3, "--store", "x")
    assert isinstance(error, UsageError)
    assert "got --store, --views with --fuse" in str(error)
    assert "got --weight without --fuse" in str(error_of(*arguments, "--weight", 0.5))
    assert isinstance(error_of(*arguments, "--fuse", "c"), RunNotFoundError)


def test_predicted_logits_are_those_of_evaluating_a_lossless_store(place: Workplace) -> None:
    trained = load_trained(find_run("b", place.runs))
    evaluated = evaluate_run(trained, place.zstd)
    for video, path in enumerate(place.videos):
        with single_video_store(path, trained.record.store.settings.decode) as store:
            predicted = predict_video(trained, store)
        np.testing.assert_array_equal(predicted.logits, evaluated.logits[video])


def test_predict_gives_what_evaluating_the_videos_gives(place: Workplace) -> None:
    evaluated = evaluate_run(load_trained(find_run("a", place.runs)), place.zstd)
    payload = last_json(call("predict", *place.videos, "--run", "a", "--runs", place.runs, "--json"))
    assert [row["video"] for row in payload["videos"]] == [str(path) for path in place.videos]
    for row, scores in zip(payload["videos"], evaluated.scores, strict=True):
        best = np.argsort(-scores, kind="stable")[:5]
        assert row["top"] == [{"class_name": CLASSES[c], "probability": scores[c]} for c in best]
        assert (row["status"], row["problem"]) == ("ok", None)
    assert [row["padded"] for row in payload["videos"]] == [False, True, False, False]


def test_predict_sees_the_pixels_of_a_jpeg_store_where_the_run_was_trained_on_one(
    place: Workplace, tmp_path: Path
) -> None:
    trained = load_trained(untrained_run(tmp_path / "runs" / "a", place.jpeg, modality="residual", seed=3))
    scores = evaluate_run(trained, place.jpeg).scores
    assert not np.array_equal(scores, evaluate_run(trained, place.zstd, other_codec=True).scores)
    rows = last_json(call("predict", *place.videos, "--runs", tmp_path / "runs", "--json"))["videos"]
    for row, expected in zip(rows, scores, strict=True):
        assert row["top"][0]["probability"] == expected.max()


def test_one_bad_file_does_not_lose_the_others(place: Workplace, tmp_path: Path) -> None:
    empty, half, still = tmp_path / "empty.avi", tmp_path / "half.avi", tmp_path / "still.avi"
    empty.touch()
    half.write_bytes(place.videos[3].read_bytes()[: place.videos[3].stat().st_size // 2])
    encode(footage("bikes"), still, start=0, seconds=0.04)
    files = [place.videos[0], empty, tmp_path / "missing.avi", half, still, place.videos[2]]
    result = call("predict", *files, "--run", "a", "--runs", place.runs, "--top", 2, "--views", 3, "--json")
    assert result.exit_code == 3
    rows = last_json(result)["videos"]
    assert [row["status"] for row in rows] == ["ok", "failed", "failed", "damaged", "failed", "ok"]
    problems = [row["problem"] for row in rows]
    assert problems[:3] == [None, "the file is empty", "no such file"]
    assert problems[3]
    assert problems[4].startswith("too short: 1 frames, and a residual")
    assert [len(row["top"]) for row in rows] == [2, 0, 0, 2, 0, 2]
    assert f"{empty}: failed: the file is empty" in result.stderr
    assert f"{half}: damaged: " in result.stderr
    alone = call("predict", empty, "--run", "a", "--runs", place.runs)
    assert alone.exit_code == 1
    assert "failed: the file is empty" in alone.stdout


def test_predict_says_what_it_saw(place: Workplace) -> None:
    result = call("predict", place.videos[1], "--run", "a", "--runs", place.runs, "--top", 9)
    assert result.exit_code == 0
    words = " ".join(result.stdout.split())
    num_frames = place.zstd.index.num_frames[1]
    assert num_frames < 9
    assert f"{place.videos[1]}: ok note: its {num_frames} frames are fewer than the 9 of a clip: it is mir" in words
    assert words.count(" % ") == len(CLASSES)
    again = untrained_run(place.root / "older" / "a", place.zstd)
    again.config.write_text(again.config.read_text().replace(f'"ffmpeg": "{find_ffmpeg()[1]}"', '"ffmpeg": "4.2"'))
    result = call("predict", place.videos[0], "--run", again.path)
    assert "but the run's store was made with 4.2" in result.stdout
    assert "got --timeout 0.0" in str(error_of("predict", place.videos[0], "--run", again.path, "--timeout", 0))


def along(place: Workplace, *arguments: object) -> Result:
    return call("predict", *arguments, "--run", "a", "--runs", place.runs)


def test_predict_along_a_video_in_each_format(place: Workplace) -> None:
    files = [place.videos[3], place.videos[1]]
    result = along(place, *files, "--every", "500ms", "--top", 2, "--json")
    payload = last_json(result)
    assert (payload["run"], payload["every_seconds"]) == ("a", 0.5)
    long, short = payload["videos"]
    assert [row["start_seconds"] for row in long["windows"]] == [0, 0.533, 1, 1.467]
    assert [row["stop_seconds"] for row in long["windows"]] == [0.6, 1.133, 1.6, 2.067]
    assert [(video["video"], video["status"], video["problem"]) for video in (long, short)] == [
        (str(path), "ok", None) for path in files
    ]
    assert len(short["windows"]) == 1
    assert (long["note"], short["note"]) == (None, padding_note(load_trained(find_run("a", place.runs)).geometry, 7))
    assert f"{files[1]}: note: its 7 frames are fewer than the 9 of a clip: it is mirrored in time" in result.stderr
    rows = [(str(path), row) for path, video in zip(files, (long, short), strict=True) for row in video["windows"]]
    for row in long["windows"]:
        first, second = row["top"]
        assert 1 >= first["probability"] >= second["probability"] > 0

    lines = along(place, *files, "--every", 0.5, "--top", 2, "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [{"video": video, **row} for video, row in rows]

    table = list(csv.DictReader(along(place, *files, "--every", 0.5, "--format", "csv").stdout.splitlines()))
    assert [(line["video"], float(line["start_seconds"])) for line in table] == [
        (video, row["start_seconds"]) for video, row in rows
    ]
    assert [line["class_1"] for line in table] == [row["top"][0]["class_name"] for _, row in rows]
    assert float(table[0]["probability_2"]) == pytest.approx(rows[0][1]["top"][1]["probability"], rel=1e-5)
    assert "class_5" in table[0]

    said = along(place, *files, "--every", 0.5, "--top", 1)
    words = [" ".join(line.split()) for line in said.stdout.splitlines()]
    shown = [f"{row['top'][0]['probability'] * 100:.2f} % {row['top'][0]['class_name']}" for _, row in rows]
    assert words[0] == str(files[0])
    assert words[2] == f"0:00:00.53 to 0:00:01.13 {shown[1]}"
    assert "a: p3d-resnet50, 6 classes of clips" in said.stderr  # rows have standard output for themselves


def test_predict_along_merges_windows_of_one_class(place: Workplace) -> None:
    arguments = (place.videos[3], "--every", "200ms", "--json")
    windows = last_json(along(place, *arguments))["videos"][0]["windows"]
    segments = last_json(along(place, *arguments, "--merge"))["videos"][0]["segments"]
    assert sum(segment["windows"] for segment in segments) == len(windows)
    assert (segments[0]["start_seconds"], segments[-1]["stop_seconds"]) == (0, 2.067)
    assert [one["stop_seconds"] for one in segments[:-1]] == [one["start_seconds"] for one in segments[1:]]
    names = [one["top"][0]["class_name"] for one in segments]
    assert all(name != following for name, following in pairwise(names))
    lines = along(place, place.videos[3], "--every", "200ms", "--merge", "--format", "csv").stdout.splitlines()
    assert lines[0].startswith("video,start_seconds,stop_seconds,windows,class_1,probability_1,")
    assert len(lines) == 1 + len(segments)


def test_predict_along_keeps_the_rows_of_a_video_that_breaks_off(place: Workplace, tmp_path: Path) -> None:
    half = tmp_path / "half.avi"
    half.write_bytes(place.videos[3].read_bytes()[: place.videos[3].stat().st_size // 2])
    files = [half, tmp_path / "gone.avi", place.videos[2]]
    result = along(place, *files, "--every", 0.2, "--format", "jsonl")
    assert result.exit_code == 3
    videos = [json.loads(line)["video"] for line in result.stdout.splitlines()]
    assert set(videos) == {str(half), str(place.videos[2])}
    assert f"{half}: failed: it breaks off at " in result.stderr
    assert f"{tmp_path / 'gone.avi'}: failed: no such file" in result.stderr
    payload = last_json(along(place, *files, "--every", 0.2, "--merge", "--json"))
    assert [video["status"] for video in payload["videos"]] == ["failed", "failed", "ok"]
    assert payload["videos"][0]["segments"]
    assert along(place, half, "--every", 0.2).exit_code == 1


def test_each_row_leaves_at_once(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader of a pipe gets each row before the next window is decoded."""
    seen: list[tuple[int, int]] = []
    given = VideoWindows.__iter__

    def noting(self: VideoWindows) -> Iterator[Window]:
        for number, window in enumerate(given(self)):
            seen.append((number, len(flushed)))
            yield window

    flushed: list[str] = []
    monkeypatch.setattr(VideoWindows, "__iter__", noting)
    monkeypatch.setattr(along_command, "_flushed_line", flushed.append)
    along(place, place.videos[3], "--every", 0.5, "--format", "jsonl")
    assert seen == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_predict_along_says_how_far_it_is(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(along_command, "_PLAIN_LINE_SECONDS", 0.0)
    result = along(place, place.videos[3], "--every", 0.5)
    told = re.findall(r"video 3\.avi: (0:00:0\d) of 0:00:02, [\d.,]+ times real time, 0:00:\d\d left", result.stderr)
    assert told == ["0:00:01", "0:00:01", "0:00:02", "0:00:02"]


def test_options_of_windows_alone(place: Workplace) -> None:
    video = place.videos[0]
    for options, words in (
        (["--merge"], "got --merge without --every: add it, such as --every 1s"),
        (["--format", "csv"], "got --format without --every"),
        (["--every", "1s", "--views", 3], "got --views with --every"),
        (["--every", "soon"], "got --every 'soon', expected a time above 0"),
        (["--every", "1s", "--format", "xml"], "got --format 'xml', expected one of table, csv, jsonl"),
        (["--every", "1s", "--format", "csv", "--json"], "got --format csv with --json"),
        (["--every", "1ms"], "expected at least a frame"),
    ):
        error = error_of("predict", video, "--run", "a", "--runs", place.runs, *options)
        assert isinstance(error, UsageError)
        assert words in str(error)


def test_without_a_run(tmp_path: Path) -> None:
    for command in (["evaluate"], ["predict", "video.avi"]):
        error = error_of(*command, "--runs", tmp_path)
        assert isinstance(error, RunNotFoundError)
        assert str(error).endswith("train one with `resact train`, or name another --runs")
