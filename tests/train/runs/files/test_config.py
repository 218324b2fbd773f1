import json
from dataclasses import asdict

import pytest

from resact.cli.training import asked_settings
from resact.errors import UsageError
from resact.train.runs.files.config import SETTINGS, RunConfig, read_settings


def test_defaults_are_the_papers_network_on_residual_step_1():
    config = RunConfig()
    assert config.default_name == "residual-s1-0"
    assert (config.network.arch, config.geometry.frames, config.geometry.size) == ("p3d-resnet50", 32, 112)
    assert config == RunConfig.of({})


def test_a_configuration_survives_json_and_its_own_settings():
    config = RunConfig.of(
        {"modality": "both", "step": 4, "depths": [1, 2, 3, 4], "width": 1, "clip_norm": 2, "amp": True, "seed": 7}
    )
    assert RunConfig.from_json(json.loads(json.dumps(asdict(config)))) == config
    assert RunConfig.of(config.settings) == config
    assert set(config.settings) == set(SETTINGS)
    assert config.network.depths == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"step": 2, "seed": 3}, "residual-s2-3"),
        ({"modality": "rgb", "step": 2}, "rgb-0"),
        ({"modality": "both", "arch": "3d-resnet50"}, "both-s1-3d-resnet50-0"),
        ({"attention": False, "feature_residual": False}, "residual-s1-no-attention-no-feature-residual-0"),
        ({"conv": "dense", "attention": True}, "residual-s1-dense-0"),
    ],
)
def test_names_say_what_differs(settings, name):
    assert RunConfig.of(settings).default_name == name


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lr": 0}, "got lr 0.0, expected a number above 0"),
        ({"lr": "fast"}, "got lr 'fast', expected a number"),
        ({"lr": float("nan")}, "got lr nan"),
        ({"lr": True}, "got lr True"),
        ({"momentum": 1.0}, "got momentum 1.0"),
        ({"batch_size": 1.5}, "got batch_size 1.5, expected a whole number from 1 on"),
        ({"epochs": 0}, "got epochs 0"),
        ({"val_groups": -1}, "got val_groups -1"),
        ({"seed": 2**63}, "got seed"),
        ({"lr": 10**400}, "got lr with 401 digits, expected a number"),
        ({"epochs": 2**63}, "got epochs 9223372036854775808, expected a whole number from 1 on, below 2\\^63"),
        ({"frames": 2**40}, "got frames 1099511627776, expected a whole number from 1 to 65,536"),
        ({"width": 1e300}, "width got 1e\\+300, expected a multiplier above 0, up to 100"),
        ({"stem_channels": 10**30}, "stem_channels got 10+, expected a whole number above 0, up to 1,048,576"),
        ({"flip": "yes"}, "got flip 'yes', expected true or false"),
        ({"clip_norm": -1}, "got clip_norm -1.0"),
        ({"depths": 3}, "depths got 3"),
        ({"dropout": 1}, "dropout got 1.0"),
        ({"step": 32}, "got step 32, expected one below the 32 frames"),
        ({"arch": "p3d"}, "^got arch 'p3d', expected p3d-resnet50 or 3d-resnet50$"),
        ({"arch": 3}, "^got arch 3, expected p3d-resnet50 or 3d-resnet50$"),
        ({"arch": ["p3d-resnet50"]}, "^got arch \\['p3d-resnet50'\\], expected p3d-resnet50 or 3d-resnet50$"),
        ({"checkpoint_activations": "no"}, "^got checkpoint_activations 'no', expected true or false$"),
        ({"checkpoint_activations": 1}, "^got checkpoint_activations 1, expected true or false$"),
        ({"zero_init": 1}, "zero_init got 1, expected True or False"),
        ({"attention": "no"}, "attention got 'no', expected True or False"),
        ({"conv": []}, "^got conv \\[\\], expected separable or dense$"),
        ({"modality": ["rgb"]}, "modality"),
        ({"stem_channels": 0.5}, "stem_channels got 0.5"),
        ({"arch": "3d-resnet50", "feature_residual": True}, "leave the three out"),
        ({"learning_rate": 1}, "did you mean 'lr'|did you mean"),
        ({"epoch": 1}, "got setting 'epoch', .*did you mean 'epochs'"),
    ],
)
def test_wrong_settings_are_told(settings, words):
    with pytest.raises(UsageError, match=words):
        RunConfig.of(settings)


def test_options_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('lr = 0.3\nbatch-size = 8\nmodality = "rgb"\nattention = false\n')
    config = RunConfig.of(asked_settings(path, lr=0.1, batch_size=None, step=None, attention=True))
    assert (config.recipe.lr, config.recipe.batch_size, config.geometry.modality) == (0.1, 8, "rgb")
    assert (config.network.attention, config.recipe.momentum) == (True, 0.9)


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
