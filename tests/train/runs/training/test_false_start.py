"""A training that fails or is stopped before its first step leaves no run that the next try would stumble over."""

import signal

import pytest
import torch
import torch._inductor.config

from resact.errors import Interrupted, ToolError
from resact.train.runs.training import train
from resact.train.runs.training.step import TrainStep


@pytest.mark.filterwarnings("ignore:`torch.jit")  # torch's own, as its compiler loads
def test_without_a_compiler_it_says_so_and_can_be_done_again(train_tiny, tmp_path, monkeypatch):
    compiled = torch.compile

    def compiled_in_part(_network, **_):
        """The whole network is traced for ten seconds before the compiler is looked for."""
        return lambda **inputs: compiled(torch.neg)(inputs["residual"])

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    monkeypatch.setattr(torch, "compile", compiled_in_part)
    with (
        torch._inductor.config.patch({"cpp.cxx": (None, "/nowhere/g++")}),
        pytest.raises(ToolError, match=r"torch cannot compile the network here \(.*/nowhere/g\+\+.*--compile out"),
    ):
        train_tiny(compile=True, epochs=1)
    assert not (tmp_path / "runs" / "a").exists()
    assert train_tiny(epochs=1).steps == 3


def fail_at_step(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    take, taken = TrainStep.__call__, []

    def step(self, batch, **arguments):
        taken.append(batch)
        if len(taken) == number:
            raise RuntimeError("no memory left")
        return take(self, batch, **arguments)

    monkeypatch.setattr(TrainStep, "__call__", step)


def test_what_a_user_has_put_into_the_folder_stays(train_tiny, tmp_path, monkeypatch):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "notes.txt").write_text("mine")
    with monkeypatch.context() as patched:
        fail_at_step(patched, 1)
        with pytest.raises(RuntimeError, match="no memory left"):
            train_tiny(epochs=1)
    assert [path.name for path in (tmp_path / "runs" / "a").iterdir()] == ["notes.txt"]
    assert train_tiny(epochs=1).steps == 3


def test_a_run_that_has_steps_stays_and_goes_on(train_tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        fail_at_step(patched, 3)
        with pytest.raises(RuntimeError, match="no memory left"):
            train_tiny(epochs=1)
    assert (tmp_path / "runs" / "a" / "config.json").exists()
    assert train_tiny(resume=True).steps == 3


def test_a_run_that_fails_when_it_goes_on_stays(train_tiny, tmp_path, monkeypatch):
    train_tiny(epochs=2)
    (tmp_path / "runs" / "a" / "metrics.jsonl").unlink()
    fail_at_step(monkeypatch, 1)
    for checkpoint in (tmp_path / "runs" / "a").glob("*.ckpt"):
        checkpoint.unlink()
    with pytest.raises(RuntimeError, match="no memory left"):
        train_tiny(resume=True)
    assert (tmp_path / "runs" / "a" / "config.json").exists()


def strike_in(monkeypatch: pytest.MonkeyPatch, function: str, number: signal.Signals) -> list[str]:
    """A signal comes while the training is in this function; the functions that were struck."""
    struck = []

    def during(*_, **__):
        struck.append(function)
        signal.raise_signal(number)
        pytest.fail("the signal waits")

    monkeypatch.setattr(train, function, during)
    return struck


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("function", ["measure_normalisation", "_restored", "_streams"])
def test_stopped_before_the_first_step_it_ends_at_once(train_tiny, tmp_path, monkeypatch, function, number):
    with monkeypatch.context() as patched:
        struck = strike_in(patched, function, number)
        with pytest.raises(Interrupted, match=r"^stopped before the first step: the same command starts again$"):
            train_tiny(epochs=1)
    assert struck == [function]
    assert not (tmp_path / "runs" / "a").exists()
    assert train_tiny(epochs=1).steps == 3


def test_stopped_before_the_first_step_of_a_run_that_goes_on_it_stays(train_tiny, tmp_path, monkeypatch):
    train_tiny(epochs=1)
    with monkeypatch.context() as patched:
        strike_in(patched, "_restored", signal.SIGINT)
        with pytest.raises(Interrupted, match=r"^stopped at once; continue from the last checkpoint with `"):
            train_tiny(resume=True, epochs=2)
    assert train_tiny(resume=True, epochs=2).steps == 6
