"""The form of a run's step: as named, or the quickest by scripted trials, which need no GPU."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from resact.errors import UsageError
from resact.train.networks.kernel_probe import KernelParity
from resact.train.runs.distributed import Ranks
from resact.train.runs.files.config import EAGER_FORMS, RunConfig
from resact.train.runs.training import device_checks, kernel_choice
from resact.train.runs.training.kernel_choice import ChosenKernels, with_kernels
from resact.train.runs.training.trials import Trial

GPU = Ranks(rank=0, world_size=1, device=torch.device("cuda"))
CPU = replace(GPU, device=torch.device("cpu"))
SMALL = {"width": 1 / 16, "depths": (1, 1, 1, 1), "frames": 4, "size": 16, "amp": True}
LONG = 1_000_000
"""Steps: so many that compiling costs nothing beside them."""

RIGHT = KernelParity(0.01, 0.012, torch.bfloat16, "conv1's output")
WRONG = KernelParity(0.9, 0.012, torch.bfloat16, "conv1's output")


class Script:
    """Stands in for trials: says what each form is found to be, and notes which are tried."""

    def __init__(self) -> None:
        seconds = {"ncdhw": 0.2, "channels-last": 0.19, "folded": 0.1, "shifted": 0.3, "fused": 0.15}
        self.trials = {name: Trial(seconds=each) for name, each in seconds.items()}
        self.trials |= {f"{name}+graph": Trial(seconds=0.9 * each) for name, each in seconds.items()}
        self.trials |= {
            f"{name}+compiled": Trial(seconds=0.5 * seconds[name], compile_seconds=100.0) for name in EAGER_FORMS
        }
        self.tried: list[str] = []
        self.configs: list[RunConfig] = []

    def __call__(self, config: RunConfig, _device: torch.device, _right: object) -> Trial:
        self.tried.append(config.kernels)
        self.configs.append(config)
        return self.trials[config.kernels]

    def set(self, **seconds: float) -> None:
        """Of forms, with `_` for `-`."""
        for name, each in seconds.items():
            name = name.replace("_", "-")
            self.trials[name] = replace(self.trials[name], seconds=each)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Script:
    made = Script()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(kernel_choice, "try_form", made)
    monkeypatch.setattr(Ranks, "device_name", property(lambda ranks: f"a {ranks.device.type} by Maker"))
    return made


def choose(ranks: Ranks = GPU, *, steps: int = 1000, sizes: int = 1, **settings) -> tuple[ChosenKernels, str]:
    console = Console(width=300)
    with console.capture() as said:
        chosen = with_kernels(RunConfig.of(SMALL | settings), ranks, console, steps=steps, sizes=sizes)
    return chosen, said.get()


def kernels(*arguments, **settings) -> str:
    return choose(*arguments, **settings)[0].config.kernels


def kept(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "cache" / "resact" / "kernels").iterdir()
    return path


def test_the_quickest_form_with_one_line_and_a_record(script):
    chosen, said = choose()
    assert script.tried == [*EAGER_FORMS, "fused", "folded+graph"]
    assert chosen.config == RunConfig.of(SMALL | {"kernels": "folded+graph"})
    assert (chosen.config.channels_last, chosen.config.compile) == (True, False)
    assert chosen.checked
    assert said == "kernels: folded+graph, 90.0 ms a step of 32 clips, 2.22 times as fast as eager (timed now)\n"
    record = chosen.record
    forms = record.pop("forms")
    assert record == {
        "asked": "auto", "chosen": "folded+graph", "device": "a cuda by Maker", "clips": 32, "steps_to_come": 1000,
    }  # fmt: skip
    assert list(forms) == script.tried
    assert forms["fused"] == {"seconds": 0.15, "compile_seconds": 0.0, "left_out": None, "timed": "now"}


def test_a_trial_is_of_the_runs_own_step(script):
    settings = {"accumulate": 2, "optimiser": "adamw", "batch_size": 12, "modality": "both"}
    assert choose(**settings)[0].config.recipe.batch_size == 12
    for config in script.configs:
        asked = RunConfig.of(SMALL | settings)
        assert (config.recipe, config.geometry, config.amp) == (asked.recipe, asked.geometry, True)
        assert config.architecture.dropout == 0, "or gradients could not be compared"


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"folded": 0.1, "fused": 0.0975, "folded+graph": 0.0980, "fused+graph": 0.0980}, "folded"),
        ({"folded": 0.1, "fused": 0.0960, "fused+graph": 0.0950}, "fused"),
        ({"ncdhw": 0.101, "ncdhw+graph": 0.0999}, "ncdhw"),
        ({"ncdhw": 0.101, "ncdhw+graph": 0.0900}, "ncdhw+graph"),
    ],
)
def test_a_simpler_form_wins_by_a_hair(script, seconds, chosen):
    script.set(**seconds)
    assert kernels() == chosen


@pytest.mark.parametrize(
    ("steps", "sizes", "tried", "chosen"),
    [
        (9_000, 1, False, "folded+graph"),  # 810 seconds: not worth a trial
        (10_100, 1, True, "folded+compiled"),  # 909 s as a graph; compiled 505 + 100
        (10_100, 4, True, "folded+graph"),  # 505 + 400, and the graph's 909 are within 3 %
        (10_100, 5, True, "folded+graph"),  # 505 + 500
        (LONG, 5, True, "folded+compiled"),
    ],
)
def test_compiling_is_weighed_against_the_steps_to_come(script, steps, sizes, tried, chosen):
    assert kernels(steps=steps, sizes=sizes) == chosen
    assert ("folded+compiled" in script.tried) is tried


def test_what_was_timed_is_not_timed_again(script, tmp_path):
    first = choose()[0]
    script.tried.clear()
    again, said = choose()
    assert script.tried == []
    assert again.config == first.config
    assert again.checked
    assert f"(as timed before, {kept(tmp_path)})" in said
    assert {form["timed"] for form in again.record["forms"].values()} == {"before"}
    # A longer run adds what the shorter one did not try; then a short one takes it into account, too.
    assert kernels(steps=LONG) == "folded+compiled"
    assert script.tried == ["folded+compiled"]
    assert kernels(steps=5_000) == "folded+compiled"  # 250 + 100 seconds, and 450
    assert kernels(steps=1_000) == "folded+graph"
    assert script.tried == ["folded+compiled"]
    assert len(list(kept(tmp_path).parent.iterdir())) == 1, "no file of an attempt is left"


@pytest.mark.parametrize(
    "other",
    [
        {"batch_size": 16}, {"frames": 8}, {"size": 32}, {"amp": False}, {"accumulate": 2}, {"modality": "both"},
        {"width": 1 / 8}, {"optimiser": "adamw"}, {"clip_norm": 1.0}, {"freeze": ("conv1",)},
        {"checkpoint_activations": True},
    ],
)  # fmt: skip
def test_other_steps_are_timed_apart(script, other):
    choose()
    script.tried.clear()
    choose(**other)
    assert "ncdhw" in script.tried


def test_other_devices_versions_and_code_are_timed_apart(script, monkeypatch):
    for patch in (
        lambda: None,
        lambda: monkeypatch.setattr(Ranks, "device_name", property(lambda _: "another GPU")),
        lambda: monkeypatch.setattr(
            kernel_choice, "provenance", lambda: {"versions": {"torch": "9", "triton": "9", "resact": "9"}}
        ),
        lambda: monkeypatch.setattr(kernel_choice, "_code", lambda: "other code"),
    ):
        patch()
        script.tried.clear()
        choose()
        assert "ncdhw" in script.tried


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda _: "",
        lambda _: "[1, 2]",
        lambda _: '{"key": {}, "trials": {}}',
        lambda text: text.replace('"seconds": 0.1,', '"seconds": "quick",'),
        lambda text: text.replace('"seconds": 0.1,', '"seconds": -1,'),
        lambda text: text.replace('"seconds": 0.1,', '"seconds": NaN,'),
        lambda text: text.replace("a cuda by Maker", "another device"),
    ],
)
def test_a_damaged_or_foreign_file_is_made_anew(script, tmp_path, damage):
    choose()
    path = kept(tmp_path)
    whole = path.read_text()
    assert damage(whole) != whole
    path.write_text(damage(whole))
    script.tried.clear()
    chosen, said = choose()
    assert "ncdhw" in script.tried
    assert said.splitlines()[0] == f"note: {path} is damaged or not resact's: the forms are timed anew"
    assert len(said.splitlines()) == 2
    assert chosen.config.kernels == "folded+graph"
    assert path.read_text() == whole


def test_a_folder_that_cannot_be_used_costs_only_time(script, tmp_path):
    (tmp_path / "cache").write_text("a file")
    chosen, said = choose()
    assert chosen.config.kernels == "folded+graph"
    assert "cannot be written: the next run times the forms again" in said
    assert "cannot be read" in said


def test_what_failed_is_tried_again_and_what_is_wrong_is_not(script, tmp_path):
    script.trials["fused"] = Trial(left_out="out of memory", again=True)
    script.trials["shifted"] = Trial(left_out="its gradients are 0.90 from float64's, plain PyTorch's 0.20")
    chosen, said = choose()
    assert chosen.record["forms"]["fused"]["left_out"] == "out of memory"
    assert said.endswith("(timed now; config.json says why not shifted, fused)\n")
    assert "fused" not in json.loads(kept(tmp_path).read_text())["trials"]
    script.tried.clear()
    script.trials["fused"] = Trial(seconds=0.01)
    script.trials["fused+graph"] = Trial(seconds=0.01)
    assert kernels() == "fused"
    assert script.tried == ["fused", "fused+graph"]


def test_where_no_form_passes_it_is_plain_pytorch(script):
    for name in script.trials:
        script.trials[name] = Trial(left_out="wrong bfloat16 convolutions on X")
    chosen, said = choose()
    assert chosen.config == RunConfig.of(SMALL | {"kernels": "eager", "compile": False, "channels_last": False})
    assert not chosen.checked, "so that `rightly_computed` finds the remedy"
    assert said.startswith("kernels: eager, because no form passed its trial (ncdhw: wrong bfloat16 convolutions on X;")
    assert chosen.record["forms"]["folded"]["left_out"] == "wrong bfloat16 convolutions on X"
    for asked in ({"kernels": "graph"}, {"kernels": "compiled"}, {"compile": True}):
        with pytest.raises(UsageError, match=r"it cannot be used here \(ncdhw: wrong.*--kernels eager, or on another"):
            choose(**asked)


def test_layout_and_compilation_that_are_asked_for(script):
    assert kernels(channels_last=False) == "ncdhw+graph"
    assert set(script.tried) == {"ncdhw", "ncdhw+graph"}
    assert kernels(channels_last=True, steps=LONG) == "folded+compiled"
    assert kernels(compile=False, steps=LONG) == "folded+graph"
    script.tried.clear()
    assert kernels(compile=True, batch_size=8) == "folded+compiled", "however long it takes"
    assert script.tried == [*EAGER_FORMS, "folded+compiled"]


def test_the_kinds_that_have_no_form_of_their_own(script):
    assert kernels(kernels="compiled") == "folded+compiled"
    assert "fused" not in script.tried
    script.set(fused=0.05)
    script.trials["fused+graph"] = Trial(seconds=0.2)
    assert kernels(kernels="graph") == "fused+graph", "however slow that is"


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("ncdhw", False), ("channels-last", True), ("folded", True), ("shifted", True), ("fused", True),
        ("ncdhw+compiled", False), ("folded+compiled", True), ("channels-last+graph", True), ("fused+graph", True),
        ("eager", False),
    ],
)  # fmt: skip
def test_a_name_is_taken_at_its_word(script, monkeypatch, name, layout):
    probed = []
    monkeypatch.setattr(device_checks, "probe_kernels", lambda _, **options: probed.append(options) or RIGHT)
    chosen, said = choose(kernels=name)
    config = chosen.config
    assert (config.kernels, config.channels_last, config.compile) == (name, layout, name.endswith("compiled"))
    assert (script.tried, chosen.record, chosen.checked) == ([], None, False)
    if not name.startswith("fused"):
        assert (probed, said) == ([], "")
        return
    layout = torch.channels_last_3d
    assert probed == [{"device": GPU.device, "dtype": torch.bfloat16, "frames": 4, "size": 16, "memory_format": layout}]
    assert said == "kernels: fused kernels right in bfloat16: conv1's output 1.0e-02 from float64, eager 1.2e-02\n"


def test_what_is_asked_for_and_cannot_be_had_is_an_error(script, monkeypatch):
    monkeypatch.setattr(device_checks, "probe_kernels", lambda *_, **__: WRONG)
    monkeypatch.setattr(Ranks, "on_each", lambda _self, make: make())
    for ranks, settings, why in (
        (GPU, {"kernels": "fused"}, "fused kernels wrong in bfloat16: conv1's output 9.0e-01 from float64"),
        (GPU, {"kernels": "fused", "conv": "dense"}, "the network's are dense"),
        (GPU, {"kernels": "fused", "checkpoint_activations": True}, "do not work with --checkpoint-activations"),
        (CPU, {"kernels": "fused"}, "they run on CUDA, and the network is on cpu"),
        (CPU, {"kernels": "graph"}, "CUDA graphs need a CUDA device, not cpu"),
        (CPU, {"kernels": "folded+graph"}, "CUDA graphs need a CUDA device, not cpu"),
        (GPU, {"kernels": "folded+graph", "checkpoint_activations": True}, "do not work with --checkpoint-activations"),
        (replace(GPU, world_size=2), {"kernels": "folded+graph"}, "for one device, and the run has several"),
    ):
        form = settings["kernels"].replace("+", r"\+")
        with pytest.raises(UsageError, match=rf"got kernels '{form}', but .*{why}.*train again with --kernels eager"):
            choose(ranks, **settings)
    with pytest.raises(UsageError, match=r"begun with kernels 'folded\+graph', but .*like the one .*\(NVIDIA H200\)"):
        with_kernels(RunConfig.of(SMALL | {"kernels": "folded+graph"}), CPU, Console(), steps=9, begun_on="NVIDIA H200")


def test_on_a_cpu_without_a_word(script, tmp_path):
    for settings in ({}, {"channels_last": True}, {"compile": True}, {"kernels": "compiled"}):
        chosen, said = choose(CPU, **settings)
        assert (chosen.config.kernels, chosen.record, said) == ("eager", None, "")
        assert chosen.config.channels_last is bool(settings.get("channels_last"))
        assert chosen.config.compile is ("channels_last" not in settings and bool(settings))
    assert script.tried == []
    assert not (tmp_path / "cache").exists()


def test_ones_own_network_is_never_changed(script, own_code):
    config = RunConfig.of({"network": "nets:small", "amp": True, "channels_last": True})
    chosen = with_kernels(config, GPU, Console(), steps=LONG)
    assert (chosen.config.kernels, chosen.config.channels_last, chosen.config.compile) == ("eager", True, False)
    assert script.tried == []


def test_several_devices_share_the_step_and_have_no_graph(script, monkeypatch):
    monkeypatch.setattr(Ranks, "on_each", lambda _self, make: make())
    monkeypatch.setattr(Ranks, "from_first", lambda _self, make: make())
    chosen, _ = choose(replace(GPU, world_size=4), batch_size=32)
    assert {config.recipe.batch_size for config in script.configs} == {8}
    assert chosen.config.recipe.batch_size == 32
    assert chosen.config.kernels == "folded"
    assert (
        chosen.record["forms"]["folded+graph"]["left_out"] == "CUDA graphs are for one device, and the run has several"
    )


def test_norms_of_all_devices_are_for_plain_pytorch(script):
    script.set(fused=0.01)
    chosen, _ = choose(sync_batch_norm=True, steps=LONG)
    assert chosen.config.kernels == "folded"
    assert chosen.config.recipe.sync_batch_norm
    assert script.tried == [*EAGER_FORMS]
    for name in ("fused", "folded+graph", "folded+compiled"):
        assert chosen.record["forms"][name]["left_out"] == "it does not work with --sync-batch-norm"
    for name in ("fused", "graph", "compiled", "folded+graph", "fused+graph"):
        with pytest.raises(UsageError, match="got --sync-batch-norm and --"):
            RunConfig.of({"kernels": name, "sync_batch_norm": True})


def test_another_kind_of_device_has_a_say(script, monkeypatch):
    """It has not been tried there: its parts are compared with float64, and all ranks take plain PyTorch if need be."""
    there = replace(GPU, rank=1, world_size=2)
    monkeypatch.setattr(Ranks, "on_each", lambda _self, make: make())
    monkeypatch.setattr(Ranks, "from_first", lambda _self, make: (make()[0], "a cuda by Another"))
    for found in (None, "wrong bfloat16 convolutions on X"):
        asked = []
        monkeypatch.setattr(kernel_choice, "parity_obstacle", lambda config, _: asked.append(config.kernels) or found)  # noqa: B023
        chosen, said = choose(there)
        assert asked == ["folded"]
        assert chosen.config.kernels == ("folded" if found is None else "eager")
    why = "a cuda by Maker: wrong bfloat16 convolutions on X"
    assert f"kernels: eager instead of folded, which another device cannot use ({why})" in said
    assert chosen.record["not_everywhere"] == why


def test_the_cache_folder_is_the_users(monkeypatch):
    from resact.cache.default_paths import cache_folder

    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/resact")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path(os.environ.get("HOME", "/root")) / ".cache" / "resact"
