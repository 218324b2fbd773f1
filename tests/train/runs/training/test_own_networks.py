"""`--network PACKAGE.MODULE:FACTORY`: a network of the user's own, through all that a run goes through."""

import json
import re
import sys

import pytest
import torch
from tests.train.runs.conftest import arguments, assert_same_weights, finish, said_by, start_ranks, weights_of
from typer.testing import CliRunner

from resact.cache.store import open_store
from resact.cli import app
from resact.errors import UsageError
from resact.train.networks.build import cost_row
from resact.train.report.as_json import plain_report
from resact.train.report.report import build_report
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.files.record import RunRecord
from resact.train.runs.testing.evaluate import evaluate_run
from resact.train.runs.testing.trained import load_trained

# None of the paper's options.
OWN = {"network": "nets:small", "frames": 4, "size": 16, "epochs": 2, "batch_size": 4, "lr": 0.02, "modality": "both"}


@pytest.fixture
def train_own(train_tiny, own_code, monkeypatch):
    """Like `train_tiny`, of the user's own network."""
    monkeypatch.setattr("tests.train.runs.conftest.SMALL", {})
    return lambda name="a", **settings: train_tiny(name, **(settings if "resume" in settings else OWN | settings))


def test_a_run_of_ones_own_network_is_recorded_and_tested(train_own, tiny_store, tmp_path):
    train_own(network_settings={"channels": 3})
    folder = RunFolder(tmp_path / "runs" / "a")
    record = folder.read_record()
    assert RunRecord.from_text(record.to_text(), "") == record
    assert (record.architecture.network, record.architecture.network_settings) == ("nets:small", {"channels": 3})
    assert record.source is not None
    assert sorted(record.source.files) == ["blocks.py", "nets.py"]
    row = cost_row(record.architecture, frames=4, size=16)
    assert (row["multiply_adds"], row["parameters"]) == (record.source.multiply_adds, record.source.parameters)
    trained = load_trained(folder)
    predictions = evaluate_run(trained, open_store(tiny_store), views=2)
    assert predictions.logits.shape == (6, 2, 3)
    assert {name: tensor.shape for name, tensor in trained.network.state_dict().items()} == {
        name: tensor.shape for name, tensor in weights_of(folder.path).items()
    }


def test_it_goes_on_exactly_and_names_what_has_changed(train_own, train_cut, own_code, tmp_path):
    train_own("whole")
    train_cut("cut", **OWN)
    with (own_code / "blocks.py").open("a") as file:
        file.write("\n# a word\n")
    said = said_by(train_own, "cut", resume=True)
    words = "note: blocks.py changed since .*cut was started: from here on it is trained with the new code"
    assert re.search(words, said)
    assert_same_weights(tmp_path / "runs" / "cut", tmp_path / "runs" / "whole")
    with pytest.raises(UsageError, match=r"other settings \(\[network\]: \{\}, asked for \{'channels': 9\}"):
        train_own("cut", resume=True, network="nets:small", network_settings={"channels": 9})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"network": "nets:wide"}, r"nets:wide returned \(2, 4\)"),
        ({"network": "nowhere:small"}, "no module nowhere"),
        ({"network_settings": {"channels": "many"}}, "nets:small failed: TypeError"),
        ({"dropout": 0.5}, "^got --dropout with your own network"),
        ({"width": 1.0}, "^got --width with your own network"),
        ({"network": "nets:spare"}, "parameters on which its logits do not depend"),
        ({"freeze": ("head", "norm", "stems")}, "leaves nothing to train"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(train_own, tmp_path, settings, words):
    with pytest.raises(UsageError, match=words):
        train_own(**settings)
    assert not (tmp_path / "runs" / "a").exists()


def test_parameters_that_play_no_part_can_be_frozen(train_own, tmp_path):
    train_own(network="nets:spare", freeze="spare", epochs=1)
    train_own(resume=True)
    assert "spare.weight" in weights_of(tmp_path / "runs" / "a")


def test_it_is_fine_tuned_as_any_other(train_own, tmp_path):
    """The last layer is the one with an output a class."""
    train_own("pre", epochs=1)
    train_own(init_from="pre", epochs=1, head_lr_factor=3, freeze="stems")
    before, after = weights_of(tmp_path / "runs" / "pre"), weights_of(tmp_path / "runs" / "a")
    assert all(torch.equal(tensor, before[name]) == name.startswith("stems") for name, tensor in after.items())


def test_weights_that_are_shared_are_saved_and_read(train_own, own_code, tmp_path):
    (own_code / "tied.py").write_text(
        "from nets import Small\n\n\ndef tied(**given):\n    network = Small(**given)\n"
        "    network.stems['residual'].weight = network.stems['rgb'].weight\n    return network\n"
    )
    train_own(network="tied:tied", epochs=1)
    network, _ = RunFolder(tmp_path / "runs" / "a").read_network()
    assert network.stems["rgb"].weight is network.stems["residual"].weight


def test_several_devices_begin_with_the_same_weights(own_code, train_own, tiny_store, tmp_path):
    """The second process has no file to read: it gets the first one's, frozen parts and statistics included."""
    train_own("pre", epochs=1)
    more = ["--init-from", tmp_path / "runs" / "pre", "--freeze", "stems,norm"]
    words = arguments(tiny_store, tmp_path / "runs", "a", *more, **OWN | {"val_groups": 0})
    finish(start_ranks(words, tmp_path), 0)
    before, after = weights_of(tmp_path / "runs" / "pre"), weights_of(tmp_path / "runs" / "a")
    kept = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    assert kept == {name for name in after if not name.startswith("head")}


def test_from_the_command_line_to_the_report(own_code, tiny_store, tmp_path):
    (own_code / "run.toml").write_text("epochs = 1\nbatch_size = 4\nframes = 4\nsize = 16\n[network]\nchannels = 3\n")
    runs = tmp_path / "runs"
    for words in (
        ["train", "--store", tiny_store, "--network", "nets:small", "--config", "run.toml", "--threads", 1],
        ["evaluate", "--views", 10],
    ):
        result = CliRunner().invoke(app, [*map(str, words), "--runs", str(runs)])
        assert result.exit_code == 0, result.output
    with (own_code / "nets.py").open("a") as file:
        file.write("\n")
    result = CliRunner().invoke(app, ["evaluate", "residual-s1-small-0", "--runs", str(runs), "--json"])
    assert "nets.py changed since the run was started" in result.output
    sys.modules.pop("nets")
    (own_code / "nets.py").rename(tmp_path / "nets.py")
    with pytest.raises(UsageError, match=r"no module nets: .*; .*residual-s1-small-0 was started with .*code/nets.py$"):
        load_trained(RunFolder(runs / "residual-s1-small-0"))
    # The report reads records, and runs nobody's code.
    [other] = plain_report(build_report(runs))["other_runs"]
    record = RunFolder(runs / "residual-s1-small-0").read_record()
    assert record.source is not None
    assert f"source {record.source.digest[:8]}" in json.dumps(other)
    assert "network settings {'channels': 3}" in json.dumps(other)
    assert other["ours"]["parameters"] == record.source.parameters
    assert other["network"] == "nets:small"
