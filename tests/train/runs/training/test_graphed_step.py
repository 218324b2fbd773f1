"""A step as a CUDA graph; on a CPU with a stand-in for CUDA that records a pass, and takes it again to replay it."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from tests.train.runs.conftest import SMALL

from resact.errors import ToolError
from resact.train.runs.distributed import Ranks
from resact.train.runs.files.config import RunConfig
from resact.train.runs.training import graphed_step
from resact.train.runs.training.graphed_step import GraphedPass
from resact.train.runs.training.optimiser import build_optimiser
from resact.train.runs.training.step import TrainStep
from resact.train.runs.training.step_variants import StepVariant


class Graph:
    """Of the stand-in."""

    def __init__(self) -> None:
        self.work = None
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1
        self.work()


@pytest.fixture
def cuda(monkeypatch) -> SimpleNamespace:
    """A stand-in for `torch.cuda`: what was captured, and how."""
    seen = SimpleNamespace(graphs=[], options=[], capturing=None, passes=0, trouble=None, pools=[])
    seen.stream = own = SimpleNamespace(wait_stream=lambda _: None)

    def new_graph() -> Graph:
        seen.graphs.append(Graph())
        return seen.graphs[-1]

    @contextmanager
    def capture(graph, **options):
        seen.options.append(options)
        seen.capturing, seen.stream = graph, "of captures"
        seen.pools.append(options["pool"])
        random = torch.get_rng_state()
        try:
            yield
            seen.stream = own  # torch, too, does so only where the capture has succeeded
            seen.pools.remove(options["pool"])
        finally:
            seen.capturing = None
            torch.set_rng_state(random)

    @contextmanager
    def current(stream):
        before, seen.stream = seen.stream, stream
        try:
            yield
        finally:
            seen.stream = before

    def zeroed_pass(self, inputs, clips):
        seen.passes += 1
        if seen.capturing is None:
            return take(self, inputs, clips)
        if seen.trouble is not None:
            raise seen.trouble
        figures = torch.full((2,), float("nan"))  # nothing is computed as it is captured
        seen.capturing.work = lambda: figures.copy_(take(self, inputs, clips))
        return figures

    take = GraphedPass._zeroed_pass
    monkeypatch.setattr(GraphedPass, "_zeroed_pass", zeroed_pass)
    seen.own = own
    fakes = {
        "Stream": lambda _: SimpleNamespace(wait_stream=lambda _: None), "current_stream": lambda _: seen.stream,
        "stream": current, "graph_pool_handle": lambda: "pool", "current_device": lambda: 0,
        "CUDAGraph": new_graph, "graph": capture, "get_rng_state": lambda _: torch.get_rng_state(),
        "set_rng_state": lambda state, _: torch.set_rng_state(state),
    }  # fmt: skip
    for name, fake in fakes.items():
        monkeypatch.setattr(graphed_step.torch.cuda, name, fake)
    end = lambda _, pool: seen.pools.remove(pool)  # noqa: E731
    monkeypatch.setattr(graphed_step.torch._C, "_cuda_endAllocateToPool", end, raising=False)
    monkeypatch.setattr(graphed_step.torch._C, "_cuda_releasePool", lambda *_: None, raising=False)
    return seen


def trained(kernels: str, device: torch.device, where: torch.device, **settings) -> tuple[torch.Tensor, list[float]]:
    """Five steps with dropout on batches of two sizes, at other rates each time: weights, norms' statistics, losses.

    `where`: of the tensors; `device`: of the step.
    """
    config = RunConfig.of(SMALL | {"kernels": kernels, "amp": False, "modality": "both", "dropout": 0.5} | settings)
    variant = StepVariant("a", config)
    network = variant.network(3, where)
    step = TrainStep(
        config, network, build_optimiser(network, config.recipe), Ranks(rank=0, world_size=1, device=device)
    )
    figures = []
    for number in range(5):
        torch.manual_seed(number)
        batch = variant.batch(3, where) | {"positions": range(4)}
        if number % 2:
            batch = {name: value[:3] for name, value in batch.items()}
        figures.append(step(batch, clips=len(batch["label"]), lr=0.01 / (number + 1), seed=number))
    weights = torch.cat([tensor.detach().double().flatten().cpu() for tensor in network.state_dict().values()])
    return weights, torch.stack(figures).tolist()


@pytest.mark.parametrize("settings", [{}, {"accumulate": 2, "clip_norm": 0.5, "optimiser": "adamw"}])
def test_it_trains_as_the_plain_step_to_the_bit(cuda, settings):
    cpu = torch.device("cpu")
    graphed = trained("folded+graph", torch.device("cuda"), cpu, **settings)
    plain = trained("folded", cpu, cpu, **settings)
    assert torch.equal(graphed[0], plain[0]), "warming up leaves no trace on running statistics"
    assert graphed[1] == plain[1], "figures of earlier steps are copies"
    assert [graph.replays for graph in cuda.graphs] == [3, 2], "one graph for each size"
    assert cuda.passes == 2 * (graphed_step._WARMUP_PASSES + 1)
    thread = {"capture_error_mode": "thread_local"}  # other threads read clips meanwhile
    assert cuda.options == [{"pool": "pool"} | thread] * 2
    assert cuda.pools == []


def test_a_step_that_cannot_be_captured_is_one_error(cuda):
    cuda.trouble = RuntimeError("operation not permitted when stream is capturing\nmore")
    with pytest.raises(ToolError, match=r"as a CUDA graph \(operation not .* capturing\): train with --kernels eager$"):
        trained("folded+graph", torch.device("cuda"), torch.device("cpu"))
    assert cuda.stream is cuda.own, "other forms are tried on the stream as before"
    assert cuda.pools == [], "or memory of batches would never be free again"
    cuda.trouble = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        trained("folded+graph", torch.device("cuda"), torch.device("cpu"))


def test_there_are_none_on_a_cpu():
    with pytest.raises(ToolError, match="CUDA graphs need a CUDA device, not cpu"):
        trained("ncdhw+graph", torch.device("cpu"), torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("form", ["ncdhw", "folded", "fused"])
def test_on_a_gpu_it_trains_as_the_plain_step(form):
    """With the same dropout: a replay draws from the seed of its own step."""
    gpu = torch.device("cuda")
    graphed, plain = (trained(kernels, gpu, gpu, amp=True) for kernels in (f"{form}+graph", form))
    torch.testing.assert_close(graphed[0], plain[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(torch.tensor(graphed[1]), torch.tensor(plain[1]), rtol=1e-2, atol=1e-2)
