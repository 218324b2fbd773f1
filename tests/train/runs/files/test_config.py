import json
import re
from dataclasses import asdict

import pytest

from resact.cli.settings import asked_settings
from resact.errors import UsageError
from resact.train.runs.files.config import SETTINGS, RunConfig, read_settings


def test_each_setting_says_what_it_is_and_where_its_default_comes_from():
    assert [name for name, one in SETTINGS.items() if not one.help.endswith(".") or not one.source] == []
    assert [name for name, one in SETTINGS.items() if one.default is None and one.default_words is None] == []


def test_a_settings_older_name_and_dashes_are_understood():
    asked = RunConfig.of({"arch": "3d-resnet50", "batch-size": 3})
    assert (asked.architecture.network, asked.recipe.batch_size) == ("3d-resnet50", 3)
    assert (asked.architecture.conv, asked.architecture.attention) == ("dense", False)


def test_what_follows_from_the_network_is_not_asked_for():
    for network in ("p3d-resnet50", "3d-resnet50"):
        asked = RunConfig.of({"network": network, "modality": "rgb", "width": 0.5})
        assert asked.architecture.stem_channels == 64
        assert {name for name, value in asked.architecture.settings.items() if value is None} == {
            "conv", "attention", "feature_residual", "stem_channels",
        }  # fmt: skip
    assert RunConfig.of({"conv": "dense"}).settings["conv"] == "dense"


def test_defaults_are_the_papers_network_on_residual_step_1():
    config = RunConfig()
    assert config.default_name == "residual-s1-0"
    assert (config.architecture.network, config.geometry.frames, config.geometry.size) == ("p3d-resnet50", 32, 112)
    assert config == RunConfig.of({})


def test_a_configuration_survives_json_and_its_own_settings():
    config = RunConfig.of(
        {"modality": "both", "step": 4, "depths": [1, 2, 3, 4], "width": 1, "clip_norm": 2, "amp": True, "seed": 7}
    )
    assert RunConfig.from_json(json.loads(json.dumps(asdict(config)))) == config
    assert RunConfig.of(config.settings) == config
    assert set(config.settings) == set(SETTINGS)
    assert config.architecture.depths == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"step": 2, "seed": 3}, "residual-s2-3"),
        ({"modality": "rgb", "step": 2}, "rgb-0"),
        ({"modality": "both", "network": "3d-resnet50"}, "both-s1-3d-resnet50-0"),
        ({"attention": False, "feature_residual": False}, "residual-s1-no-attention-no-feature-residual-0"),
        ({"conv": "dense", "attention": True}, "residual-s1-dense-0"),
    ],
)
def test_names_say_what_differs(settings, name):
    assert RunConfig.of(settings).default_name == name


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": 0}, "^got --lr 0, expected a number above 0$"),
        ({"lr": "fast"}, "^got --lr 'fast', expected a number above 0$"),
        ({"lr": float("nan")}, "^got --lr nan, expected"),
        ({"lr": float("inf")}, "^got --lr inf, expected"),
        ({"lr": True}, "^got --lr True, expected"),
        ({"momentum": 1.0}, "^got --momentum 1.0, expected a number of 0 or more and below 1$"),
        ({"batch_size": 1.5}, "^got --batch-size 1.5, expected a whole number of 1 or more$"),
        ({"epochs": 0}, "^got --epochs 0, expected"),
        ({"val_groups": -1}, "^got --val-groups -1, expected a whole number of 0 or more$"),
        ({"seed": 2**63}, "^got --seed a whole number of 64 bits, expected"),
        ({"seed": 10**10_000}, "^got --seed a whole number of 33220 bits, expected"),
        ({"lr": 10**400}, "^got --lr a whole number of 1329 bits, expected a number above 0$"),
        ({"frames": 2**40}, "^got --frames 1099511627776, expected a whole number from 1 to 65,536$"),
        ({"width": 1e300}, "^got --width 1e\\+300, expected a number above 0 and up to 100$"),
        (
            {"stem_channels": 10**30},
            "^got --stem-channels .* of 100 bits, expected .* from 1 to 1,048,576$",
        ),
        ({"flip": "yes"}, "^got --flip 'yes', expected true or false$"),
        ({"clip_norm": -1}, "^got --clip-norm -1, expected"),
        ({"depths": 3}, "^got --depths 3, expected 4 whole numbers above 0$"),
        ({"depths": (1, 2, 3)}, "^got --depths \\(1, 2, 3\\), expected 4 whole numbers above 0$"),
        ({"dropout": 1}, "^got --dropout 1, expected a number of 0 or more and below 1$"),
        ({"step": 32}, "^got --step 32, expected one below the 32 frames"),
        ({"arch": "p3d"}, "^got --network 'p3d', expected p3d-resnet50, 3d-resnet50 or PACKAGE.MODULE:FACTORY$"),
        ({"network": 3}, "^got --network 3, expected p3d-resnet50, 3d-resnet50 or PACKAGE.MODULE:FACTORY$"),
        (
            {"network": ["p3d-resnet50"]},
            "^got --network \\['p3d-resnet50'\\], expected p3d-resnet50, 3d-resnet50 or PACKAGE.MODULE:FACTORY$",
        ),
        ({"checkpoint_activations": "no"}, "^got --checkpoint-activations 'no', expected true or false$"),
        ({"checkpoint_activations": 1}, "^got --checkpoint-activations 1, expected true or false$"),
        ({"zero_init": 1}, "^got --zero-init 1, expected true or false$"),
        ({"attention": "no"}, "^got --attention 'no', expected true or false$"),
        ({"conv": []}, "^got --conv \\[\\], expected separable or dense$"),
        ({"modality": ["rgb"]}, "^got --modality \\['rgb'\\], expected rgb, residual or both$"),
        ({"stem_channels": 0.5}, "^got --stem-channels 0.5, expected"),
        ({"min_scale": 0.4}, "^got --min-scale 0.4, expected a number from 0.5 to 1$"),
        ({"network": "3d-resnet50", "feature_residual": True}, "leave them out$"),
        (
            {"network": "nets:small", "attention": True},
            "^got --attention with your own network, expected no settings of",
        ),
        ({"network": "nets:small", "width": 2, "conv": "dense"}, "^got --conv, --width with your own network"),
        ({"network": "nets:small", "kernels": "fused"}, "expected eager: leave --kernels out$"),
        ({"network": "nets:small", "checkpoint_activations": True}, "which must do that itself: leave it out$"),
        (
            {"network": "nets:small", "network_settings": {"frames": 3}},
            "^got frames in \\[network\\], which",
        ),
        ({"network": "nets:small", "network_settings": {"a": float("inf")}}, "expected a table of text, numbers"),
        ({"network_settings": {"a": 3}}, "^got settings of \\[network\\] \\(a\\) with the network p3d-resnet50"),
        *(
            ({"network": wrong}, "PACKAGE.MODULE:FACTORY$")
            for wrong in ("nets", "a/b.py:c", "a.b:", ":c", "a:b:c", "1:c")
        ),
        ({"kernels": "fused", "compile": True}, "leave --compile out$"),
        ({"learning_rate": 1}, "did you mean 'lr'|did you mean"),
        ({"epoch": 1}, "got setting 'epoch', .*did you mean 'epochs'"),
    ],
)
def test_wrong_settings_are_told(settings, words):
    with pytest.raises(UsageError, match=words):
        RunConfig.of(settings)


