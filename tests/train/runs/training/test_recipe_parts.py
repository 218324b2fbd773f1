"""Parts of a recipe beyond the default: AdamW, accumulation, mean weights; that a run with any goes on exactly."""

import json
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from tests.train.runs.conftest import assert_same_weights, said_by, weights_of
from torch import nn
from typer.testing import CliRunner

from resact.cli import app
from resact.errors import UsageError
from resact.train.runs.distributed import Ranks
from resact.train.runs.files.checkpoint import Checkpoints, Progress
from resact.train.runs.files.config import Recipe, RunConfig
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.files.tensors import read_tensors
from resact.train.runs.testing.predictions import read_predictions
from resact.train.runs.training import train as training
from resact.train.runs.training.optimiser import build_optimiser
from resact.train.runs.training.step import TrainStep
from resact.train.runs.training.weight_average import WeightAverage

ALONE = Ranks(rank=0, world_size=1, device=torch.device("cpu"))

PARTS = [
    {"optimiser": "adamw", "lr": 0.001, "accumulate": 2},
    {"optimiser": "adamw", "ema": 0.8, "accumulate": 3, "sampling": "balanced"},
    {"momentum": 0.0, "ema": 0.9, "class_weights": "balanced"},
    {"modality": "both", "mixup": 0.4, "drop_modality": 0.5, "colour_jitter": 0.4, "blur": 1.0, "accumulate": 2},
]


@pytest.mark.parametrize("settings", PARTS, ids=str)
def test_a_run_that_goes_on_ends_with_the_same_weights_to_the_bit(train_tiny, train_cut, tmp_path, settings):
    """Cut in the middle of its second epoch."""
    train_tiny("whole", epochs=2, **settings)
    cut = train_cut("cut", after_step=4, epochs=2, **settings)
    train_tiny("cut", resume=True)
    for which in ("last", "best"):
        assert_same_weights(cut.path, tmp_path / "runs" / "whole", which)
    record = cut.read_record()
    assert {name: record.config.settings[name] for name in settings} == settings


def test_adamw_has_its_own_rate_and_decay_unless_told():
    network = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.Flatten(), nn.Linear(4, 2))
    assert (Recipe().lr, Recipe().weight_decay) == (0.05, 1e-4)
    optimiser = build_optimiser(network, Recipe(optimiser="adamw", momentum=0.8))
    assert isinstance(optimiser, torch.optim.AdamW)
    assert (optimiser.defaults["lr"], optimiser.defaults["betas"]) == (0.001, (0.8, 0.999))
    decays = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert [decays[id(p)] for p in network.parameters()] == [0.05, 0, 0, 0, 0.05, 0]
    told = RunConfig.of({"optimiser": "adamw", "lr": 0.01, "weight_decay": 0.0})
    assert (told.recipe.lr, told.recipe.weight_decay) == (0.01, 0)
    assert RunConfig.of(told.settings) == told


class Network(nn.Module):
    """Of one stream, so small that it can be computed by hand."""

    architecture = SimpleNamespace(streams=("rgb",))

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, rgb):
        return self.layers(rgb)


def step_of(network: Network, batch: dict, *, class_weights=None, **settings) -> torch.Tensor:
    """One of SGD."""
    config = RunConfig.of({"modality": "rgb", "amp": False, **settings})
    optimiser = build_optimiser(network, config.recipe)
    step = TrainStep(config, network, optimiser, ALONE, class_weights=class_weights)
    return step(batch, clips=len(batch["label"]), lr=0.1, seed=0)


