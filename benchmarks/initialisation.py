"""Does starting each module's last norm at zero help a short training from scratch?

A synthetic task that only motion decides: smooth random textures that drift in one of eight directions, RGB
and residual. Both initialisations see the same clips in the same order. From the repository's root:

    python benchmarks/initialisation.py --seeds 4 --steps 200 --output benchmarks/results/initialisation.json

The last line is one JSON object. Shapes: B batch, C channels, T frames, H height, W width.
"""

import argparse
import json
import math
import platform
import statistics
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from resact.train.clips.residual import residual_frames
from resact.train.networks.models import ActionNetwork, build_model

FRAMES, SIZE, CLASSES, BATCH = 8, 32, 8, 16
NETWORK = {"num_classes": CLASSES, "width": 1 / 8, "depths": (2, 2, 2, 2)}
LEARNING_RATES = (0.02, 0.1)


def draw_clips(count: int, generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
    """Normalised clips (count, 3, FRAMES, SIZE, SIZE) of drifting textures, and the direction of each."""
    labels = torch.randint(CLASSES, (count,), generator=generator)
    angle = labels * (2 * math.pi / CLASSES)
    speed = 1.0 + torch.rand(count, generator=generator)
    coarse = torch.rand(count, 3, SIZE // 4, SIZE // 4, generator=generator)
    texture_BCHW = functional.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic")
    frames = []
    for t in range(FRAMES + 1):
        shift_x, shift_y = (2 * t * speed * f(angle) / SIZE for f in (torch.cos, torch.sin))
        one = torch.ones(count)
        affine = torch.stack([one, 0 * one, shift_x, 0 * one, one, shift_y], dim=1).reshape(count, 2, 3)
        grid = functional.affine_grid(affine, [count, 3, SIZE, SIZE], align_corners=False)
        frames.append(functional.grid_sample(texture_BCHW, grid, padding_mode="reflection", align_corners=False))
    clip_BCTHW = torch.stack(frames, dim=2)
    residual_BCTHW = residual_frames(clip_BCTHW)
    return {"rgb": (clip_BCTHW[:, :, :FRAMES] - 0.5) / 0.25, "residual": residual_BCTHW / 0.1}, labels


def train(model: ActionNetwork, *, seed: int, steps: int, learning_rate: float) -> tuple[list[float], float]:
    """Loss of each step, and accuracy on 256 clips that training never saw."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    losses = []
    for _ in range(steps):
        clips, labels = draw_clips(BATCH, generator)
        loss = functional.cross_entropy(model(**clips), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    model.eval()
    clips, labels = draw_clips(256, torch.Generator().manual_seed(10_000 + seed))
    with torch.no_grad():
        accuracy = (model(**clips).argmax(1) == labels).double().mean().item()
    return losses, accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--output", type=Path, help="also write the JSON object there")
    arguments = parser.parse_args()

    rows = []
    for learning_rate in LEARNING_RATES:
        for zero_init in (False, True):
            runs = []
            for seed in range(arguments.seeds):
                torch.manual_seed(seed)
                model = build_model(**NETWORK, zero_init=zero_init)
                runs.append(train(model, seed=seed, steps=arguments.steps, learning_rate=learning_rate))
            tail = max(1, arguments.steps // 10)
            accuracies = [accuracy for _, accuracy in runs]
            row = {
                "zero_init": zero_init,
                "learning_rate": learning_rate,
                "first_loss": statistics.mean(losses[0] for losses, _ in runs),
                "half_way_loss": statistics.mean(losses[arguments.steps // 2] for losses, _ in runs),
                "last_loss": statistics.mean(statistics.mean(losses[-tail:]) for losses, _ in runs),
                "accuracies": accuracies,
                "median_accuracy": statistics.median(accuracies),
            }
            rows.append(row)
            print(row, flush=True)
    result = {
        "task": f"{CLASSES} drift directions, {FRAMES}x{SIZE}x{SIZE}, chance {1 / CLASSES}",
        "network": NETWORK,
        "seeds": arguments.seeds,
        "steps": arguments.steps,
        "batch": BATCH,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "rows": rows,
    }
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
