"""Exports a run's network as one file for other programs: clips of pixels in, logits out, without resact.

Shapes: B clips, N frames read for a clip, T frames of a clip, D height and width, C classes.
"""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from resact.errors import RunError, ToolError, UsageError
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.normalisation import Normalisation
from resact.train.clips.sampling import Clip
from resact.train.clips.transform import make_clip
from resact.train.runs.files.atomic_write import put_in_place
from resact.train.runs.testing.trained import TrainedRun

InputDtype = Literal["uint8", "float32"]

_BATCHES = (1, 3)  # that the file is tried with; it is made with one of another size
_TRACED_BATCH = 2
_TOLERANCE = 1e-3
"""Of the logits' root mean square. On a CPU other libraries' sums differ by 1e-6 of it; a wrong file by 1."""

_ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
_DESCRIPTION = "resact"  # where a file says what it is


class PixelNetwork(nn.Module):
    """A network that includes the steps of `make_clip` after the resize: residual frames and normalisation."""

    def __init__(self, network: nn.Module, geometry: ClipGeometry, normalisation: Normalisation) -> None:
        super().__init__()
        self.network, self._geometry = network, geometry
        for stream in geometry.streams:
            for name, values in zip(("scale", "shift"), normalisation.scale_and_shift(stream), strict=True):
                self.register_buffer(f"{stream}_{name}", torch.tensor(values).view(3, 1, 1, 1))

    def forward(self, clips: Tensor) -> Tensor:
        """(B, 3, N, D, D) pixels from 0 to 255 -> (B, C) logits."""
        pixels, geometry = clips.float(), self._geometry
        inputs = {}
        if "rgb" in geometry.streams:
            inputs["rgb"] = self._normalised("rgb", pixels[:, :, : geometry.frames])
        if "residual" in geometry.streams:
            # The same as in 8 bits: whole numbers of this size are exact.
            residual = (pixels[:, :, geometry.step :] - pixels[:, :, : -geometry.step]).abs()
            inputs["residual"] = self._normalised("residual", residual)
        logits: Tensor = self.network(**inputs)
        return logits

    def _normalised(self, stream: str, pixels: Tensor) -> Tensor:
        scaled: Tensor = pixels * getattr(self, f"{stream}_scale") + getattr(self, f"{stream}_shift")
        return scaled


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The exported file."""

    input_shape: str
    """`(B, 3, N, D, D)` with the numbers of the run."""
    output_shape: str
    largest_difference: float
    """Largest difference of a logit from the run's own in float32, relative to the logits' root mean square."""
    description: dict[str, Any]
    """Description of the run and its clips, as stored in the file."""
    notes: list[str]

    @property
    def batches_in_words(self) -> str:
        """The batch sizes that were tried, in words."""
        return " and ".join(map(str, _BATCHES))


def require_export_file(path: Path) -> None:
    """Refuse a file that cannot be exported, before any work.

    Raises:
        UsageError: its ending names no format.
        ToolError: a package for it is missing.
    """
    if path.suffix not in _FORMATS:
        raise UsageError(f"got --output {path}, expected a name that ends in {' or '.join(_FORMATS)}")
    if path.suffix == ".onnx" and (missing := [name for name in _ONNX_PACKAGES if find_spec(name) is None]):
        raise ToolError(
            f"a .onnx file needs {', '.join(_ONNX_PACKAGES)}: `pip install {' '.join(missing)}`, "
            "or name a file that ends in .pt2"
        )


def export_run(trained: TrainedRun, path: Path, *, input_dtype: InputDtype = "uint8") -> Exported:
    """Export the run's network in float32; the file gets its name only if its logits equal the run's.

    Args:
        trained: the run, on the CPU.
        path: `.onnx` or `.pt2`; an existing file is replaced.
        input_dtype: dtype of the pixels, which go from 0 to 255 in either.

    Raises:
        UsageError: the ending names no format.
        ToolError: a package for it is missing.
        RunError: the network cannot be exported, or the file does not give the run's logits.
        RunWriteError: the file could not be written.
    """
    require_export_file(path)
    geometry = trained.geometry
    network = PixelNetwork(trained.network, geometry, trained.normalisation).eval()
    clips = {count: _drawn_clips(geometry, count) for count in (*_BATCHES, _TRACED_BATCH)}
    description = _description(trained, input_dtype)
    write, load = _FORMATS[path.suffix]
    with put_in_place(path, what_next="and run `resact export` again") as attempt:
        with _quiet(), _failure_as_error(trained.name, path.suffix):
            write(_program(network, clips[_TRACED_BATCH].to(_DTYPES[input_dtype])), attempt, description)
            compute = load(attempt)
            made = {count: compute(clips[count].to(_DTYPES[input_dtype])) for count in _BATCHES}
        largest = max(_difference(trained, clips[count], made[count]) for count in _BATCHES)
    frames, size = geometry.frames_read, geometry.size
    return Exported(
        input_shape=f"(B, 3, {frames}, {size}, {size})",
        output_shape=f"(B, {len(trained.classes)})",
        largest_difference=largest,
        description=description,
        notes=["the file computes in float32, the run was trained in bfloat16"] if trained.record.config.amp else [],
    )


def _difference(trained: TrainedRun, clips: Tensor, made: Tensor) -> float:
    """The largest difference of a logit from the run's own, whose clips go the way of evaluation; see `Exported`.

    Raises:
        RunError: it is not that of rounding.
    """
    config = replace(trained.record.config, amp=False)
    in_float32 = replace(trained, record=replace(trained.record, config=config))
    expected = in_float32.logits(_as_in_evaluation(trained, clips))
    if made.shape != expected.shape:
        raise RunError(
            f"{trained.name}: the exported network's logits are {tuple(made.shape)}, the run's "
            f"{tuple(expected.shape)}: nothing was written; try the other format, .onnx or .pt2"
        )
    largest = float((made - expected).abs().max() / expected.square().mean().sqrt())
    if not largest <= _TOLERANCE:
        raise RunError(
            f"{trained.name}: the exported network's logits differ from the run's by up to {largest:.2g} of their root "
            f"mean square, expected {_TOLERANCE:g} at most: nothing was written; try the other format, .onnx or .pt2"
        )
    return largest


def _as_in_evaluation(trained: TrainedRun, clips_BCNDD: Tensor) -> dict[str, Tensor]:
    geometry = trained.geometry
    clip = Clip(
        video_index=0,
        start=0,
        stop=geometry.frames_read,
        order=np.arange(geometry.frames_read),
        top=0,
        left=0,
        side=geometry.size,
        flip=False,
    )
    frames_BNDDC = clips_BCNDD.permute(0, 2, 3, 4, 1).contiguous()
    made = [make_clip(frames, clip, geometry, trained.normalisation) for frames in frames_BNDDC]
    return {name: torch.stack([one[name] for one in made]) for name in geometry.streams}


def _drawn_clips(geometry: ClipGeometry, count: int) -> Tensor:
    shape = (count, 3, geometry.frames_read, geometry.size, geometry.size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


def _description(trained: TrainedRun, input_dtype: InputDtype) -> dict[str, Any]:
    """What whoever runs the file has to know."""
    geometry = trained.geometry
    frames, size = geometry.frames_read, geometry.size
    return {
        "run": trained.name,
        "weights": trained.weights,
        "weights_sha256": trained.weights_sha256,
        "epoch": trained.header.epoch,
        "classes": list(trained.classes),
        "input": f"clips: {input_dtype} (B, 3, {frames}, {size}, {size}), RGB, 0 to 255",
        "output": f"logits: float32 (B, {len(trained.classes)}), before the softmax",
        "fps": trained.record.store.settings.decode.fps,
        "geometry": asdict(geometry),
        "normalisation": asdict(trained.normalisation),
    }


def _program(network: PixelNetwork, clips: Tensor) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(network, (clips,), dynamic_shapes=({0: torch.export.Dim("batch")},))


def _write_pt2(program: torch.export.ExportedProgram, path: Path, description: dict[str, Any]) -> None:
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={_DESCRIPTION: json.dumps(description)})


def _load_pt2(path: Path) -> Callable[[Tensor], Tensor]:
    with path.open("rb") as file:
        module = torch.export.load(file).module()

    def compute(clips: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = module(clips)
        return logits

    return compute


def _write_onnx(program: torch.export.ExportedProgram, path: Path, description: dict[str, Any]) -> None:
    made = torch.onnx.export(program, dynamo=True, input_names=["clips"], output_names=["logits"], verbose=False)
    assert made is not None
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in description.items()}
    made.model.metadata_props.update(texts)
    made.save(path, external_data=False)


def _load_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnx
    import onnxruntime

    onnx.checker.check_model(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda clips: torch.from_numpy(session.run(["logits"], {"clips": clips.numpy()})[0])


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters tell their progress, and warn of what is theirs to mend."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@contextmanager
def _failure_as_error(run: str, ending: str) -> Iterator[None]:
    """A network of a user's own may hold what an exporter does not take, and exporters raise anything."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        words = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        other = ".pt2" if ending == ".onnx" else ".onnx"
        raise RunError(
            f"the network of {run} cannot be exported to {ending} ({words}): nothing was written; try {other}, or "
            "take the network from resact.load_run(...).network"
        ) from error


_DTYPES = {"uint8": torch.uint8, "float32": torch.float32}
_Write = Callable[[torch.export.ExportedProgram, Path, dict[str, Any]], None]
_Load = Callable[[Path], Callable[[Tensor], Tensor]]
_FORMATS: dict[str, tuple[_Write, _Load]] = {".onnx": (_write_onnx, _load_onnx), ".pt2": (_write_pt2, _load_pt2)}
