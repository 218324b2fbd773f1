"""The user's own networks, given as PACKAGE.MODULE:FACTORY and imported like any Python module."""

import importlib
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from resact.errors import UsageError
from resact.train.networks.architecture import STREAMS, Architecture
from resact.train.networks.cost import Cost, copied_forward


@dataclass(frozen=True, kw_only=True)
class NetworkSource:
    """The code of a user's own network, as recorded in a run, and the network's cost."""

    path: str
    """Absolute path of the module; not compared."""
    files: dict[str, str]
    """File -> its sha256 in hex, for the module and the modules loaded from its package or folder."""
    multiply_adds: int
    """Multiply-adds of one clip of the run's own size, counted when the run was started."""
    parameters: int

    @property
    def cost(self) -> Cost:
        """Cost of one clip."""
        return Cost(self.multiply_adds, self.parameters)

    @property
    def digest(self) -> str:
        """Digest of all files, in hex."""
        return sha256("\n".join(f"{name} {hash_}" for name, hash_ in sorted(self.files.items())).encode()).hexdigest()


def build_own(architecture: Architecture, *, frames: int, size: int) -> nn.Module:
    """The network made by the factory, in training mode, with random weights from torch's global generator.

    Args:
        architecture: has `network` as PACKAGE.MODULE:FACTORY, and a number of classes.
        frames: frames per clip.
        size: height and width of a clip.

    Raises:
        UsageError: the factory cannot be imported, fails, or does not return a network.
    """
    named = architecture.network
    factory = _factory(named)
    given = {"modality": architecture.modality, "num_classes": architecture.num_classes, "frames": frames, "size": size}
    try:
        network = factory(**given, **architecture.network_settings)
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything
        _fail(f"{named} failed", error, f"it is called with {', '.join([*given, *architecture.network_settings])}")
    if not isinstance(network, nn.Module):
        raise UsageError(f"{named} returned {type(network).__name__}, expected a torch.nn.Module")
    return network.train()


def try_own(network: nn.Module, architecture: Architecture, *, frames: int, size: int) -> NetworkSource:
    """Run two clips forward and backward, on the meta device if possible, and record the network's source and cost.

    Args:
        network: network of `build_own`, possibly with frozen parts; it does not change.
        architecture: as in `build_own`.
        frames: as in `build_own`.
        size: as in `build_own`.

    Raises:
        UsageError: it cannot compute such clips, has wrong logits, or has parameters on which they do not depend.
    """
    named, num_classes = architecture.network, architecture.num_classes
    streams = STREAMS[architecture.modality]
    odd = [name for name, value in network.state_dict().items() if not isinstance(value, Tensor)]
    if odd:
        raise UsageError(
            f"{named} keeps {odd[0]} in its state, which is not a tensor: a weights file can only hold tensors"
        )
    batch = 2  # batch norm cannot train on one value per channel, which a single clip may give
    clips = " and ".join(f"{name}= of shape (2, 3, {frames}, {size}, {size})" for name in streams)
    for device in ("meta", "cpu"):  # not all code runs without values
        try:
            with FlopCounterMode(display=False) as counter:
                logits, tensors = copied_forward(network, streams, batch=batch, frames=frames, size=size, device=device)
            right = isinstance(logits, Tensor) and logits.shape == (batch, num_classes)
            if right:
                logits.float().sum().backward()
            break
        except Exception as error:  # noqa: BLE001 - as above
            if device == "cpu":
                _fail(f"{named} cannot compute {clips}", error, "it is called by these names")
    if not right:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(f"{named} returned {got} for {clips}, expected logits of shape {(batch, num_classes)}")
    unused = [name for name, tensor in tensors.items() if tensor.requires_grad and tensor.grad is None]
    if unused:
        raise UsageError(
            f"{named} has parameters on which its logits do not depend: {', '.join(unused)}. Remove them, or leave "
            f"them out of training with --freeze {unused[0]}"
        )
    module = sys.modules[named.partition(":")[0]]
    return NetworkSource(
        path=str(Path(module.__file__ or "").resolve()),
        files=_source_files(module),
        multiply_adds=counter.get_total_flops() // (2 * batch),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
    )


def changed_files(architecture: Architecture, begun: NetworkSource) -> list[str]:
    """Files of a network's code that have changed since its run was started; build the network first."""
    home = _home(sys.modules[architecture.network.partition(":")[0]])
    return sorted(name for name, digest in begun.files.items() if _sha256(home / name) != digest)


def _source_files(module: ModuleType) -> dict[str, str]:
    """File -> sha256, of a module and all modules loaded from its package, or from its folder if it has no package."""
    top = module.__name__.partition(".")[0]
    home, is_package = _home(module), hasattr(sys.modules[top], "__path__")
    hashes = {}
    for name, loaded in sorted(sys.modules.items()):
        file = Path(getattr(loaded, "__file__", None) or "")
        if not file.is_absolute() or not file.is_file():  # some of torch's modules name a file that does not exist
            continue
        path = file.resolve()
        ours = name == top or name.startswith(f"{top}.")
        beside = not is_package and not _is_library(path) and name.partition(".")[0] not in ("resact", "__main__")
        if path.suffix == ".py" and path.is_relative_to(home) and (ours or beside):
            hashes[path.relative_to(home).as_posix()] = _sha256(path)
    return hashes


def _home(module: ModuleType) -> Path:
    """Folder that the module's name is looked up in."""
    path = Path(module.__file__ or "").resolve()
    return path.parents[module.__name__.count(".") + (path.name == "__init__.py")]


def _sha256(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"


def _is_library(path: Path) -> bool:
    """Whether it belongs to Python or an installed package: a user's folder may contain an environment."""
    folders = sysconfig.get_paths()
    return any(path.is_relative_to(Path(folders[kind]).resolve()) for kind in ("stdlib", "purelib", "platlib"))


def _factory(named: str) -> Callable[..., Any]:
    module_name, _, factory_name = named.partition(":")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # noqa: BLE001 - as above
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise UsageError(
                f"got --network {named}, but there is no module {error.name}: expected one that is installed, or "
                f"{module_name.replace('.', '/')}.py in {here} or in a folder of PYTHONPATH"
            ) from None
        _fail(f"got --network {named}, but {module_name} cannot be imported", error)
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        near = get_close_matches(factory_name, [name for name in vars(module) if not name.startswith("_")], n=1)
        there = f": did you mean {near[0]!r}?" if near else f" in {module.__file__}"
        raise UsageError(f"got --network {named}, but {module_name} has no function {factory_name}{there}")
    made: Callable[..., Any] = factory
    return made


def _fail(what: str, error: Exception, hint: str = "") -> NoReturn:
    """Say what the user's code raised, and where.

    Raises:
        UsageError: always.
    """
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    ours = str(Path(__file__).parents[2])
    theirs = [
        frame for frame in frames if not _is_library(Path(frame.filename).resolve()) and ours not in frame.filename
    ]
    last = (theirs or frames)[-1]
    file, line = last.filename, last.lineno
    if isinstance(error, SyntaxError) and error.filename:
        file, line = error.filename, error.lineno
    words = re.sub(r"\s+", " ", str(error)).strip()
    raise UsageError(
        f"{what}: {type(error).__name__}: {words} ({Path(file).name}, line {line})" + (f"; {hint}" if hint else "")
    ) from None
