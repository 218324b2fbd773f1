"""What the lossy default costs: frames and residuals of a jpeg store against those of a lossless one.

    python benchmarks/jpeg_loss.py JPEG_STORE LOSSLESS_STORE

Peak signal to noise of whole frames, and signal to noise of residuals at 112x112 (centre crop and the resize of
training), over the first frames of videos that are spread evenly over the stores: median, 5th and 95th percentile.
Then frames decoded a second on one core, with JPEG's plain chroma upsampling, which reads use, and the fancy one.
The last line is one JSON object.
"""

import argparse
import json
import time

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch

from resact.cache.provenance import provenance
from resact.cache.store import open_store
from resact.train.clips.residual import residual_frames
from resact.train.clips.transform import resize_clip

FRAMES, SIZE, STEPS = 40, 112, (1, 2, 4)


def decibels(signal: float, noise: float) -> float:
    return float(10 * np.log10(signal / noise))


def shrunk(frames_NHWC: npt.NDArray[np.uint8]) -> torch.Tensor:
    """(1, 3, N, 112, 112), the centre crop."""
    _, height, width, _ = frames_NHWC.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    clip_TCHW = resize_clip(torch.from_numpy(frames_NHWC), top=top, left=left, side=side, size=SIZE)
    return clip_TCHW.transpose(0, 1)[None]


def compared(lossy: npt.NDArray[np.uint8], lossless: npt.NDArray[np.uint8]) -> dict[str, float]:
    error = lossy.astype(np.int32) - lossless
    found = {"frames": decibels(255**2, float(np.square(error).mean()))}
    small_lossy, small = shrunk(lossy), shrunk(lossless)
    for step in STEPS:
        right = residual_frames(small, step=step).double()
        noise = residual_frames(small_lossy, step=step).double() - right
        found[f"residual step {step}"] = decibels(right.square().mean().item(), noise.square().mean().item())
    return found


def decode_rate(encoded: list[bytes], *, plain: bool) -> float:
    """Frames a second of processor time, the best of three rounds."""
    seconds = []
    for _ in range(3):
        begin = time.process_time()
        for data in encoded:
            simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=plain)
        seconds.append(time.process_time() - begin)
    return len(encoded) / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jpeg")
    parser.add_argument("lossless")
    parser.add_argument("--videos", type=int, default=60)
    options = parser.parse_args()
    jpeg, lossless = open_store(options.jpeg), open_store(options.lossless)
    ids = [name for name, frames in zip(jpeg.index.video_id, jpeg.index.num_frames, strict=True) if frames > max(STEPS)]
    ids = ids[:: max(1, len(ids) // options.videos)][: options.videos]
    rows, encoded = [], []
    for name in ids:
        stop = min(FRAMES, int(jpeg.index.num_frames[jpeg.index.row_of(name)]))
        frames = lossless.read(name, 0, stop)
        rows.append(compared(jpeg.read(name, 0, stop), frames))
        encoded += [simplejpeg.encode_jpeg(frame, 95, "RGB", "420") for frame in frames[::4]]
    result: dict[str, object] = {"videos": len(ids), "frames a video": FRAMES}
    for name in rows[0]:
        low, middle, high = np.percentile([row[name] for row in rows], [5, 50, 95])
        result[name] = {"median": middle, "p5": low, "p95": high}
        print(f"{name:16} {middle:5.1f} dB ({low:.1f} to {high:.1f})")
    for kind, plain in {"plain": True, "fancy": False}.items():
        result[f"decode, {kind} upsampling"] = rate = decode_rate(encoded, plain=plain)
        print(f"{kind} upsampling: {rate:,.0f} frames/s of {len(encoded)} frames")
    print(json.dumps(result | {"provenance": provenance()}))


if __name__ == "__main__":
    main()
