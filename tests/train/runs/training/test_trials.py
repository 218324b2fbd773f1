"""Trials of forms, on the CPU: they find wrong and failing ones, and leave no trace."""

import math
from dataclasses import replace

import pytest
import torch
from tests.train.runs.conftest import SMALL

from resact.train.networks import modules
from resact.train.runs.files.config import EAGER_FORMS, RunConfig
from resact.train.runs.training import trials
from resact.train.runs.training.step import TrainStep
from resact.train.runs.training.trials import RightGradients, Trial, for_trial, step_seconds, try_form

CPU = torch.device("cpu")


def small(**settings) -> RunConfig:
    return for_trial(RunConfig.of(SMALL | {"amp": False, "modality": "both"} | settings), world_size=1)


def tried(name: str, config: RunConfig) -> Trial:
    return try_form(config.in_form(name), CPU, lambda: RightGradients.of(config, CPU))


@pytest.fixture
def scripted_time(monkeypatch):
    """Of a step: one is taken, however long it takes."""
    monkeypatch.setattr(trials, "median_seconds", lambda work, *_, **__: work() or 0.25)


@pytest.mark.parametrize("amp", [False, True])
def test_every_eager_form_is_right(scripted_time, amp):
    config = small(amp=amp, accumulate=2, clip_norm=1.0)
    for name in EAGER_FORMS:
        assert tried(name, config) == Trial(seconds=0.25)


def test_plain_pytorch_is_close_to_float64_and_no_module_is_left_out():
    right = RightGradients.of(small(), CPU)
    assert 0 < right.plain_error < 1e-2
    assert all(gradient.any() for gradient in right.values), "a gradient of zero would be compared with nothing"
    assert right.obstacle(right.values) is None
    assert right.obstacle([1.05 * value for value in right.values]) is None
    for factor in (1.2, math.nan):
        assert "its gradients are " in right.obstacle([factor * value for value in right.values])


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("wrong", ["channels in another order", "a channel lost"])
def test_a_wrong_form_is_left_out(scripted_time, monkeypatch, amp, wrong):
    convolve = modules.convolve

    def wrongly(x, weight, *, form, **options):
        y = convolve(x, weight, form=form, **options)
        if form != "shifted" or options["groups"] == 1:
            return y
        return y.roll(1, dims=1) if wrong == "channels in another order" else y.index_fill(1, torch.tensor([0]), 0)

    monkeypatch.setattr(modules, "convolve", wrongly)
    trial = tried("shifted", small(amp=amp))
    assert trial.seconds is None
    assert trial.left_out.startswith("its gradients are ")
    assert not trial.again
    assert tried("folded", small(amp=amp)).seconds == 0.25


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GB"), "out of memory"),
        (RuntimeError("no kernel image\nmore"), "no kernel image"),
    ],
)
def test_a_form_that_fails_midway_is_left_out_and_leaves_no_trace(scripted_time, monkeypatch, error, reason):
    take_step, taken = TrainStep.__call__, []

    def failing(self, batch, **options):
        figures = take_step(self, batch, **options)
        if self._config.kernels == "shifted":
            taken.append(figures)
            torch.backends.cudnn.benchmark = True
            if len(taken) == 2:
                raise error
        return figures

    monkeypatch.setattr(TrainStep, "__call__", failing)
    before = torch.get_rng_state()
    assert tried("shifted", small()) == Trial(left_out=reason, again=True)
    assert len(taken) == 2, "it failed after its first step"
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.backends.cudnn.benchmark is False
    taken[:] = ["another"]
    assert step_seconds(small().in_form("shifted"), CPU) == math.inf
    assert tried("folded", small()).seconds == 0.25


def test_without_room_for_the_right_gradient_nothing_is_compared(scripted_time):
    def right():
        raise torch.OutOfMemoryError

    assert try_form(small().in_form("folded"), CPU, right) == Trial(left_out="out of memory", again=True)


def test_fused_kernels_and_graphs_fail_on_a_cpu(scripted_time, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "CUDA graphs need a CUDA device, not cpu" in tried("ncdhw+graph", small()).left_out
    assert tried("fused+graph", small()).seconds is None


def test_compiling_is_timed_apart_and_forgotten(monkeypatch):
    """With a stand-in for the compiler: a first step of a hundred seconds, then steps of a quarter."""
    now, resets, compiled = [0.0], [], []
    monkeypatch.setattr(trials.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch._dynamo, "reset", lambda: resets.append("reset"))
    monkeypatch.setattr(trials, "median_seconds", lambda work, *_, **__: work() or 0.25)

    def compiler(network, **options):
        compiled.append(options)
        calls = []

        def run(**inputs):
            now[0] += 0.25 if calls else 100.25
            calls.append("call")
            return network(**inputs)

        return run

    monkeypatch.setattr(torch, "compile", compiler)
    assert tried("folded+compiled", small()) == Trial(seconds=0.25, compile_seconds=100.0)
    assert compiled == [{"dynamic": False}], "each size of a batch is compiled by itself, in whichever order they come"
    assert resets == ["reset"]
    assert tried("folded", small()) == Trial(seconds=0.25)
    assert resets == ["reset"], "nothing was compiled"


def test_a_compiler_that_is_not_there_is_a_reason(scripted_time, monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    def compiler(_network, **_):
        def run(**_):
            raise TorchDynamoException("no g++")

        return run

    monkeypatch.setattr(torch, "compile", compiler)
    trial = tried("folded+compiled", small())
    assert trial.again
    assert "torch cannot compile the network here (no g++)" in trial.left_out


def test_the_trial_of_a_run_with_frozen_parts(scripted_time):
    frozen = small(freeze=("conv1", "res2"))
    assert len(RightGradients.of(frozen, CPU).values) < len(RightGradients.of(small(), CPU).values)
    assert tried("folded", frozen).seconds == 0.25


def test_a_devices_part_of_the_batch():
    config = RunConfig.of(SMALL | {"batch_size": 8})
    assert for_trial(config, world_size=4) == replace(
        config,
        recipe=replace(config.recipe, batch_size=2),
        architecture=replace(config.architecture, dropout=0.0),
    )
