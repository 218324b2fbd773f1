"""A training that fails before its first step is over leaves no run behind that the next try would stumble over."""

import pytest
import torch
import torch._inductor.config

from resact.errors import ToolError
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
