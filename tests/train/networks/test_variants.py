import pytest
import torch
from torch.nn import functional

from resact.train.clips.residual import residual_frames
from resact.train.networks.variants import PAPER_VARIANTS


def test_nine_distinct_variants():
    assert len({(str(variant.options), variant.step) for variant in PAPER_VARIANTS}) == 9


@pytest.mark.parametrize("variant", PAPER_VARIANTS, ids=str)
def test_small_network_overfits_sixteen_random_clips(variant):
    torch.manual_seed(0)
    clips, frames = torch.randint(0, 256, (16, 3, 8, 16, 16), dtype=torch.uint8), 4
    labels = torch.arange(16) % 8
    inputs = {"rgb": clips[:, :, :frames]}
    if variant.step is not None:
        inputs["residual"] = residual_frames(clips[:, :, : frames + variant.step], step=variant.step)
    model = variant.build(num_classes=8, width=1 / 8, depths=(1, 1, 1, 1))
    inputs = {name: (inputs[name].float() - 128) / 74 for name in model.architecture.streams}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    accuracy = 0.0
    for step in range(300):
        loss = functional.cross_entropy(model(**inputs), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 10 == 9:
            model.eval()
            with torch.no_grad():
                accuracy = (model(**inputs).argmax(1) == labels).double().mean().item()
            model.train()
            if accuracy == 1:
                break
    assert accuracy == 1
