"""Networks of the user's own: what is wrong with them is one line that says where."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from resact.bench.step_roofline import bench_roofline
from resact.bench.train import bench_train
from resact.cli import app
from resact.errors import UsageError
from resact.train.networks.architecture import Architecture
from resact.train.networks.build import build
from resact.train.networks.cost import count_cost
from resact.train.networks.models import build_model
from resact.train.networks.own import NetworkSource, changed_files, try_own

VIEW = {"frames": 4, "size": 16}


def own(name: str, modality: str = "rgb", num_classes: int = 3, **settings: object) -> Architecture:
    return Architecture(modality=modality, num_classes=num_classes, network=name, network_settings=settings)


def tried(architecture: Architecture) -> tuple[nn.Module, NetworkSource]:
    network = build(architecture, **VIEW)
    return network, try_own(network, architecture, **VIEW)


def test_a_factory_gets_the_clip_and_its_own_settings(own_code: Path) -> None:
    network, _ = tried(own("nets:small", "both", channels=5))
    assert network.given == {"modality": "both", "num_classes": 3, "frames": 4, "size": 16, "channels": 5}
    assert network.training


def test_costs_and_sources_are_counted(own_code: Path) -> None:
    network, source = tried(own("nets:small", "both", channels=5))
    positions = 4 * 8 * 8
    assert source.multiply_adds == 2 * positions * 5 * 3 * 27 + 10 * 3
    assert source.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert sorted(source.files) == ["blocks.py", "nets.py"], "what it imports from beside it belongs to it"
    assert Path(source.path) == own_code / "nets.py"
    assert all(
        torch.equal(t, torch.zeros_like(t)) for name, t in network.state_dict().items() if "running_mean" in name
    )


def test_code_that_needs_values_is_tried_with_values(own_code: Path) -> None:
    _, source = tried(own("nets:needs_values"))
    assert source.multiply_adds == tried(own("nets:small"))[1].multiply_adds


def test_a_module_of_a_package_is_found_and_its_package_belongs_to_it(own_code: Path) -> None:
    _, source = tried(own("kit.video.nets:small"))
    assert sorted(source.files) == ["kit/__init__.py", "kit/video/__init__.py", "kit/video/nets.py"]
    assert changed_files(own("kit.video.nets:small"), source) == []
    (own_code / "kit" / "__init__.py").write_text("VERSION = 2\n")
    (own_code / "kit" / "video" / "nets.py").unlink()
    assert changed_files(own("kit.video.nets:small"), source) == ["kit/__init__.py", "kit/video/nets.py"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere:small", r"^got --network nowhere:small, but there is no module nowhere: .*nowhere.py in /.*PATH$"),
        ("kit.nowhere:small", r"there is no module kit.nowhere: .*kit/nowhere.py"),
        ("nets:smal", r"^got --network nets:smal, but nets has no function smal: did you mean 'small'\?$"),
        ("nets:CHANNELS", "has no function CHANNELS"),
        ("broken:small", r"but broken cannot be imported: ZeroDivisionError: division by zero \(broken.py, line 2\)$"),
        ("unwritten:small", r"but unwritten cannot be imported: SyntaxError: .* \(unwritten.py, line 1\)$"),
        ("missing:small", r"cannot be imported: ModuleNotFoundError: .*'no_such_package' \(missing.py, line 1\)$"),
        ("nets:picky", r"^nets:picky failed: TypeError: .*unexpected keyword.*; it is called with modality, num_"),
        ("nets:fails", r"^nets:fails failed: ValueError: too few classes \(nets.py, line \d+\)"),
        ("nets:no_module", "^nets:no_module returned dict, expected a torch.nn.Module$"),
        ("nets:wide", r"^nets:wide returned \(2, 4\) for rgb= of shape \(2, 3, 4, 16, 16\), expected .* \(2, 3\)$"),
        ("nets:pair", "^nets:pair returned tuple for rgb= of shape"),
        ("nets:positional", r"^nets:positional cannot compute rgb= .*TypeError: .*'rgb' .*; it is called by these"),
        ("nets:deep", r"^nets:deep cannot compute rgb= .*RuntimeError: .* \(nets.py, line \d+\)"),
        ("nets:spare", r"parameters on which its logits do not depend: spare.weight, spare.bias\. .*--freeze spare"),
        ("nets:noted", "^nets:noted keeps _extra_state in its state, which is not a tensor"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(own_code: Path, name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        tried(own(name))
    assert "\n" not in str(raised.value)


def test_the_cost_of_one_network_alone(own_code: Path) -> None:
    (own_code / "run.toml").write_text("modality = 'both'\nframes = 4\nsize = 16\n[network]\nchannels = 5\n")
    words = ["cost", "--network", "nets:small", "--config", "run.toml", "--classes", "3"]
    result = CliRunner(env={"COLUMNS": "100"}).invoke(app, words)
    assert result.exit_code == 0, result.output
    assert re.search(r"nets:small +both +- +- +- +- ", result.output)
    result = CliRunner().invoke(app, [*words, "--json"])
    assert f'"multiply_adds": {tried(own("nets:small", "both", channels=5))[1].multiply_adds}' in result.output
    result = CliRunner().invoke(app, ["cost", "--network", "3d-resnet50", "--size", "16", "--frames", "4", "--json"])
    right = sum(parameter.numel() for parameter in build_model("3d-resnet50", modality="residual").parameters())
    assert f'"parameters": {right}' in result.output


def test_any_network_is_counted_where_its_streams_are_said(own_code: Path) -> None:
    network, source = tried(own("nets:small", "both", channels=5))
    assert count_cost(network, **VIEW, streams=("rgb", "residual")) == source.cost
    with pytest.raises(UsageError, match=r"^got Small, expected a network of build_model: .*streams=\(\"rgb\",\)$"):
        count_cost(network, **VIEW)


def test_the_benchmarks_of_steps_are_of_the_papers_networks() -> None:
    for bench in (partial(bench_train, store=None), partial(bench_roofline, device=None, rates=None, variants=())):
        with pytest.raises(UsageError, match=r"^got --network nets:small, expected one of p3d-resnet50, 3d-resnet50: "):
            bench({"network": "nets:small"}, steps=1, console=Console(quiet=True))
