"""Before a training on a GPU: what the parity probe says is acted upon. The probe itself: networks/test_parity.py."""

import re
from dataclasses import dataclass, replace

import pytest
import torch
from rich.console import Console

from resact.errors import UsageError
from resact.train.runs.distributed import Ranks
from resact.train.runs.files.config import RunConfig
from resact.train.runs.training import device_checks

GPU = Ranks(rank=0, world_size=1, device=torch.device("cuda"))
CONFIG = RunConfig.of({"amp": True, "width": 1 / 16, "depths": (1, 1, 1, 1), "batch_size": 6, "channels_last": True})


@dataclass
class Report:
    fallback: str

    def __str__(self) -> str:
        return f"wrong bfloat16 convolutions on X, cuDNN 91002; falling back to {self.fallback}"


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch):
    """What the probe was asked, and a way to say what it finds."""
    asked = []

    def finds(fallback: str) -> list[dict]:
        def probe(_network, **options):
            asked.append(options)
            return Report(fallback)

        monkeypatch.setattr(device_checks, "probe_parity", probe)
        return asked

    monkeypatch.setattr(torch.backends.cudnn, "enabled", True)
    return finds


def computed(config: RunConfig, *, may_change: bool = True) -> tuple[RunConfig, str]:
    console = Console(width=200)
    with console.capture() as said:
        result = device_checks.rightly_computed(config, GPU, console, may_change=may_change)
    return result, said.get()


def test_it_is_asked_about_the_runs_own_shapes(probed) -> None:
    asked = probed("none")
    assert computed(CONFIG)[0] == CONFIG
    assert asked[0].pop("convolve").keywords == {"form": "3d"}
    assert asked == [
        {
            "device": GPU.device,
            "streams": ("residual",),
            "batch": 6,
            "frames": CONFIG.geometry.frames,
            "size": CONFIG.geometry.size,
            "memory_format": torch.channels_last_3d,
        }
    ]
    assert torch.backends.cudnn.enabled


def test_without_cudnn(probed) -> None:
    probed("without cudnn")
    config, said = computed(CONFIG)
    assert config == CONFIG
    assert not torch.backends.cudnn.enabled
    assert "cuDNN 91002; falling back to without cudnn" in said


def test_single_precision_where_the_user_left_the_choice(probed) -> None:
    probed("float32")
    config, said = computed(CONFIG)
    assert config.amp is False
    assert "falling back to float32" in said


@pytest.mark.parametrize(("fallback", "may_change"), [("float32", False), ("another device", True)])
def test_else_it_is_an_error(probed, fallback: str, may_change: bool) -> None:
    probed(fallback)
    with pytest.raises(UsageError, match=r"cuDNN 91002.*: train .*another"):
        computed(CONFIG, may_change=may_change)


def test_no_probe_without_bfloat16(probed) -> None:
    asked = probed("float32")
    single = RunConfig.of(CONFIG.settings | {"amp": False})
    assert computed(single)[0] == single
    assert asked == []


def test_of_ones_own_network_what_cannot_be_probed_is_said(own_code, monkeypatch) -> None:
    def needs_values(_network, **_):
        raise NotImplementedError

    monkeypatch.setattr(device_checks, "probe_parity", needs_values)
    config = RunConfig.of({"network": "nets:small", "amp": True})
    assert computed(config)[0] == config
    assert "its convolutions are not compared with float64" in computed(config)[1]
    with pytest.raises(NotImplementedError):
        computed(CONFIG)


@pytest.mark.parametrize(("available", "said"), [(10**6, True), (10**10, False), (10**12, False), (None, False)])
def test_a_step_on_the_cpu_that_needs_more_memory_than_there_is(monkeypatch, available: int | None, said: bool) -> None:
    monkeypatch.setattr(device_checks, "available_bytes", lambda: available)
    shortage = device_checks.memory_shortage(CONFIG, replace(GPU, device=torch.device("cpu")))
    assert (shortage is not None) == said
    assert not said or re.match(r"a step of 6 clips needs 0\.\d GB of memory, and 0.0 GB are available: ", shortage)
    assert device_checks.memory_shortage(CONFIG, GPU) is None


def test_the_memory_of_this_machine_is_known() -> None:
    assert 2**24 < device_checks.available_bytes() < 2**50
