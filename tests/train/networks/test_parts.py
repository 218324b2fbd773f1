import pytest
from torch import nn

from resact.errors import UsageError
from resact.train.networks.models import build_model
from resact.train.networks.parts import freeze, last_layer

TINY = {"width": 1 / 16, "depths": (1, 1, 1, 1), "modality": "residual", "num_classes": 3}


def learning(network: nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def counting(network: nn.Module) -> set[str]:
    """Norms whose statistics go on."""
    return {name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm3d) and module.training}


def test_a_module_is_frozen_with_all_that_is_in_it_and_its_norms_keep_their_statistics():
    network = build_model(**TINY)
    freeze(network, ["conv1", "res[23]"])
    frozen = ("conv1.", "res2.", "res3.")
    assert learning(network) == {name for name, _ in network.named_parameters() if not name.startswith(frozen)}
    assert counting(network) == counting(build_model(**TINY)) - {
        name for name in counting(build_model(**TINY)) if name.startswith(frozen)
    }
    assert network.training
    assert network.res2[0].training, "only norms are in evaluation mode"


def test_a_norm_whose_parameters_are_all_frozen_keeps_its_statistics_too():
    network = build_model(**TINY)
    before, norm = counting(network), "res2.0.top.norm"
    freeze(network, [f"{norm}.weight"])
    assert counting(network) == before
    freeze(network, ["res2.0.top.norm.*"])
    assert before - counting(network) == {norm}


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (
            ["conv2"],
            r"^got --freeze 'conv2', which matches no module.*: its parts are conv1, res2, .*, fc2, and theirs",
        ),
        (["conv1", "resX.*"], "^got --freeze 'resX"),
        (["*"], "leaves nothing to train"),
        (["conv1", "res?", "fc?"], "^got --freeze conv1,res.,fc., which leaves nothing to train"),
    ],
)
def test_patterns_of_nothing_and_of_everything_are_refused(patterns, words):
    with pytest.raises(UsageError, match=words):
        freeze(build_model(**TINY), patterns)


def test_the_last_layer_is_the_last_with_an_output_a_class():
    assert last_layer(build_model(**TINY), 3) == "fc2"
    network = nn.Sequential(nn.Conv3d(3, 5, 1), nn.Conv3d(5, 5, 1), nn.ReLU(), nn.Linear(5, 4))
    assert last_layer(network, 5) == "1"
    assert last_layer(network, 7) is None
