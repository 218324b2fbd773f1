"""The scene of the sample videos: a still background with a window, behind which a textured plane moves.

A single frame says nothing about its class, by construction
------------------------------------------------------------
A frame is a function of the group's appearance, of the camera's shake, and of a state: six numbers, each on
a circle of its own.

- `u, v` of layer A and of layer B: where each layer of texture lies on its torus (the tile has no seam);
- `theta`: the plane's angle;
- `phi`: the phase of an endless zoom, like the pitch of a Shepard tone. Each layer shrinks its view through
  two octaves, is clearest halfway, and has faded out when it starts again; the two layers are half a cycle
  apart.

Each number is an integer modulo 2^32, drawn uniformly. Each frame, a class adds a constant to it (`Still` adds
0). A uniform number plus a constant is uniform again modulo 2^32, so at each frame the six numbers have the
same distribution in all classes. (In the classes that move, the constants of `u, v` depend on theta and phi,
so that left is left on the screen. Theta and phi do not change there, and `u, v` are uniform for any of their
values.) Appearance depends on the group alone; length, speed and shake are drawn in the same way for all
classes. So a frame has the same distribution in all classes, and so has any function of it, such as a frame
encoded on its own.

Frames are equal on all machines: of PCG64 only `integers` and `random` are used; sines and powers are Python
scalars, rounded to fixed point; arrays meet only integers and exactly rounded operations (+ - * / sqrt).

Shapes: `T` frames, `H` 240, `W` 320, `C` channels (RGB), `N` side of a texture tile in texels.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

GENERATOR_VERSION = 1
"""Part of each seed. Frozen: other pixels need another version, and void all results on the sample."""

FPS = 25
HEIGHT, WIDTH = 240, 320

CLASSES = ("MoveLeft", "MoveRight", "MoveUp", "RotateClockwise", "RotateCounterclockwise", "Still", "ZoomIn", "ZoomOut")
"""In alphabetical order, as in UCF101."""

Packed = npt.NDArray[np.uint32]
"""Four bytes a pixel: R, G, B, and alpha where there is one; the little-endian view of (..., 4) uint8."""

_TURN = 1 << 32
"""Each circle of the state has this many points."""
_N = 512
_TILE_BITS = 10
_TEXEL = _TURN // _N
_MIN_FRAMES, _MAX_FRAMES = 88, 110  # 3.52 s to 4.4 s
_SHAKE_PIXELS = 0.75  # each of two waves an axis: 1.5 px at most


@dataclass(frozen=True, order=True)
class SampleVideo:
    """Names one video; everything else about it follows from this."""

    class_name: str
    group: int
    """Group number, from 1. Videos of one group look alike; all are in train, or all are in test."""
    clip: int
    """Clip number in the group, from 1."""

    @property
    def video_id(self) -> str:
        """UCF101's form, such as `v_ZoomIn_g01_c02`."""
        return f"v_{self.class_name}_g{self.group:02d}_c{self.clip:02d}"

    @property
    def num_frames(self) -> int:
        """Frames at 25 fps: 88 to 110."""
        return draw_take(self).num_frames


@dataclass(frozen=True)
class Take:
    """What is drawn for one video; its appearance is its group's."""

    num_frames: int
    start: tuple[int, ...]
    """State at frame 0: uA, vA, uB, vB, theta, phi, each in [0, 2^32)."""
    velocity: tuple[int, ...]
    """What each frame adds to the state."""
    shake: tuple[tuple[float, float], ...]
    """Two waves for x, then two for y: cycles a frame, and phase in radians."""

    def state_at(self, frame: int) -> tuple[int, ...]:
        """The state at `frame`, each number in [0, 2^32)."""
        return tuple((s + frame * v) % _TURN for s, v in zip(self.start, self.velocity, strict=True))

    def shake_at(self, frame: int) -> tuple[float, float]:
        """Shift of the picture to the right and down by the camera's shake, in pixels; each at most 1.5."""
        waves = [_SHAKE_PIXELS * math.sin(2 * math.pi * f * frame + phase) for f, phase in self.shake]
        return waves[0] + waves[1], waves[2] + waves[3]


