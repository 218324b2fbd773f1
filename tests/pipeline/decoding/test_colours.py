"""Each matrix, range and kind of pixels: the lossless frames have the right colours, and the JPEGs have the same."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from tests.pipeline.conftest import FFMPEG, footage
from tests.pipeline.videos import DECODE, EACH_FFMPEG, FIELD, ffmpeg

from resact.cache.codecs import build_codec
from resact.cache.settings import FIRST_RULE
from resact.errors import DecodeError
from resact.pipeline.decoding.decode import VideoDecoder
from resact.pipeline.decoding.filter_graph import Pixels
from resact.pipeline.job.task import encode_frame

# Kr and Kb (ITU-T H.273), and the matrix's number in streams
MATRICES = {
    "bt709": (0.2126, 0.0722, 1),
    "fcc": (0.30, 0.11, 4),
    "bt470bg": (0.299, 0.114, 5),
    "smpte170m": (0.299, 0.114, 6),
    "smpte240m": (0.212, 0.087, 7),
    "bt2020nc": (0.2627, 0.0593, 9),
}
RANGES = {"tv": 0, "pc": 1}
COLOURS = np.array(
    [[200, 40, 40], [40, 190, 50], [50, 60, 200], [210, 205, 60], [70, 200, 200], [200, 60, 190], [128, 128, 128],
     [235, 180, 140]],
)  # fmt: skip
_PATCHES = (2, 4)  # rows and columns of patches of 24x16 pixels

H264 = ("-c:v", "libx264", "-qp", "0", "-threads", "1")
HEVC = ("-c:v", "libx265", "-x265-params", "log-level=none:pools=none:lossless=1")
VP9 = ("-c:v", "libvpx-vp9", "-lossless", "1", "-cpu-used", "8")
MPEG2 = ("-c:v", "mpeg2video", "-q:v", "1")
AV1 = ("-c:v", "libaom-av1", "-crf", "5", "-cpu-used", "8")
FFV1 = ("-c:v", "ffv1")
_VP9_NAMES = {"bt709": "bt709", "bt470bg": "bt601", "smpte170m": "bt601", "smpte240m": "smpte240", "bt2020nc": "bt2020"}


def yuv444(matrix: str, pixel_range: str) -> bytes:
    """A frame of the colours as planes, by the definition of the matrix."""
    kr, kb, _ = MATRICES[matrix]
    red, _, blue = rgb = COLOURS.T / 255
    luma = np.array([kr, 1 - kr - kb, kb]) @ rgb
    planes = luma, (blue - luma) / (2 * (1 - kb)), (red - luma) / (2 * (1 - kr))
    scales = ((255, 0), (255, 128), (255, 128)) if pixel_range == "pc" else ((219, 16), (224, 128), (224, 128))
    return b"".join(patches(np.rint(p * s + o)) for p, (s, o) in zip(planes, scales, strict=True))


def patches(values: np.ndarray) -> bytes:
    """A picture with one value, or one RGB colour, per patch."""
    return values.astype(np.uint8).reshape(*_PATCHES, -1).repeat(24, 0).repeat(16, 1).tobytes()


def write_planes(target: Path, frame: bytes, *arguments: object, pixels: str = "yuv444p") -> Path:
    """Six equal frames as a video."""
    raw = ["-f", "rawvideo", "-pix_fmt", pixels, "-s", "64x48", "-r", 30, "-i", "-"]
    ffmpeg(*raw, *arguments, target, data=frame * 6)
    return target


def tag(encoder: tuple[str, ...], matrix: str, pixel_range: str) -> tuple[object, ...]:
    """Arguments that write matrix and range into the stream without changing pixels."""
    number, full, name = MATRICES[matrix][2], RANGES[pixel_range], encoder[1]
    streams = {
        "libx264": f"h264_metadata=matrix_coefficients={number}:video_full_range_flag={full}",
        "libx265": f"hevc_metadata=matrix_coefficients={number}:video_full_range_flag={full}",
        "libvpx-vp9": f"vp9_metadata=color_space={_VP9_NAMES.get(matrix)}:color_range={pixel_range}",
        "libaom-av1": f"av1_metadata=matrix_coefficients={number}:color_range={pixel_range}",
        "mpeg2video": f"mpeg2_metadata=matrix_coefficients={number}",
    }
    if name in streams:
        return "-bsf:v", streams[name]
    return "-vf", f"setparams=colorspace={matrix}:range={pixel_range}"  # the container says it


def frames_of(video: Path, pixels: Pixels, binary: str = FFMPEG, rule: int = DECODE.rule) -> np.ndarray:
    """(T, H, W, 3), as in a lossless store or a JPEG store."""
    decode = replace(DECODE, fps="source", rule=rule)
    codec = build_codec("jpeg")
    frames = []
    with VideoDecoder(video, decode, pixels, strict=True, binary=binary, timeout_seconds=600) as decoder:
        for frame in decoder:
            frames.append(np.empty((decoder.height, decoder.width, 3), np.uint8))
            if pixels == "rgb24":
                frames[-1][:] = frame
            else:
                codec.decode_into(encode_frame(codec, frame, decoder), frames[-1])
        assert decoder.finish()[1] == []
    return np.stack(frames)


def colours_of(frames_THWC: np.ndarray) -> np.ndarray:
    """(8, 3): the colour in the middle of each patch of the last frame."""
    of_patches = frames_THWC[-1].reshape(2, 24, 4, 16, 3).swapaxes(1, 2)
    return of_patches[:, :, 8:16, 4:12].mean((2, 3)).reshape(8, 3)


def agreement(video: Path, binary: str) -> tuple[float, float]:
    """The largest error of the lossless colours, and the largest difference of JPEG from them."""
    lossless = colours_of(frames_of(video, "rgb24", binary))
    jpeg = colours_of(frames_of(video, "yuvj420p", binary))
    return float(np.abs(lossless - COLOURS).max()), float(np.abs(jpeg - lossless).max())


TAGGED = [
    *((f"{m}-{r}.mp4", m, r, (*H264, "-pix_fmt", "yuv420p")) for m, r in product(MATRICES, RANGES)),
    *((f"hevc10-{m}.mov", m, "tv", (*HEVC, "-pix_fmt", "yuv420p10le")) for m in ("smpte170m", "bt709", "bt2020nc")),
    *((f"h264-422-10-{m}.mkv", m, "tv", (*H264, "-pix_fmt", "yuv422p10le")) for m in ("bt709", "bt2020nc")),
    *((f"h264-444-{m}.mkv", m, r, H264) for m, r in (("bt709", "tv"), ("bt709", "pc"), ("bt2020nc", "tv"))),
    *((f"vp9-{m}-{r}.webm", m, r, (*VP9, "-pix_fmt", "yuv420p")) for m, r in (("bt709", "tv"), ("bt2020nc", "pc"))),
    *((f"mpeg2-{m}.mpg", m, "tv", (*MPEG2, "-pix_fmt", "yuv420p")) for m in ("bt709", "smpte240m")),
    *((f"ffv1-{m}-{r}.mkv", m, r, (*FFV1, "-pix_fmt", "yuv422p")) for m, r in (("bt709", "pc"), ("bt2020nc", "tv"))),
    ("av1-bt709.mkv", "bt709", "tv", (*AV1, "-pix_fmt", "yuv420p")),
]


UNTAGGED = [  # which is BT.601
    ("v.avi", ("-c:v", "mpeg4", "-q:v", "1", "-pix_fmt", "yuv420p")),
    ("v.mp4", (*H264, "-pix_fmt", "yuv420p")),
    ("10 bit.mp4", (*H264, "-pix_fmt", "yuv420p10le")),
    ("444.mkv", (*FFV1, "-pix_fmt", "yuv444p")),
]
RGB = [
    ("gbr.mp4", ("-c:v", "libx264rgb", "-qp", "0")),
    ("gbr.webm", (*VP9, "-pix_fmt", "gbrp")),
    ("gbr 10 bit.mkv", (*FFV1, "-pix_fmt", "gbrp10le")),
    ("bgr.mkv", (*FFV1, "-pix_fmt", "bgr0")),
    ("rgb.avi", ("-c:v", "rawvideo", "-pix_fmt", "bgr24")),
    ("rle.mov", ("-c:v", "qtrle")),
    ("v.gif", ("-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse=dither=none")),
]
CASES = [
    *((name, yuv444(m, r), "yuv444p", (*encoder, *tag(encoder, m, r)), 4) for name, m, r, encoder in TAGGED),
    *((name, yuv444("smpte170m", "tv"), "yuv444p", encoder, 4) for name, encoder in UNTAGGED),
    *((name, patches(COLOURS), "rgb24", encoder, 1) for name, encoder in RGB),
]


@pytest.mark.parametrize("binary", EACH_FFMPEG)
@pytest.mark.parametrize(("name", "frame", "pixels", "encoder", "error"), CASES, ids=[case[0] for case in CASES])
def test_each_matrix_and_range(
    tmp_path: Path, binary: str, name: str, frame: bytes, pixels: str, encoder: tuple[object, ...], error: int
) -> None:
    from_truth, apart = agreement(write_planes(tmp_path / name, frame, *encoder, pixels=pixels), binary)
    assert from_truth <= error
    assert apart <= 4  # as for BT.601


@pytest.mark.parametrize("binary", EACH_FFMPEG)
@pytest.mark.parametrize(("number", "name"), [(8, "ycgco"), (10, "bt2020c"), (12, "chroma-derived-nc"), (14, "ictcp")])
def test_a_matrix_that_ffmpeg_does_not_convert_is_told(tmp_path: Path, binary: str, number: int, name: str) -> None:
    """ffmpeg 5 and 6 would convert it as another one."""
    tagged = "-bsf:v", f"h264_metadata=matrix_coefficients={number}"
    video = write_planes(tmp_path / "v.mp4", yuv444("bt709", "tv"), *H264, "-pix_fmt", "yuv420p", *tagged)
    with pytest.raises(DecodeError, match=f"its colours are coded as {name}, .*: re-encode it as BT.709"):
        frames_of(video, "rgb24", binary)


def psnr(frames: np.ndarray, others: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((frames.astype(float) - others) ** 2)))


@pytest.mark.parametrize("binary", EACH_FFMPEG)
def test_footage_of_any_matrix_is_as_near_to_the_lossless_frames_as_that_of_bt601(tmp_path: Path, binary: str) -> None:
    near = {}
    for matrix in ("smpte170m", "bt709", "smpte240m", "bt2020nc"):
        video = tmp_path / f"{matrix}.mkv"
        converted = f"scale=240:128:in_color_matrix=bt601:out_color_matrix={matrix.removesuffix('nc')}:out_range=tv"
        made = ("-frames:v", 4, "-vf", f"{converted},format=yuv420p", *FFV1, "-colorspace", matrix)
        ffmpeg("-i", footage("bikes"), *made, video)
        near[matrix] = psnr(frames_of(video, "yuvj420p", binary), frames_of(video, "rgb24", binary))
    assert min(near.values()) > near["smpte170m"] - 0.5, near
    assert near["smpte170m"] > 34, near


def test_a_video_without_a_matrix_keeps_the_planes_of_the_first_rule() -> None:
    video = footage("bikes")
    assert np.array_equal(frames_of(video, "yuvj420p"), frames_of(video, "yuvj420p", rule=FIRST_RULE))


@pytest.mark.skipif(not FIELD.is_dir(), reason="the small inputs from the field are not here")
@pytest.mark.parametrize("binary", EACH_FFMPEG)
@pytest.mark.parametrize("pixels", ["rgb24", "yuvj420p"])
def test_the_video_from_the_field(binary: str, pixels: Pixels) -> None:
    frames = frames_of(FIELD / "bt709.mp4", pixels, binary)
    assert np.abs(frames[-1].mean((0, 1)) - (196, 38, 36)).max() <= 3
