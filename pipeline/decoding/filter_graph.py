"""ffmpeg's arguments for the frames of a store: its filter graph and decoding options."""

import math
from fractions import Fraction
from typing import Literal

import ffmpeg

from resact.cache.settings import FIRST_RULE, RULE, DecodeSettings
from resact.errors import ToolError, UsageError
from resact.pipeline.decoding.cut import Cut
from resact.pipeline.decoding.ffmpeg_log import Treatment
from resact.pipeline.decoding.frame_times import log_stamps, setpts_by_stamps, setpts_on_grid

Pixels = Literal["rgb24", "yuvj420p"]
"""RGB, or full-range 4:2:0 planes in JPEG's colours (BT.601)."""


def decode_arguments(
    source: str, settings: DecodeSettings, pixels: Pixels, *, strict: bool, treatment: Treatment | None = None
) -> list[str]:
    """The ffmpeg arguments that decide the frames, without the program's name and options that restrict it.

    Args:
        source: path of the video.
        settings: frame rate, short side, scaler, maximum length.
        pixels: pixel format of the frames.
        strict: stop at the first error.
        treatment: what this video needs in addition.

    Raises:
        ToolError: the settings have a rule that this version does not know.
    """
    if not FIRST_RULE <= settings.rule <= RULE:
        raise ToolError(
            f"the frames are to be made by rule {settings.rule}, and this resact knows rules {FIRST_RULE} to {RULE}: "
            "install a newer resact"
        )
    treatment = treatment or Treatment()
    cut = treatment.cut
    inputs: dict[str, object] = {"threads": 1, "protocol_whitelist": "file,pipe"}
    if settings.max_seconds is not None and cut is None:
        inputs["t"] = repr(settings.max_seconds)
    if strict:
        inputs["err_detect"] = "explode"
    start = cut.start if cut is not None else None
    seeks = start is not None and start.seconds is not None
    if start is not None and seeks:
        inputs |= {"ss": start.seconds, "noaccurate_seek": None}
    # `V`: a cover picture is not a video.
    video = ffmpeg.input("source", **inputs)["V:0" if treatment.stream is None else str(treatment.stream)]
    if treatment.deinterlace:
        video = video.filter("bwdif", mode="send_frame", deint="interlaced")
    if settings.fps != "source":
        if settings.rule > FIRST_RULE:
            video = _timed(video, settings.fps, treatment)
        video = video.filter("fps", fps=settings.fps, **({"eof_action": "pass"} if treatment.keep_last else {}))
        if cut is not None:
            video = _part(video, cut)
        elif settings.rule > FIRST_RULE and settings.max_seconds is not None:  # the last frame may last for longer
            most = math.floor(Fraction(repr(settings.max_seconds)) * Fraction(settings.fps) + Fraction(1, 2))
            video = video.filter("trim", end_frame=max(most, 1))
    elif cut is not None:
        video = _part_of_source(video, cut)
    side = settings.short_side
    scale = {"w": f"if(lte(iw,ih),{side},-2)", "h": f"if(lte(iw,ih),-2,{side})", "flags": settings.scaler}
    if treatment.square_pixels:
        scale |= {
            "w": f"if(lte(iw*sar,ih),{side},2*round({side}*iw*sar/ih/2))",
            "h": f"if(lte(iw*sar,ih),2*round({side}*ih/(iw*sar)/2),{side})",
        }
    output = {"fps_mode": "passthrough"}
    if settings.rule > FIRST_RULE:  # the muxer refuses time stamps that go back, and needs none
        output["bsf:v"] = "setts=ts=N"
    if pixels == "rgb24":
        output |= {"pix_fmt": pixels, "format": "image2pipe", "vcodec": "ppm"}
    else:
        # Without `bitexact`, planes depend on the processor's vector instructions; RGB frames do not.
        scale |= {"flags": f"{settings.scaler}+bitexact", "out_range": "pc", "out_color_matrix": "bt601"}
        output |= {"format": "yuv4mpegpipe"}
    video = video.filter("scale", **scale)
    if pixels == "yuvj420p":
        if settings.rule == FIRST_RULE:
            output |= {"pix_fmt": pixels, "strict": "-1"}
        else:  # for `yuvj420p`, `scale` of ffmpeg 7.0 ignores `out_color_matrix`
            video = video.filter("format", pix_fmts="yuv420p")
    stream = ffmpeg.output(video, "pipe:1", **output).global_args(
        "-nostdin", "-hide_banner", "-loglevel", "repeat+level+verbose", "-filter_threads", "1",
        "-filter_complex_threads", "1", *(["-xerror"] if strict else []),
        *(["-copyts", "-start_at_zero"] if seeks else []),
    )  # fmt: skip
    arguments = list(ffmpeg.get_args(stream))
    # With `file:`, colons and leading dashes in names have no meaning. ffmpeg-python takes only names in UTF-8.
    arguments[arguments.index("-i") + 1] = f"file:{source}"
    return arguments


def _timed(video: ffmpeg.Stream, fps: str, treatment: Treatment) -> ffmpeg.Stream:
    """Frames with the times by which they are sampled."""
    sampling, cut = treatment.sampling, treatment.cut
    start = None if cut is None else cut.start
    if sampling is not None and sampling.by_stamps:
        origin = None if cut is None or start is None else cut.origin
        return video.filter("setpts", setpts_by_stamps(origin=origin))
    expression = setpts_on_grid(
        fps, None if sampling is None else sampling.rate, after=None if start is None else start.state
    )
    return video.filter("settb", "1/1000000").filter("setpts", expression)


def _part(video: ffmpeg.Stream, cut: Cut) -> ffmpeg.Stream:
    """Cuts a part out of frames at the stored rate."""
    if cut.start is None:  # also frames after the part are decoded, so that all time stamps are logged
        stop = "" if cut.stop is None else f"*lt(n,{cut.stop})"
        return video.filter("select", f"gte(n,{cut.first}){stop}")
    return video.filter("trim", start_pts=cut.first, **({} if cut.stop is None else {"end_pts": cut.stop}))


def _part_of_source(video: ffmpeg.Stream, cut: Cut) -> ffmpeg.Stream:
    """The source's frames that begin within the part, which is given in microseconds after the first frame."""
    origin = "ld(0)" if cut.start is None else f"({cut.origin}*TB)"
    stop = "" if cut.stop is None else f"*lt(t-{origin},{cut.stop - 1}/1000000)"
    first = "st(0,if(eq(n,0),t,ld(0)));" if cut.start is None else ""
    part = f"{first}gte(t-{origin},{cut.first - 1}/1000000){stop}"
    if cut.start is None:
        return video.filter("select", part)
    video = video.filter("setpts", log_stamps())
    if cut.end_ticks is not None:  # so that decoding ends soon after the part
        video = video.filter("trim", end_pts=cut.end_ticks)
    return video.filter("select", part)


def parse_fps(text: str) -> str:
    """Turn `15`, `29.97`, `30000/1001` or `source` into the form of `DecodeSettings.fps`.

    Raises:
        UsageError: not a rate between 0 and 1000.
    """
    if text == "source":
        return text
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        rate = Fraction(0)
    if not 0 < rate <= 1000:
        raise UsageError(
            f"got --fps {text!r}, expected a rate over 0 and up to 1000, such as 15 or 30000/1001, or 'source'"
        )
    return str(rate)
