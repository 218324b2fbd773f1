import copy

import pytest
import torch

from resact.train.networks.cost import count_saved_bytes
from resact.train.networks.models import build_model

SMALL = {"num_classes": 5, "width": 1 / 8, "depths": (2, 1, 1, 1), "dropout": 0.0, "zero_init": False}


def step(model, clips):
    """Loss of one training step, its gradients and the buffers after it."""
    loss = model(**clips).square().sum()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return loss, gradients, dict(model.named_buffers())


@pytest.mark.parametrize(
    ("options", "compiled"),
    [
        ({}, False),
        ({"network": "3d-resnet50"}, False),
        ({"dropout": 0.5}, False),
        ({"depths": (1, 1, 1, 1), "modality": "rgb"}, True),
    ],
    ids=str,
)
def test_checkpointing_changes_no_result(options, compiled):
    plain = build_model(**SMALL | options)
    checkpointed = copy.deepcopy(plain)
    checkpointed.checkpoint_activations = True
    clips = {name: torch.randn(3, 3, 4, 24, 24) for name in plain.architecture.streams}
    results = []
    for model in (plain, checkpointed):
        if compiled:
            model.compile(fullgraph=True, backend="aot_eager")
        torch.manual_seed(0)
        results.append(step(model, clips))
    (loss, gradients, buffers), (loss_again, gradients_again, buffers_again) = results
    assert torch.equal(loss, loss_again)
    for name, gradient in gradients.items():
        assert torch.equal(gradient, gradients_again[name]), name
    # Running statistics too: a naive checkpoint counts each batch twice.
    for name, buffer in buffers.items():
        assert torch.equal(buffer, buffers_again[name]), name


def test_momentum_is_back_after_a_step():
    model = build_model(**SMALL, modality="rgb", checkpoint_activations=True)
    model(rgb=torch.randn(2, 3, 2, 16, 16)).sum().backward()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm3d)]
    assert {norm.momentum for norm in norms} == {0.1}
    assert {int(norm.num_batches_tracked) for norm in norms} == {1}


@pytest.mark.parametrize("options", [{}, {"network": "3d-resnet50"}, {"conv": "dense"}], ids=str)
def test_checkpointing_keeps_less(options):
    with torch.device("meta"):
        model = build_model(**options)
    weights = sum(tensor.nbytes for tensor in model.parameters())
    plain = count_saved_bytes(model) - weights
    model.checkpoint_activations = True
    kept = count_saved_bytes(model) - weights
    # What is kept of res2 to res5 is each module's input; conv1 is not checkpointed.
    assert kept < 0.25 * plain