@lru_cache(maxsize=256)
def draw_take(video: SampleVideo) -> Take:
    """Draw start, speed, length and shake of one video: the same for all classes, except what moves at that speed."""
    rng = np.random.default_rng([GENERATOR_VERSION, 1, CLASSES.index(video.class_name), video.group, video.clip])
    num_frames = int(rng.integers(_MIN_FRAMES, _MAX_FRAMES + 1))
    start = tuple(int(n) for n in rng.integers(_TURN, size=6))
    speed = float(rng.random())
    shake = tuple(((0.6 + 1.2 * float(rng.random())) / FPS, 2 * math.pi * float(rng.random())) for _ in range(4))
    return Take(num_frames, start, _velocity(video.class_name, start, speed), shake)


def _velocity(class_name: str, start: tuple[int, ...], speed: float) -> tuple[int, ...]:
    """What each frame adds to the state; `speed` in [0, 1) lies between the class's slowest and fastest."""
    pixels = (40 + 50 * speed) / FPS  # 40 to 90 px/s
    turn = round((60 + 60 * speed) / 360 / FPS * _TURN)  # 60 to 120 degrees/s
    zoom = round((0.5 + 0.5 * speed) / 2 / FPS * _TURN)  # 0.5 to 1 octave/s; a cycle is two octaves
    if class_name.startswith("Move"):
        right, down = {"MoveLeft": (-1, 0), "MoveRight": (1, 0), "MoveUp": (0, -1)}[class_name]
        # The picture moves right when the texture is looked up further left.
        offsets = []
        for xu, yu, _ in _layers(start):
            offsets += [-round(pixels * (right * xu + down * yu)), -round(pixels * (down * xu - right * yu))]
        return (*offsets, 0, 0)
    theta = {"RotateClockwise": turn, "RotateCounterclockwise": -turn}.get(class_name, 0)
    phi = {"ZoomIn": zoom, "ZoomOut": -zoom}.get(class_name, 0)
    return (0, 0, 0, 0, theta, phi)


