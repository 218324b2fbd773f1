"""Code of a user's own networks, as files beside which a user works."""

from pathlib import Path

_FILES = {
    "blocks.py": """
from torch import nn


def stem(channels):
    return nn.Conv3d(3, channels, 3, stride=(1, 2, 2), padding=1)
""",
    "nets.py": """
import torch
from torch import nn

from blocks import stem

CHANNELS = 2


class Small(nn.Module):
    def __init__(self, *, channels=CHANNELS, **given):
        super().__init__()
        self.given = {**given, "channels": channels}
        streams = ("rgb", "residual") if given["modality"] == "both" else (given["modality"],)
        self.stems = nn.ModuleDict({name: stem(channels) for name in streams})
        self.norm = nn.BatchNorm3d(channels * len(streams))
        self.head = nn.Linear(channels * len(streams), given["num_classes"])

    def forward(self, **clips):
        x = torch.cat([self.stems[name](clip) for name, clip in clips.items()], dim=1)
        return self.head(torch.relu(self.norm(x)).mean((2, 3, 4)))


class NeedsValues(Small):
    def forward(self, **clips):
        if next(iter(clips.values())).mean().item() > 1e9:
            raise ValueError
        return super().forward(**clips)


class Spare(Small):
    def __init__(self, **given):
        super().__init__(**given)
        self.spare = nn.Linear(1, 1)


class Noted(Small):
    def get_extra_state(self):
        return {"noted": 1}


class Pair(Small):
    def forward(self, **clips):
        return super().forward(**clips), clips


class Positional(Small):
    def forward(self, clip):
        return super().forward(rgb=clip)


class Deep(Small):
    def forward(self, **clips):
        return super().forward(**{name: clip[:, :2] for name, clip in clips.items()})


small, needs_values, spare, noted, pair, positional, deep = Small, NeedsValues, Spare, Noted, Pair, Positional, Deep


def picky(num_classes):
    return Small(modality="rgb", num_classes=num_classes)


def fails(*, num_classes, **given):
    raise ValueError("too few classes")


def no_module(**given):
    return given


def wide(*, num_classes, **given):
    return Small(num_classes=num_classes + 1, **given)
""",
    "kit/__init__.py": "",
    "kit/video/__init__.py": "",
    "kit/video/nets.py": """
from torch import nn


class Small(nn.Module):
    def __init__(self, *, num_classes, **given):
        super().__init__()
        self.head = nn.Linear(3, num_classes)

    def forward(self, *, rgb):
        return self.head(rgb.mean((2, 3, 4)))


small = Small
""",
    "broken.py": "\nRATE = 1 / 0\n",
    "unwritten.py": "def small(:\n",
    "missing.py": "import no_such_package\n",
}
MODULES = ("blocks", "nets", "kit", "kit.video", "kit.video.nets", "broken", "unwritten", "missing")


def write_own_code(folder: Path) -> Path:
    """The files, in a folder that is made."""
    for name, text in _FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder
