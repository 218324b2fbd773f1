"""A run's network as a file, beside the run."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tests.train.conftest import make_clip_store
from tests.train.runs.untrained import untrained_run

from resact.cache.store import ClipStore
from resact.errors import RunError, ToolError, UsageError
from resact.train.clips.dataset import ClipDataset
from resact.train.clips.sampling import TestPlan
from resact.train.runs.testing import export
from resact.train.runs.testing.export import export_run, require_export_file
from resact.train.runs.testing.trained import TrainedRun, load_trained

FILES = {
    "both.onnx": {"modality": "both", "step": 2, "channels_last": True},
    "residual.pt2": {"modality": "residual", "step": 3},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ClipStore:
    """Frames of the clips' size, so that a clip's pixels are the stored ones."""
    return make_clip_store(tmp_path_factory.mktemp("export") / "s.zarr", [14, 20], sizes=((16, 16),))


def open_run(path: Path, store: ClipStore, **settings: Any) -> TrainedRun:
    return load_trained(untrained_run(path, store, seed=3, **settings), device="cpu")


def pixels_and_logits(trained: TrainedRun, store: ClipStore, views: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Stored clips (B, 3, N, D, D), and what evaluation makes of them."""
    plan = TestPlan(store.index, np.arange(2), trained.geometry, views=views)
    clips = [plan.clip(0, position) for position in range(len(plan))]
    frames = np.stack([store.read_frames(clip.video_index, clip.start, clip.stop) for clip in clips])
    dataset = ClipDataset(store, plan, normalisation=trained.normalisation)
    batch = torch.utils.data.default_collate([dataset[position] for position in range(len(plan))])
    return torch.from_numpy(frames).permute(0, 4, 1, 2, 3).contiguous(), trained.logits(batch)


def run_file(path: Path, clips: torch.Tensor) -> torch.Tensor:
    """With nothing of resact."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(clips)
    session = onnxruntime.InferenceSession(path)
    return torch.from_numpy(session.run(None, {"clips": clips.numpy()})[0])


@pytest.mark.parametrize("file", FILES)
def test_the_file_gives_the_runs_logits_of_stored_clips_and_says_what_it_is(
    store: ClipStore, tmp_path: Path, file: str
) -> None:
    trained, path = open_run(tmp_path / "a", store, **FILES[file]), tmp_path / file
    dtype = "float32" if file == "both.onnx" else "uint8"
    exported = export_run(trained, path, input_dtype=dtype)
    assert exported.largest_difference < 1e-3
    for views in (1, 4):  # 2 and 8 clips
        clips, expected = pixels_and_logits(trained, store, views)
        made = run_file(path, clips.to(getattr(torch, dtype)))
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)
    assert run_file(path, clips[:1].to(getattr(torch, dtype))).shape == (1, 3)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [file]
    told = description_of(path)
    assert told == json.loads(json.dumps(exported.description))
    assert told["classes"] == list(store.index.classes)
    assert told["geometry"] == asdict(trained.geometry)
    frames = trained.geometry.frames_read
    assert told["input"] == f"clips: {dtype} (B, 3, {frames}, 16, 16), RGB, 0 to 255"
    assert told["weights_sha256"] == trained.weights_sha256
    assert (exported.input_shape, exported.output_shape) == (f"(B, 3, {frames}, 16, 16)", "(B, 3)")


def description_of(path: Path) -> dict[str, Any]:
    if path.suffix == ".pt2":
        extra = {"resact": ""}
        torch.export.load(path, extra_files=extra)
        return json.loads(extra["resact"])
    entries = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    plain = {"run", "weights", "weights_sha256", "input", "output", "fps"}
    return {name: value if name in plain else json.loads(value) for name, value in entries.items()}


class Own(torch.nn.Module):
    """A network of a user's own: the mean of each colour."""

    def forward(self, *, rgb: torch.Tensor) -> torch.Tensor:
        return rgb.mean(dim=(2, 3, 4))


@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_an_own_network_in_bfloat16_is_exported_in_float32_and_that_is_told(
    store: ClipStore, tmp_path: Path, ending: str
) -> None:
    trained = replace(open_run(tmp_path / "a", store, amp=True, modality="rgb"), network=Own())
    exported = export_run(trained, tmp_path / f"model.{ending}")
    assert exported.notes == ["the file computes in float32, the run was trained in bfloat16"]
    clips = torch.randint(0, 256, (4, 3, 8, 16, 16), dtype=torch.uint8)
    mean_C, std_C = (torch.tensor(x) for x in (trained.normalisation.rgb_mean, trained.normalisation.rgb_std))
    expected = (clips.float().mean(dim=(2, 3, 4)) - mean_C) / std_C
    torch.testing.assert_close(run_file(tmp_path / f"model.{ending}", clips), expected)


class Wrong(torch.nn.Module):
    """Another network, once it is exported."""

    def forward(self, *, residual: torch.Tensor) -> torch.Tensor:
        sums = residual.mean(dim=(2, 3, 4))
        return sums * 2 if torch.compiler.is_exporting() else sums


class OfAnotherShape(torch.nn.Module):
    def forward(self, *, residual: torch.Tensor) -> torch.Tensor:
        sums = residual.mean(dim=(2, 3, 4))
        return sums[:, :2] if torch.compiler.is_exporting() else sums


class Unexportable(torch.nn.Module):
    def forward(self, *, residual: torch.Tensor) -> torch.Tensor:
        raise KeyError("rows\nand more")


def test_a_file_that_gives_other_logits_is_not_put_in_place(store: ClipStore, tmp_path: Path) -> None:
    trained = replace(open_run(tmp_path / "a", store), network=Wrong())
    path = tmp_path / "model.pt2"
    path.write_bytes(b"before")
    with pytest.raises(
        RunError, match=r"a: the exported network's logits differ from the run's by up to 1.* of their root"
    ):
        export_run(trained, path)
    with pytest.raises(RunError, match=r"the exported network's logits are \(1, 2\), the run's \(1, 3\)"):
        export_run(replace(trained, network=OfAnotherShape()), path)
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [path.name]


def test_a_network_that_cannot_be_exported(store: ClipStore, tmp_path: Path) -> None:
    trained = replace(open_run(tmp_path / "a", store), network=Unexportable())
    with pytest.raises(RunError, match=r"the network of a cannot be exported to .onnx \([^\n]*\): nothing was written"):
        export_run(trained, tmp_path / "model.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_files_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"got --output model.pth, expected a name that ends in .onnx or .pt2"):
        require_export_file(Path("model.pth"))
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(ToolError, match=r"`pip install onnxruntime`, or name a file that ends in .pt2"):
        require_export_file(Path("model.onnx"))
    require_export_file(Path("model.pt2"))