def batch_of(clips: int, seed: int) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {"rgb": torch.randn(clips, 5, generator=generator), "label": torch.arange(clips) % 3, "video_id": ["v"]}


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_a_batch_in_parts_gives_the_step_of_the_whole_where_there_are_no_norms(seed, parts):
    batch, whole = batch_of(7, seed), Network(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    parted = deepcopy(whole)
    figures = step_of(whole, batch, clip_norm=0.5)
    torch.testing.assert_close(step_of(parted, batch, clip_norm=0.5, accumulate=parts), figures)
    for ours, theirs in zip(parted.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_norms_take_their_statistics_from_a_part(seed):
    batch, network = batch_of(6, seed), Network(nn.BatchNorm1d(5), nn.Linear(5, 3))
    mean = torch.zeros(5)
    for part in batch["rgb"].split(2):
        mean = 0.9 * mean + 0.1 * part.mean(0)
    step_of(network, batch, accumulate=3)
    torch.testing.assert_close(network.layers[0].running_mean, mean)


def test_a_step_multiplies_each_clip_s_loss_by_its_class_s_weight(seed):
    batch, network, weight_C = batch_of(5, seed), Network(nn.Linear(5, 3)), torch.tensor([0.5, 3.0, 1.25])
    layer, label_B = deepcopy(network.layers[0]), batch["label"]
    log_p_BC = layer(batch["rgb"]).log_softmax(1)
    loss_B = -0.9 * log_p_BC[range(5), label_B] - 0.1 / 3 * log_p_BC.sum(1)
    expected = (weight_C[label_B] * loss_B).sum()
    (expected / 5).backward()
    plain = {"momentum": 0, "weight_decay": 0}
    figures = step_of(network, batch, class_weights=weight_C.tolist(), **plain)
    assert figures[0].item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(network.layers[0].weight, layer.weight - 0.1 * layer.weight.grad)


def test_a_mixed_clip_has_the_mean_of_two_losses_by_its_shares(seed):
    batch, network = batch_of(5, seed), Network(nn.Linear(5, 3))
    share_B, weight_C = torch.tensor([0.9, 0.2, 0.5, 1.0, 0.0]), torch.tensor([1.0, 2.0, 0.25])
    log_p_BC = network(batch["rgb"]).log_softmax(1).detach()
    expected, hits = 0.0, 0
    for clip in range(5):
        partner = (clip + 1) % 5
        for number, part in ((clip, share_B[clip]), (partner, 1 - share_B[clip])):
            label = batch["label"][number]
            loss = -0.9 * log_p_BC[clip, label] - 0.1 / 3 * log_p_BC[clip].sum()
            expected += float(part * weight_C[label] * loss)
        larger = clip if share_B[clip] >= 0.5 else partner
        hits += int(log_p_BC[clip].argmax() == batch["label"][larger])
    mixed = batch | {"share": share_B, "partner_label": batch["label"].roll(-1)}
    loss, right = step_of(network, mixed, class_weights=weight_C.tolist()).tolist()
    assert (loss, right) == (pytest.approx(expected, rel=1e-5), hits)


def test_more_parts_than_clips_are_told(train_tiny, tmp_path):
    with pytest.raises(UsageError, match=r"got --accumulate 5 for --batch-size 4 on 1 devices, expected no more parts"):
        train_tiny(accumulate=5)
    assert not (tmp_path / "runs").exists()


def test_mean_weights_are_those_of_their_definition(seed):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    average = WeightAverage(deepcopy(network), network, 0.5)
    expected = {name: tensor.double() for name, tensor in network.state_dict().items()}
    for step in range(12):
        with torch.no_grad():
            network(torch.randn(4, 3))
            network[0].weight.normal_()
        average.update(network, step)
        decay = min(0.5, (1 + step) / (10 + step))
        for name, tensor in network.state_dict().items():
            whole = not tensor.is_floating_point()
            expected[name] = tensor.double() if whole else decay * expected[name] + (1 - decay) * tensor.double()
    for name, tensor in average.network.state_dict().items():
        torch.testing.assert_close(tensor.double(), expected[name], atol=1e-5, rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


def test_a_weight_of_two_names_is_averaged_once():
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    network[1].weight = network[0].weight
    average = WeightAverage(deepcopy(network), network, 0.5)
    before = network[0].weight.detach().clone()
    with torch.no_grad():
        network[0].weight += 1
    average.update(network, 100)
    torch.testing.assert_close(average.network[1].weight, before + 0.5)


def test_the_mean_begins_with_the_weights_that_a_run_begins_with(train_tiny, tmp_path):
    train_tiny("first", epochs=1)
    train_tiny("second", epochs=1, init_from="first", ema=0.99, lr=1e-12)
    before, after = (weights_of(tmp_path / "runs" / name) for name in ("first", "second"))
    torch.testing.assert_close(after["fc2.weight"], before["fc2.weight"])


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_parameter_that_is_never_used_does_not_keep_a_run_from_going_on(tmp_path, optimiser):
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    trained = build_optimiser(network, Recipe(optimiser=optimiser))
    network[0](torch.ones(1, 2)).sum().backward()
    trained.step()
    Checkpoints(tmp_path).save(Progress(step=1), network, trained)
    again = build_optimiser(network, Recipe(optimiser=optimiser))
    assert Checkpoints(tmp_path).restore(network, again)[1] is None
    for parameter in network[0].parameters():
        for name, tensor in trained.state[parameter].items():
            assert torch.equal(again.state[parameter][name], tensor)
    assert not any(tensor.any() for parameter in network[1].parameters() for tensor in again.state[parameter].values())


def test_mean_weights_are_kept_validated_and_named(train_tiny, tmp_path):
    said, folder = said_by(train_tiny, epochs=1, ema=0.6), RunFolder(tmp_path / "runs" / "a")
    assert "validated and saved: the moving average of the weights (EMA 0.6)" in said
    state, _ = read_tensors(folder.path / "last.ckpt")
    kept = weights_of(folder.path)
    assert all(torch.equal(tensor, state[f"average/{name}"]) for name, tensor in kept.items())
    assert not torch.equal(kept["fc2.weight"], state["network/fc2.weight"])
    done = CliRunner().invoke(app, ["evaluate", str(folder.path), "--views", "1", "--json"])
    assert "of epoch 1 of 1, their moving average (EMA 0.6)" in " ".join(done.stderr.split())
    assert json.loads(done.stdout)["ema"] == 0.6
    assert read_predictions(folder.path / "predictions.npz").provenance.ema == 0.6


def test_every_rank_goes_on_with_the_first_one_s_state(train_tiny):
    """Only the first has read the checkpoint; the others are told."""
    folder = RunFolder(train_tiny(epochs=1, optimiser="adamw", ema=0.9).run)
    told: list[torch.Tensor] = []
    progress = []

    class Pair(Ranks):
        def from_first(self, make):
            progress.extend([make()] if self.leads else [])
            return progress[0]

        def equalise(self, tensors):
            if self.leads:
                told.extend(tensors)
            else:
                for own in tensors:
                    own.copy_(told.pop(0))

    def state_of(rank: int) -> list[torch.Tensor]:
        ranks = Pair(rank=rank, world_size=2, device=torch.device("cpu"))
        network, optimiser, average, _ = training._restored(folder.read_record(), folder, ranks, Console(quiet=True))
        states = [optimiser.state[p][name] for p in network.parameters() for name in ("step", "exp_avg", "exp_avg_sq")]
        return [*network.state_dict().values(), *average.network.state_dict().values(), *states]

    first, second = state_of(0), state_of(1)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert first[-3].item() == 3, "steps"
    assert not told
