"""The optimiser and its learning rate, which is a pure function of the step."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from resact.train.runs.files.config import Recipe

_BETA2 = 0.999


def build_optimiser(
    network: nn.Module, recipe: Recipe, *, head: Iterable[nn.Parameter] = (), head_lr_factor: float = 1.0
) -> torch.optim.Optimizer:
    """SGD or AdamW, without weight decay on norms and biases (arXiv 1812.01187, sec. 3.1).

    Args:
        network: its parameters are trained, except frozen ones.
        recipe: the training's recipe.
        head: parameters with their own learning rate.
        head_lr_factor: factor of their learning rate. Each parameter group stores its factor as `lr_factor`.
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
    """Learning rate of one step: linear warm-up to `recipe.lr`, then cosine decay to 0 (arXiv 1608.03983).

    A finished run that was extended has, from there on, the learning rates of a run of all its epochs.

    Args:
        recipe: its warm-up may have any length, up to the whole training.
        step: the step, counted from 0.
        epoch_steps: steps per epoch.
        earlier_epochs: epochs at which the run was finished before, in rising order.
    """
    end = next((epochs for epochs in earlier_epochs if step < epochs * epoch_steps), recipe.epochs)
    steps = end * epoch_steps
    warmup = min(round(recipe.warmup_epochs * epoch_steps), steps)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    return recipe.lr * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
