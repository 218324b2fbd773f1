"""Batch norm over the clips of several processes: `--sync-batch-norm`."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.train.runs.conftest import arguments, finish, finish_on_two_ranks, noted, start_ranks, weights_of
from torch import Tensor, nn
from torch import distributed as dist

from resact.errors import UsageError
from resact.train.networks.models import build_model
from resact.train.networks.synchronised_norm import SynchronisedNorm, synchronise_norms
from resact.train.runs.distributed import Ranks
from resact.train.runs.files.config import RunConfig
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.training import train as training
from resact.train.runs.training.optimiser import build_optimiser
from resact.train.runs.training.step import TrainStep

SETTINGS: dict[str, Any] = {
    "epochs": 3, "batch_size": 4, "val_groups": 0, "modality": "both", "dropout": 0.0, "sync_batch_norm": True,
}  # fmt: skip
TINY = {"num_classes": 3, "width": 1 / 16, "depths": (1, 1, 1, 1), "dropout": 0.0, "zero_init": False}
PARTS = (slice(2), slice(2, 5))  # of five clips, on two ranks

Norms = dict[str, Tensor]


def normalised(x: Tensor, norm: nn.Module, upstream: Tensor) -> Norms:
    """Of one forward and backward pass: everything that batch norm computes."""
    x = x.clone().requires_grad_()
    y = norm(x)
    (y * upstream).sum().backward()
    parameters = {f"{name} gradient": p.grad for name, p in norm.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return {"y": y.detach(), "x gradient": x.grad} | parameters | dict(norm.named_buffers())


def plain_norm(options: dict[str, Any]) -> nn.BatchNorm3d:
    norm = nn.BatchNorm3d(4, **options)
    torch.manual_seed(1)
    for tensor in (*norm.parameters(), *(buffer for buffer in norm.buffers() if buffer.is_floating_point())):
        tensor.data.uniform_(0.5, 2)
    return norm


def random_clips() -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    # A mean far from zero: a variance that is the mean square minus the square of the mean would be lost in it.
    return torch.randn(5, 4, 3, 6, 5) * 3 + 1000, torch.randn(5, 4, 3, 6, 5)


NORMS: list[dict[str, Any]] = [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}]


def steps_of(ranks: Ranks, accumulate: int, checkpoint: bool) -> Norms:
    """The state of a network after two steps of five clips."""
    config = RunConfig.of({"modality": "both", "amp": False, "accumulate": accumulate, "sync_batch_norm": True})
    torch.manual_seed(3)
    network: nn.Module = build_model(**TINY, checkpoint_activations=checkpoint)
    if ranks.world_size > 1:
        synchronise_norms(network)
    step = TrainStep(config, network, build_optimiser(network, config.recipe), ranks)
    mine = slice(5) if ranks.world_size == 1 else PARTS[ranks.rank]
    for _ in range(2):
        clips = {name: torch.randn(5, 3, 4, 16, 16)[mine] for name in ("rgb", "residual")}
        step(clips | {"label": torch.tensor([0, 1, 2, 0, 1])[mine]}, clips=5, lr=0.05, seed=4)
    return network.state_dict()


def run_as_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    ranks = Ranks(rank=rank, world_size=2, device=torch.device("cpu"))
    x, upstream = random_clips()
    found = []
    for options in NORMS:
        network = nn.Sequential(plain_norm(options))
        synchronise_norms(network)
        found.append(normalised(x[PARTS[rank]], network[0], upstream[PARTS[rank]]))
    torch.save(
        (found, steps_of(ranks, 1, checkpoint=True), steps_of(ranks, 2, checkpoint=False)), folder / f"{rank}.pt"
    )
    ranks.leave()


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What each of two ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    finish_on_two_ranks(run_as_rank, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("number", range(len(NORMS)))
def test_two_parts_are_normalised_as_the_whole(by_two: list[Any], number: int) -> None:
    x, upstream = random_clips()
    whole = normalised(x, plain_norm(NORMS[number]), upstream)
    parts: list[Norms] = [found[0][number] for found in by_two]
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
    assert parts[0].keys() == parts[1].keys() == whole.keys()
    for name, expected in whole.items():
        if name in ("y", "x gradient"):
            close(torch.cat([part[name] for part in parts]), expected)
        elif name.endswith("gradient"):
            close(parts[0][name] + parts[1][name], expected, atol=1e-2)
        else:
            close(parts[0][name], expected)
            assert torch.equal(parts[0][name], parts[1][name]), name
    apart = plain_norm(NORMS[number])(x[PARTS[0]])
    assert (apart - whole["y"][PARTS[0]]).abs().max() > 0.01, "a part alone is normalised otherwise"


def test_steps_by_two_with_activation_checkpointing_are_those_by_one(by_two: list[Any]) -> None:
    expected = steps_of(Ranks(rank=0, world_size=1, device=torch.device("cpu")), 1, checkpoint=False)
    for found in by_two:
        assert found[1].keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[1][name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_ranks_with_unequal_parts_accumulate_in_step(by_two: list[Any]) -> None:
    """Each rank's clips in two parts: were it three on one of them, the other would wait for ever."""
    for name, tensor in by_two[0][2].items():
        torch.testing.assert_close(by_two[1][2][name], tensor, rtol=1e-5, atol=1e-6, msg=name)


