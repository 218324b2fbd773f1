"""Validation on held-out groups during training. `evaluate` does the final evaluation."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resact.train.clips.sampling import TestPlan
from resact.train.clips.stream import ClipStream
from resact.train.runs.distributed import Ranks
from resact.train.runs.execution import autocast, memory_format
from resact.train.runs.files.config import RunConfig

VALIDATION_VIEWS = 3
"""Clips per video: its start, middle and end. This number is ours; the test uses ten (paper, sec. 3)."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Validation accuracies, in [0, 1]."""

    video_top1: float
    """Top-1 of videos, with the softmax averaged over a video's clips."""
    clip_top1: float
    videos: int
    """Number of validation videos."""


def validate(
    network: nn.Module,
    stream: ClipStream,
    ranks: Ranks,
    *,
    config: RunConfig,
    stopping: Callable[[], bool],
) -> Validation | None:
    """Validate a network on a `TestPlan`'s clips; None if it has to stop before they are done.

    Args:
        network: its modules return to their present modes afterwards.
        stream: this rank's part of a `TestPlan`.
        ranks: the processes that train together; each must call this.
        config: config of the run, for its precision and memory layout.
        stopping: called after each batch, on all ranks.
    """
    plan = stream.plan
    assert isinstance(plan, TestPlan)
    videos, layout = len(plan) // plan.views, memory_format(config)
    ranks.equalise(list(network.buffers()))  # running statistics are each rank's own, and rank 0's are saved
    scores_VC = torch.zeros(videos, config.architecture.num_classes or 0, device=ranks.device)
    label_V = torch.zeros(videos, dtype=torch.int64, device=ranks.device)
    hits = torch.zeros((), device=ranks.device)
    training = [module for module in network.modules() if module.training]  # all but frozen norms
    network.eval()
    try:
        with torch.no_grad(), stream.epoch(0) as reader:
            for batch in reader:
                if len(batch["label"]):
                    clips = {name: batch[name].to(memory_format=layout) for name in plan.geometry.streams}
                    with autocast(config, ranks.device):
                        logits_BC: Tensor = network(**clips)
                    hits += (logits_BC.argmax(1) == batch["label"]).sum()
                    video_B = torch.tensor(batch["positions"], device=ranks.device) // plan.views
                    scores_VC.index_add_(0, video_B, logits_BC.float().softmax(1))
                    first_B = torch.tensor(batch["positions"], device=ranks.device) % plan.views == 0
                    label_V[video_B[first_B]] = batch["label"][first_B]
                if stopping():
                    return None
    finally:
        for module in training:
            module.training = True
    for total in (scores_VC, label_V, hits):
        ranks.sum(total)
    right = (scores_VC.argmax(1) == label_V).sum().item()
    return Validation(video_top1=right / videos, clip_top1=hits.item() / len(plan), videos=videos)
