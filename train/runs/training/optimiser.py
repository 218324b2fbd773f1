"""The optimiser and its learning rate, which is a pure function of the step."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from resact.train.runs.files.config import Recipe

_BETA2 = 0.999

_BETA2 = 0.999


def build_optimiser(
    network: nn.Module, recipe: Recipe, *, head: Iterable[nn.Parameter] = (), head_lr_factor: float = 1.0
) -> torch.optim.Optimizer:
    """SGD or AdamW; weight decay acts on neither norms nor biases (arXiv 1812.01187, sec. 3.1).

    Args:
        network: whose parameters learn, unless they need no gradient.
        recipe: of the training.
        head: parameters with a learning rate of their own.
        head_lr_factor: by which theirs is larger. Each group of parameters keeps its own as `lr_factor`.
    """
    norms = {id(p) for module in network.modules() if isinstance(module, _BatchNorm) for p in module.parameters()}
    exempt = {id(p) for name, p in network.named_parameters() if name.endswith(".bias")} | norms
    apart = {id(p) for p in head}
    groups = []
    for factor, of_head in ((1.0, False), (head_lr_factor, True)):
        learning = [p for p in network.parameters() if p.requires_grad and (id(p) in apart) is of_head]
        for decay, spared in ((recipe.weight_decay, False), (0.0, True)):
            parameters = [p for p in learning if (id(p) in exempt) is spared]
            if parameters:
                groups.append({"params": parameters, "weight_decay": decay, "lr_factor": factor})
    if recipe.optimiser == "adamw":
        on_gpu = any(p.is_cuda for p in network.parameters())  # `capturable` goes with a CUDA graph
        return torch.optim.AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, _BETA2), capturable=on_gpu)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0)


def learning_rate(recipe: Recipe, step: int, *, epoch_steps: int, earlier_epochs: Sequence[int] = ()) -> float:
    """Of one step: up to `recipe.lr` along a line, and then down to 0 along half a cosine (arXiv 1608.03983).

    A run that was done and went on for more epochs has, from there on, the rates of a run of all its epochs.

    Args:
        recipe: with a warm-up of any length, the whole training included.
        step: counted from 0.
        epoch_steps: steps an epoch.
        earlier_epochs: where the run was done before, in rising order.
    """
    end = next((epochs for epochs in earlier_epochs if step < epochs * epoch_steps), recipe.epochs)
    steps = end * epoch_steps
    warmup = min(round(recipe.warmup_epochs * epoch_steps), steps)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    return recipe.lr * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