def _layers(state: tuple[int, ...]) -> list[tuple[float, float, float]]:
    """How layers A and B lie in the picture.

    For each layer: the change of u for a pixel to the right (`xu`) and for a pixel down (`yu`), in 2^-32 of the
    tile, and its weight in [0, 1]; both weights sum to 1. For v: `xv = -yu`, `yv = xu` (a rotation and a scale).
    """
    angle = 2 * math.pi * state[4] / _TURN
    layers = []
    for half in (0, _TURN // 2):
        phase = 2 * ((state[5] + half) % _TURN) / _TURN  # in [0, 2): octaves since the layer began
        scale = math.pow(2.0, 1 - phase) * _TEXEL  # 2 texels a pixel, down to a half
        ramp = min(phase, 2 - phase)
        weight = ramp * ramp * (3 - 2 * ramp)
        layers.append((scale * math.cos(angle), scale * math.sin(angle), weight))
    return layers


@dataclass(frozen=True)
class Scene:
    """A group's appearance, the same for its videos of all classes."""

    tile: Packed
    """The moving plane's texture, (1024, 1024), periodic in both directions."""
    still: Packed
    """Background, with the window's opacity as alpha: (244, 324), the frame with a margin of 2 pixels."""
    box: tuple[slice, slice]
    """Rows and columns of the frame that the window can reach."""
    centre: tuple[float, float]
    """x and y of the window's centre, about which the plane rotates and zooms, in pixels of the frame."""


@lru_cache(maxsize=16)
def draw_scene(group: int) -> Scene:
    """Draw a group's appearance. This takes tens of milliseconds, so the last few are kept."""
    rng = np.random.default_rng([GENERATOR_VERSION, 0, group])
    tile_NN = _doubled(_pack(_draw_tile(rng, num_shapes=140, smallest=9, largest=30)))
    rows, columns = HEIGHT + 4, WIDTH + 4
    ground_HWC = _draw_tile(rng, num_shapes=25, smallest=20, largest=60)[:rows, :columns]

    # A superellipse (x/a)^n + (y/b)^n = 1 of half the frame's area, n = 2 or 4.
    square = bool(rng.integers(2))
    aspect = 1.05 + 0.3 * float(rng.random())
    unit_area = 3.708 if square else math.pi
    b = math.sqrt(0.5 * HEIGHT * WIDTH / unit_area / aspect)
    a = b * aspect
    cx, cy = ((WIDTH - 1) / 2 + 40 * (float(rng.random()) - 0.5), (HEIGHT - 1) / 2 + 8 * (float(rng.random()) - 0.5))
    x2 = np.square((np.arange(columns) - 2 - cx) / a)[None, :]
    y2 = np.square((np.arange(rows) - 2 - cy) / b)[:, None]
    radius = np.sqrt(np.sqrt(x2 * x2 + y2 * y2)) if square else np.sqrt(x2 + y2)
    alpha_HW = np.clip(0.5 + (1 - radius) * b / 4, 0, 1)  # an edge 4 px wide

    still_HWC = np.concatenate([ground_HWC, alpha_HW[..., None]], axis=2)
    margin = 6  # half of the edge, the shake, and its interpolation
    box = (
        slice(max(0, math.floor(cy - b) - margin), min(HEIGHT, math.ceil(cy + b) + margin)),
        slice(max(0, math.floor(cx - a) - margin), min(WIDTH, math.ceil(cx + a) + margin)),
    )
    return Scene(tile_NN, _pack(still_HWC), box, (cx, cy))


def _draw_tile(rng: np.random.Generator, *, num_shapes: int, smallest: int, largest: int) -> npt.NDArray[np.float64]:
    """A periodic texture, (N, N, 3) in [0, 1]: discs, rings and boxes of random colours on soft noise.

    Edges are soft (4 texels), so that taking the nearest texel does not flicker when the plane moves.
    """
    # Dark and light shapes on a ground between, so that all groups have contrast.
    level = np.array([0.35, 0.65, 0.0, 1.0, 0.15, 0.85])[:, None]
    palette = 0.05 + 0.9 * (0.5 * level + 0.5 * rng.random((6, 3)))
    noise_NN = _noise(rng, 8) * 0.6 + _noise(rng, 32) * 0.4
    tile_NNC: npt.NDArray[np.float64] = palette[0] + (palette[1] - palette[0]) * noise_NN[..., None]
    for _ in range(num_shapes):
        size = smallest + (largest - smallest) * float(rng.random())
        cx, cy = (int(n) for n in rng.integers(_N, size=2))
        angle = 2 * math.pi * float(rng.random())
        thin = 0.3 + 0.5 * float(rng.random())
        kind, colour = int(rng.integers(3)), palette[int(rng.integers(2, 6))]
        reach = math.ceil(1.5 * size) + 3
        offset = np.arange(-reach, reach + 1).astype(np.float64)
        x, y = offset[None, :], offset[:, None]
        if kind == 2:
            cos, sin = math.cos(angle), math.sin(angle)
            outside = np.maximum(np.abs(x * cos + y * sin) - size, np.abs(y * cos - x * sin) - size * thin)
        else:
            outside = np.sqrt(x * x + y * y) - size
            if kind == 1:
                outside = np.abs(outside + size * thin / 2) - size * thin / 2
        alpha = np.clip(0.5 - outside / 4, 0, 1)[..., None]
        patch = np.ix_(np.arange(cy - reach, cy + reach + 1) % _N, np.arange(cx - reach, cx + reach + 1) % _N)
        tile_NNC[patch] = tile_NNC[patch] + (colour - tile_NNC[patch]) * alpha
    return tile_NNC


def _noise(rng: np.random.Generator, cells: int) -> npt.NDArray[np.float64]:
    """Periodic value noise, (N, N) in [0, 1), with `cells` random values along each side."""
    lattice = rng.random((cells, cells))
    position = np.arange(_N) * (cells / _N)
    index = position.astype(np.int64)
    fraction = position - index
    blend = fraction * fraction * (3 - 2 * fraction)
    following = (index + 1) % cells
    rows = lattice[index] + (lattice[following] - lattice[index]) * blend[:, None]
    noise_NN: npt.NDArray[np.float64] = rows[:, index] + (rows[:, following] - rows[:, index]) * blend
    return noise_NN


def _pack(image: npt.NDArray[np.float64]) -> Packed:
    """(..., 3 or 4) in [0, 1] to packed pixels."""
    pixels = np.zeros((*image.shape[:-1], 4), np.uint8)
    pixels[..., : image.shape[-1]] = np.floor(image * 255 + 0.5)
    packed: Packed = pixels.view("<u4")[..., 0].astype(np.uint32)
    return packed


def _doubled(tile_NN: Packed) -> Packed:
    """Twice as many texels in each direction, interpolated, so that a magnified layer shows no steps."""
    for axis in (0, 1):
        between = _mix(tile_NN, np.roll(tile_NN, -1, axis), np.uint32(128))
        tile_NN = np.stack([tile_NN, between], axis + 1).reshape(-1, (1 + axis) * _N)
    return tile_NN


def _mix(first: Packed, second: Packed, weight: Packed | np.uint32) -> Packed:
    """`first + (second - first) * weight / 256` in all four bytes, rounded; `weight` uint32 in [0, 256]."""
    even, half = np.uint32(0x00FF00FF), np.uint32(0x00800080)
    rest = np.uint32(256) - weight
    low = ((first & even) * rest + (second & even) * weight + half) >> np.uint32(8)
    high = ((first >> np.uint32(8)) & even) * rest + ((second >> np.uint32(8)) & even) * weight + half
    mixed: Packed = (low & even) | (high & ~even)
    return mixed


def render_frame(video: SampleVideo, frame: int) -> npt.NDArray[np.uint8]:
    """Frame `frame` of a video: (240, 320, 3) uint8, RGB. Takes about 2 ms."""
    take, scene = draw_take(video), draw_scene(video.group)
    return _render(scene, take.state_at(frame), take.shake_at(frame))


def _render(scene: Scene, state: tuple[int, ...], shake: tuple[float, float]) -> npt.NDArray[np.uint8]:
    image = _shifted(scene.still, *shake)
    rows, columns = scene.box
    x = np.arange(columns.start, columns.stop).astype(np.uint32)[None, :]
    y = np.arange(rows.start, rows.stop).astype(np.uint32)[:, None]
    cx, cy = scene.centre[0] + shake[0], scene.centre[1] + shake[1]
    planes, weights = [], []
    for (xu, yu, weight), u, v in zip(_layers(state), state[0:4:2], state[1:4:2], strict=True):
        # uint32 arithmetic wraps modulo 2^32, which is once around the torus.
        u0, v0 = u - round(xu * cx + yu * cy), v - round(xu * cy - yu * cx)
        a, b = _uint32(xu), _uint32(yu)
        across = (a * x + _uint32(u0)) + b * y
        down = (a * y + _uint32(v0)) - b * x
        row_bits = (down >> np.uint32(32 - _TILE_BITS)) << np.uint32(_TILE_BITS)
        planes.append(scene.tile.ravel()[row_bits | (across >> np.uint32(32 - _TILE_BITS))])
        weights.append(weight)
    plane = _mix(planes[0], planes[1], _uint32(256 * weights[1]))
    window = image[rows, columns]
    alpha = window >> np.uint32(24)
    image[rows, columns] = _mix(window, plane, alpha + (alpha >> np.uint32(7)))
    bytes_HWC = image.astype("<u4", copy=False).view(np.uint8).reshape(HEIGHT, WIDTH, 4)
    return np.ascontiguousarray(bytes_HWC[..., :3])


def _shifted(still_HW: Packed, right: float, down: float) -> Packed:
    """The frame's part of `still_HW`, moved by a fraction of pixels, bilinear."""
    x, y = round((2 - right) * 256), round((2 - down) * 256)
    rows = still_HW[:, x >> 8 : (x >> 8) + WIDTH + 1]
    columns = _mix(rows[:, :-1], rows[:, 1:], np.uint32(x & 255))
    part = columns[y >> 8 : (y >> 8) + HEIGHT + 1]
    return _mix(part[:-1], part[1:], np.uint32(y & 255))


def _uint32(number: float) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    """`number`, rounded and modulo 2^32; an array of one, because numpy's scalars warn when they overflow."""
    return np.array([round(number) % _TURN], np.uint32)