def test_a_network_of_ones_own_has_a_table_and_no_settings_of_the_papers(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        'lr = 0.3\n[network]\nfactory = "mine.nets:small"\nchannels = 4\nstages = [{depth = 2}, {depth = 3}]\n'
    )
    config = RunConfig.of(asked_settings(path))
    assert config.architecture.is_own
    assert config.architecture.network_settings == {"channels": 4, "stages": [{"depth": 2}, {"depth": 3}]}
    assert RunConfig.from_json(json.loads(json.dumps(asdict(config)))) == config
    assert RunConfig.of(config.settings) == config
    assert {config: 1}[RunConfig.of(config.settings)] == 1, "it can be a key"
    assert config.default_name == "residual-s1-small-0"
    assert RunConfig.of(asked_settings(path, network="other:net")).architecture.network == "other:net"
    path.write_text("[network]\nsince = 2020-01-01\n")
    with pytest.raises(UsageError, match=r"run.toml: got \[network\] .*expected a table of text, numbers, flags"):
        read_settings(path)


def test_options_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('lr = 0.3\nbatch-size = 8\nmodality = "rgb"\nattention = false\n')
    config = RunConfig.of(asked_settings(path, lr=0.1, batch_size=None, step=None, attention=True))
    assert (config.recipe.lr, config.recipe.batch_size, config.geometry.modality) == (0.1, 8, "rgb")
    assert (config.architecture.attention, config.recipe.momentum) == (True, 0.9)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wieght_decay = 1", "got setting 'wieght_decay'.*did you mean 'weight_decay'"),
        ("[recipe]\nlr = 1", "got setting 'recipe'"),
        ("lr = ", "expected toml"),
    ],
)
def test_wrong_files_are_told(tmp_path, text, words):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        read_settings(path)
    with pytest.raises(UsageError, match="which is not there"):
        read_settings(tmp_path / "none.toml")


def test_a_wrong_value_in_a_file_is_called_by_its_key(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("epochs = 3\nstem-channels = 0\n")
    with pytest.raises(UsageError, match=f"^{re.escape(str(path))}: got stem-channels 0, expected a whole number"):
        read_settings(path)