def test_the_loss_curve_of_two_ranks_is_that_of_one_process_with_the_whole_batch(
    tiny_store: Path, tmp_path: Path, train_tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {name: value for name, value in SETTINGS.items() if name != "sync_batch_norm"}
    finish(start_ranks(arguments(tiny_store, tmp_path, "a", "--sync-batch-norm", **settings), tmp_path), 0)
    record = RunFolder(tmp_path / "a").read_record()
    assert record.config.recipe.sync_batch_norm
    monkeypatch.setattr(training, "measure_normalisation", lambda *_, **__: record.normalisation)
    console = Console(width=300)
    with console.capture() as said:
        whole = Path(train_tiny("whole", console=console, **SETTINGS).run)
    assert "--sync-batch-norm changes nothing on one device" in said.get()
    assert noted(tmp_path / "a", "loss") == pytest.approx(noted(whole, "loss"), rel=1e-3)
    assert noted(tmp_path / "a", "loss")[:3] == pytest.approx(noted(whole, "loss")[:3], rel=1e-5)
    weights = weights_of(tmp_path / "a")
    for name, tensor in weights_of(whole).items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-2, atol=1e-3, msg=name)


def test_parameters_buffers_and_names_are_kept() -> None:
    network = build_model(**TINY)
    network.res2[0].top.norm.eval()
    before, modes = network.state_dict(keep_vars=True), {name: m.training for name, m in network.named_modules()}
    synchronise_norms(network)
    after = network.state_dict(keep_vars=True)
    assert all(after[name] is tensor for name, tensor in before.items())
    assert list(after) == list(before)
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert not any(type(module) is nn.BatchNorm3d for module in network.modules())


def test_in_evaluation_it_is_plain_batch_norm() -> None:
    plain, network = plain_norm({}).eval(), nn.Sequential(plain_norm({})).eval()
    synchronise_norms(network)
    assert isinstance(network[0], SynchronisedNorm)
    x, _ = random_clips()
    assert torch.equal(network(x), plain(x))


class OtherNorm(nn.BatchNorm3d):
    """One of a user's own."""


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (nn.Sequential(nn.Linear(2, 2)), "a network without batch norm: leave it out"),
        (nn.Sequential(OtherNorm(2)), r"has a OtherNorm \(0\), expected nn.BatchNorm1d, 2d or 3d: leave it out"),
    ],
)
def test_networks_whose_norms_it_does_not_know_are_refused(network: nn.Module, words: str) -> None:
    with pytest.raises(UsageError, match=f"got --sync-batch-norm with .*{words}"):
        synchronise_norms(network)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"kernels": "fused"}, "--kernels fused"),
        ({"kernels": "folded+graph"}, "--kernels folded.graph"),
        ({"kernels": "graph"}, "--kernels graph"),
        ({"kernels": "folded+compiled"}, "--compile"),
        ({"compile": True}, "--compile"),
    ],
)
def test_kernels_that_exchange_nothing_are_refused(other: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=rf"^got --sync-batch-norm and {named}, .*leave one out$"):
        RunConfig.of({"sync_batch_norm": True} | other)
