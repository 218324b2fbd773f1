"""`--init-from`, `--freeze` and `--head-lr-factor`."""

import json
import pickle
import re
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tests.train.runs.conftest import SMALL, assert_same_weights, build_store, said_by, weights_of
from tests.train.runs.untrained import untrained_run
from torch import nn
from typer.testing import CliRunner

from resact.cache.store import open_store
from resact.cli import app
from resact.errors import CheckpointError, UsageError
from resact.train.networks.models import build_model
from resact.train.runs.distributed import Ranks
from resact.train.runs.execution import build_network
from resact.train.runs.files.checkpoint import Checkpoints
from resact.train.runs.files.config import RunConfig
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.files.record import InitialWeights, RunRecord
from resact.train.runs.files.tensors import read_header
from resact.train.runs.training.fine_tuning import initial_weights, load_initial, optimiser_for, said_of
from resact.train.runs.training.step import TrainStep

NETWORK = {name: SMALL[name] for name in ("width", "depths", "frames", "size")}
OTHERS = ("Dive", "Run", "Swim")


@pytest.fixture(scope="module")
def source(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of three classes, whose norms have statistics."""
    return untrained_run(
        tmp_path_factory.mktemp("source") / "pre", open_store(tiny_store), modality="rgb", **NETWORK, epoch=2
    )


def begun(source: Path | str, classes: tuple[str, ...], **settings) -> tuple[nn.Module, nn.Module, InitialWeights]:
    """A network as it is drawn, the same with the weights of `source`, and what the record says of that."""
    settings = {"modality": "rgb", **NETWORK, **settings, "init_from": str(source)}
    config = RunConfig.of(settings).for_classes(len(classes))
    initial = initial_weights(config, Path("nowhere"), classes)
    assert initial is not None
    drawn, network = build_network(config), build_network(config)
    network.load_state_dict(drawn.state_dict())
    load_initial(initial, network, classes)
    return drawn, network, initial


def test_all_tensors_of_the_same_classes_are_taken(source, tiny_store):
    classes = open_store(tiny_store).index.classes
    _, network, initial = begun(source.path, classes)
    theirs = weights_of(source.path)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in network.state_dict().items())
    digest = sha256(source.weights("last").read_bytes()).hexdigest()
    assert (initial.source, initial.sha256, initial.epoch) == (str(source.weights("last")), digest, 2)
    assert (initial.dataset, initial.split, initial.taken) == ("tiny", "split1", len(theirs))
    assert (initial.copied, initial.fresh, initial.unused) == ({}, (), ())


@pytest.mark.parametrize("classes", [OTHERS, ("Run", "Jump", "Walk"), OTHERS[:2]])
def test_the_last_layer_of_other_classes_is_drawn_anew(source, classes):
    drawn, network, initial = begun(source.path, classes)
    theirs = weights_of(source.path)
    for name, tensor in network.state_dict().items():
        expected = drawn.state_dict() if name.startswith("fc2") else theirs
        assert torch.equal(tensor, expected[name]), name
    why = "(its classes are others)" if len(classes) == 3 else "(2x128 here, 3x128 there)"
    assert initial.fresh[0] == f"fc2.weight {why}"
    assert len(initial.fresh) == 2


def test_what_differs_in_shape_or_is_nowhere_is_listed_whole(source):
    drawn, network, initial = begun(source.path, OTHERS, depths=(1, 2, 1, 1), attention=False)
    theirs, own = weights_of(source.path), network.state_dict()
    fresh = {words.split(" ")[0] for words in initial.fresh}
    unused = {words.split(" ")[0] for words in initial.unused}
    for name, tensor in own.items():
        assert torch.equal(tensor, (drawn.state_dict() if name in fresh else theirs)[name]), name
    assert fresh == {name for name in own if name.startswith(("res3.1.", "fc2."))}
    assert unused == {name for name in theirs if ".attention." in name}
    assert initial.taken + len(fresh) == len(own)
    said = "\n".join(said_of(initial, "runs/a"))
    assert all(name in said for name in fresh | unused)


def test_conv1_of_a_stream_that_the_weights_lack_takes_that_of_the_other(source):
    drawn, network, initial = begun(source.path, OTHERS, modality="residual")
    theirs = weights_of(source.path)
    for name, tensor in network.conv1["residual"].state_dict().items():
        assert torch.equal(tensor, theirs[f"conv1.rgb.{name}"]), name
    assert (initial.copied, initial.unused) == ({"residual": "rgb"}, ())
    assert "conv1 of residual takes that of rgb" in said_of(initial, "runs/a")[1]

    stem = RunConfig.of({"modality": "rgb", **NETWORK}).architecture.stem_channels
    drawn, network, initial = begun(source.path, OTHERS, modality="both", stem_channels=stem)
    for stream in ("rgb", "residual"):
        for name, tensor in network.conv1[stream].state_dict().items():
            assert torch.equal(tensor, theirs[f"conv1.rgb.{name}"]), name
    wider = [words for words in initial.fresh if not words.startswith("fc2")]
    assert wider, "res2 reads twice as many channels"
    assert all(words.startswith("res2.0.") for words in wider)
    assert torch.equal(network.res2[0].bottom.conv.weight, drawn.res2[0].bottom.conv.weight)


def test_conv1_of_another_width_and_modality_is_refused(source):
    with pytest.raises(
        UsageError,
        match=r"weights for rgb, and the network takes residual and rgb: got conv1.rgb.* of 8x.*, expected 4x.*"
        r"Train with the modality of the weights, or with their --stem-channels",
    ):
        begun(source.path, OTHERS, modality="both")


def test_weights_of_another_program_are_taken_as_they_are_named(source, tmp_path):
    theirs = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in weights_of(source.path).items()
    }
    theirs["extra"] = torch.zeros(2, 3)
    file = tmp_path / "theirs.safetensors"
    safetensors.torch.save_file(theirs, file)
    _, network, initial = begun(file, OTHERS)
    assert (initial.epoch, initial.dataset, initial.fresh, initial.unused) == (None, None, (), ("extra (2x3)",))
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, theirs[name].to(tensor.dtype)), name


def damaged(source: RunFolder, tmp_path: Path, how: str) -> Path:
    file = tmp_path / "damaged.safetensors"
    content = source.weights("last").read_bytes()
    tensors = weights_of(source.path)
    match how:
        case "cut":
            file.write_bytes(content[: len(content) // 2])
        case "flipped":
            middle = len(content) // 2
            file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        case "pickled":
            file.write_bytes(pickle.dumps(print))
        case "empty":
            file.write_bytes(b"")
        case "others":
            safetensors.torch.save_file({"layer.weight": torch.ones(3)}, file)
        case "nan":
            tensors["fc1.weight"][0, 0] = torch.nan
            safetensors.torch.save_file(tensors, file)
        case "half a header":
            safetensors.torch.save_file(tensors, file, {"resact": "{}"})
    return file


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("cut", "damaged.safetensors is damaged or was not written by resact .*name a whole run or .safetensors file"),
        ("flipped", "does not match its checksum: it is damaged; name a whole run"),
        ("pickled", "expected safetensors; no code in it was run; name"),
        ("empty", "expected safetensors"),
        ("others", "has 1 tensors, of which none fits the network .*--network, --width and --depths"),
        ("nan", "has values in fc1.weight that are no numbers"),
        ("half a header", "was not written by resact: its header lacks"),
        (
            "missing",
            r"got --init-from .*damaged.safetensors, expected a run or a .safetensors file: nowhere holds no runs",
        ),
    ],
)
def test_weights_that_cannot_be_used_are_one_error(source, tmp_path, how, words):
    with pytest.raises((CheckpointError, UsageError), match=words):
        begun(damaged(source, tmp_path, how), OTHERS)


def test_a_run_without_weights_is_told(source, tmp_path):
    shutil.copytree(source.path, tmp_path / "pre")
    (tmp_path / "pre" / "last.safetensors").unlink()
    with pytest.raises(UsageError, match="pre, which has no weights yet"):
        begun(tmp_path / "pre", OTHERS)


FROZEN = {"freeze": ("conv1", "res2"), "modality": "rgb", "epochs": 2}


def test_a_fine_tuned_run_goes_on_exactly_without_its_source(source, train_tiny, train_cut, tmp_path):
    """Frozen parts are as they were to the bit, statistics of their norms included; the others are not."""
    shutil.copytree(source.path, tmp_path / "runs" / "pre")
    train_tiny("whole", init_from="pre", **FROZEN)
    cut = train_cut("cut", init_from="pre", **FROZEN)
    record = cut.read_record()
    assert record.initial is not None
    assert record.initial.sha256 == sha256(source.weights("last").read_bytes()).hexdigest()
    assert RunRecord.from_text(record.to_text(), "") == record
    shutil.rmtree(tmp_path / "runs" / "pre")
    train_tiny("cut", resume=True)
    assert_same_weights(cut.path, tmp_path / "runs" / "whole")
    before, after = weights_of(source.path), weights_of(cut.path)
    kept = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    assert kept == {name for name in after if name.startswith(("conv1.", "res2."))}
    with pytest.raises(UsageError, match=r"--init-from: 'pre', asked for 'other'"):
        train_tiny("cut", resume=True, init_from="other")
    with pytest.raises(UsageError, match=r"--freeze: \('conv1', 'res2'\), asked for \('conv1',\)"):
        train_tiny("cut", resume=True, freeze="conv1")


def test_killed_before_its_first_step_it_begins_with_the_same_weights_or_says_why_not(
    source, train_tiny, tmp_path, monkeypatch
):
    shutil.copytree(source.path, tmp_path / "runs" / "pre")
    weights = tmp_path / "runs" / "pre" / "last.safetensors"

    class Kill(BaseException):
        """Which nothing catches, so that all stays as it is."""

    def killed(*_):
        raise Kill

    train_tiny("whole", init_from="pre", modality="rgb", epochs=1)
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "restore", killed)  # the first checkpoint is there
        with pytest.raises(Kill):
            train_tiny("a", init_from="pre", modality="rgb", epochs=1)
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", killed)  # it is not
        with pytest.raises(Kill):
            train_tiny("b", init_from="pre", modality="rgb", epochs=1)
    content = weights.read_bytes()
    weights.unlink()
    assert read_header(tmp_path / "runs" / "a" / "last.ckpt")["step"] == 0
    train_tiny("a", resume=True)
    assert_same_weights(tmp_path / "runs" / "a", tmp_path / "runs" / "whole")
    with pytest.raises(CheckpointError, match=r"last.safetensors cannot be read .*the run begins with its weights"):
        train_tiny("b", resume=True)
    weights.write_bytes((tmp_path / "runs" / "whole" / "last.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"last.safetensors has changed: its sha256 was"):
        train_tiny("b", resume=True)
    weights.write_bytes(content)
    train_tiny("b", resume=True)
    assert_same_weights(tmp_path / "runs" / "b", tmp_path / "runs" / "whole")


def test_a_false_start_leaves_no_first_checkpoint(source, train_tiny, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no memory left")

    with monkeypatch.context() as patched:
        patched.setattr(TrainStep, "__call__", fails)
        with pytest.raises(RuntimeError, match="no memory left"):
            train_tiny(init_from=str(source.path), modality="rgb", epochs=1)
    assert not (tmp_path / "runs" / "a").exists()


def test_what_is_wrong_is_said_before_any_work(source, train_tiny, tmp_path):
    for wrong, words in (
        ({"freeze": ("conv7",)}, "which matches no module"),
        ({"init_from": "nothing"}, "got --init-from nothing, expected a run or"),
        ({"init_from": str(source.path), "modality": "both"}, "Train with the modality of the weights"),
    ):
        with pytest.raises(UsageError, match=words):
            train_tiny(**wrong)
        assert not (tmp_path / "runs" / "a").exists()


def test_another_split_of_the_same_data_set_is_warned_of(source, train_tiny):
    for split, warned in (("split1", False), ("split2", True)):
        said = said_by(train_tiny, split, init_from=str(source.path), modality="rgb", epochs=1, split=split)
        words = "trained on split1 of tiny, whose training videos may be among the test videos of split2"
        assert (words in said) == warned


def test_the_last_layers_learning_rate_is_larger_by_its_factor(tiny_store):
    """Of one step without momentum and decay, which is the gradient times the learning rate."""
    settings = {**NETWORK, "momentum": 0, "weight_decay": 0, "kernels": "eager", "amp": False, "dropout": 0}
    moved = {}
    for factor in (1, 8):
        config = RunConfig.of(settings | {"head_lr_factor": factor}).for_classes(3)
        torch.manual_seed(0)
        network = build_network(config)
        before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        alone = Ranks(rank=0, world_size=1, device=torch.device("cpu"))
        step = TrainStep(config, network, optimiser_for(network, config), alone)
        batch = {"residual": torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(1))}
        step(batch | {"label": torch.tensor([0, 2])}, clips=2, lr=0.5, seed=0)
        moved[factor] = {name: parameter.detach() - before[name] for name, parameter in network.named_parameters()}
    for name, one in moved[1].items():
        factor = 8 if name.startswith("fc2.") else 1
        torch.testing.assert_close(moved[8][name], factor * one, rtol=1e-3, atol=1e-6, msg=name)
    assert moved[1]["fc2.weight"].abs().max() > 1e-3


def test_a_network_without_a_last_layer_has_no_factor():
    config = RunConfig.of({**NETWORK, "head_lr_factor": 2}).for_classes(7)
    with pytest.raises(UsageError, match=r"got --head-lr-factor 2, but no linear layer .* has 7 outputs"):
        optimiser_for(build_model(modality="residual", num_classes=3, width=1 / 16, depths=(1, 1, 1, 1)), config)


def test_from_the_command_line_to_the_record(source, tmp_path):
    """Four classes, of which the run knows none; patterns with commas and repeated."""
    store = build_store(tmp_path / "four.zarr", classes=("A", "B", "C", "D"))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('freeze = ["conv1"]\nmodality = "rgb"\nwidth = 0.0625\ndepths = [1, 1, 1, 1]\n')
    words = ["train", "--store", store, "--runs", tmp_path / "runs", "--config", recipe, "--init-from", source.path]
    words += ["--freeze", "conv1,res2", "--freeze", "res3", "--head-lr-factor", 5, "--frames", 4, "--size", 16]
    words += ["--epochs", 1, "--batch-size", 4, "--threads", 1]
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    saved = json.loads((tmp_path / "runs" / "rgb-tuned-0" / "config.json").read_text())
    assert saved["config"]["fine_tuning"] == {
        "init_from": str(source.path), "freeze": ["conv1", "res2", "res3"], "head_lr_factor": 5.0,
    }  # fmt: skip
    assert saved["initial"]["fresh"] == ["fc2.weight (4x128 here, 3x128 there)", "fc2.bias (4 here, 3 there)"]
    assert re.search(r"tensors are from .*pre/last.safetensors \(epoch 2, sha256 [0-9a-f]{8}\)", result.output)


def test_older_records_say_nothing_of_it(source):
    text = json.loads(source.config.read_text())
    del text["initial"], text["config"]["fine_tuning"]
    assert RunRecord.from_text(json.dumps(text), "") == source.read_record()


def test_a_folder_with_checkpoints_and_no_record_is_no_new_run(run, train_tiny):
    run.config.unlink()
    with pytest.raises(UsageError, match=r"a has checkpoints, but no config.json: restore it, or choose another --run"):
        train_tiny(epochs=1)
