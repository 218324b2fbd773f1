import pytest
import torch

from resact.bench.step_times import LayerTimes
from resact.train.networks.models import ActionNetwork, build_model


def slow(clock, seconds):
    """Adds this time to a layer forward, and twice this time backward."""

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            clock.sleep(seconds)
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            clock.sleep(2 * seconds)
            return gradient

    return Slow.apply


@pytest.mark.parametrize(
    ("layer", "part"), [("conv1", "residual.temporal"), ("conv1", "rgb.spatial"), ("res3.0", "body"), ("res5.0", "top")]
)
def test_the_slow_layer_is_the_one_that_takes_long(layer, part, monkeypatch, clock):
    # As with fused kernels, which call no module, and so none of its hooks.
    monkeypatch.setattr(ActionNetwork, "_run", lambda self, module, x: module.forward(x))
    model = build_model(width=1 / 16, depths=(1, 1, 1, 1))
    inner = model.get_submodule(f"{layer}.{part}")
    inner.register_forward_hook(lambda _, inputs, y: slow(clock, 0.125)(y))
    clips = {name: torch.randn(2, 3, 4, 16, 16) for name in ("rgb", "residual")}
    times = LayerTimes(torch.device("cpu"))
    with times.watching(model):
        for _ in range(3):
            model(**clips).sum().backward()
    model(**clips).sum().backward()  # no longer watched
    rows = {row["layer"]: row for row in times.rows()}
    assert list(rows) == ["conv1", "res2.0", "res3.0", "res4.0", "res5.0", "fc1", "fc2"]
    assert all(len(steps) == 3 for steps in times._moments.values())
    for name, row in rows.items():
        assert row["forward_milliseconds"] == (125 if name == layer else 0), row
        assert row["backward_milliseconds"] == (250 if name == layer else 0), row
