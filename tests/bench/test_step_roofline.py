import pytest
from tests.bench.conftest import bench
from tests.bench.test_roofline import meta_model
from tests.commands import call

from resact.bench.roofline import list_work, roofline_rows
from resact.errors import UsageError

SMALL = ("--width", 1 / 16, "--depths", "1,1,1,1", "--frames", 4, "--size", 16, "--batch-size", 2)


def test_the_command_lists_the_least_and_measures_nothing_without_a_gpu(tmp_path):
    result, text = bench(tmp_path, "roofline", *SMALL, "--modality", "both")
    model = meta_model(width=1 / 16, depths=(1, 1, 1, 1))
    assert result["rows"] == roofline_rows(list_work(model, batch=2, frames=4, size=16))
    assert (result["rates"], result["measured"], result["device"]) == (None, None, None)
    assert "copy bandwidth and matrix rate: not measured" in text
    assert "time over the roofline: not measured" in text
    assert "settings" in result


def test_the_command_sets_layers_beside_the_least(tmp_path):
    given = (*SMALL, "--bandwidth", 10, "--rate", 0.1, "--device", "cpu", "--steps", 2)
    result, text = bench(tmp_path, "roofline", *given, "--variants", "ncdhw,shifted", "--modality", "rgb")
    assert "10 GB/s, 0.1 TFLOP/s, given" in text
    assert list(result["measured"]) == ["ncdhw", "shifted"]
    total = sum(row["floor_milliseconds"] for row in result["rows"])
    for found in result["measured"].values():
        assert found["over_floor"] == pytest.approx(found["milliseconds"] / total)
        layers = {row["layer"]: row for row in found["layers"]}
        assert list(layers) == ["conv1", "res2.0", "res3.0", "res4.0", "res5.0", "fc1", "fc2"]
        parts = [row["floor_milliseconds"] for row in result["rows"] if row["layer"].startswith("res3.0.")]
        assert len(parts) == 6
        assert layers["res3.0"]["floor_milliseconds"] == pytest.approx(sum(parts))
        taken = layers["res3.0"]["forward_milliseconds"] + layers["res3.0"]["backward_milliseconds"]
        assert layers["res3.0"]["over_floor"] == pytest.approx(taken / sum(parts))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rate", "700"], "got one of --bandwidth and --rate, expected both or neither"),
        (["--variants", "fast"], "got --variants fast, expected some of ncdhw,"),
        (["--device", "cuda"], "got --device cuda, expected one of cpu"),
    ],
)
def test_the_command_refuses_what_it_does_not_know(words, said):
    with pytest.raises(UsageError, match=said):
        call("bench", "roofline", *SMALL, *words)
