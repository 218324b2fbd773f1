"""Finds parts of any network by name: frozen parts, and the last layer."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from resact.errors import UsageError

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def freeze(network: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze parts of a network, in place.

    Norms in them are set to evaluation mode, so their running statistics do not change; a later `network.train()`
    undoes that.

    Args:
        network: in training mode.
        patterns: globs on the names of modules and parameters, such as `conv1` or `res[23].*.norm`; `*` also matches
            dots. A module's parameters and the modules in it are frozen with it.

    Raises:
        UsageError: a pattern matches nothing, or nothing would be left to train.
    """
    modules, parameters = dict(network.named_modules()), dict(network.named_parameters())
    for pattern in patterns:
        frozen = [name for name in modules if name and fnmatchcase(name, pattern)]
        found = [name for name in parameters if fnmatchcase(name, pattern)]
        if not frozen and not found:
            raise UsageError(
                f"got --freeze {pattern!r}, which matches no module and no parameter of the network: its parts are "
                f"{', '.join(name for name, _ in network.named_children())}, and theirs, such as "
                f"{max(parameters, key=len)}"
            )
        for name in found:
            parameters[name].requires_grad_(False)
        for name in frozen:
            modules[name].requires_grad_(False)
            for part in modules[name].modules():
                _keep_statistics(part)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise UsageError(f"got --freeze {','.join(patterns)}, which leaves nothing to train: leave a pattern out")
    for module in modules.values():
        own = list(module.parameters(recurse=False))
        if own and not any(parameter.requires_grad for parameter in own):
            _keep_statistics(module)


def _keep_statistics(module: nn.Module) -> None:
    if isinstance(module, _NormBase):
        module.eval()


def last_layer(network: nn.Module, num_classes: int) -> str | None:
    """Name of the layer that computes the logits: the last linear layer or convolution with one output per class.

    Args:
        network: any network; its modules are taken in their order.
        num_classes: outputs of the layer.

    Returns:
        The name; None if there is no such layer.
    """
    found = None
    for name, module in network.named_modules():
        if isinstance(module, _LAYERS) and module.weight.shape[0] == num_classes:
            found = name
    return found
