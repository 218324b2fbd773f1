"""Initial weights for training from scratch: He et al., arXiv 1502.01852 (the paper, sec. 3, names no scheme)."""

from torch import nn

from resact.train.networks.modules import Bottleneck


def initialise(network: nn.Module, *, zero_init: bool = False) -> None:
    """Initialise every weight in place, from torch's global generator.

    Convolutions and fc1, before its ReLU, are He-normal; other linear layers have variance 1 / fan-in; biases
    are 0, norms 1 and 0. `zero_init` starts each module's last norm at 0 (arXiv 1706.02677, sec. 5.1). On the meta
    device, where nothing has a value, this does nothing: PyTorch would load its compiler for it, which takes seconds.
    """
    if any(parameter.is_meta for parameter in network.parameters()):
        return
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv3d):
            # Fan-in, because torch's fan-out ignores groups: it would shrink separable filters by sqrt(C).
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu" if name == "fc1" else "linear")
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm3d):
            module.reset_parameters()
    if zero_init:
        for module in network.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.top.norm.weight)
