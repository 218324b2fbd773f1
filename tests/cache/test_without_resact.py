"""What a person has who opens a JPEG store where resact is not installed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import zarr
from tests.conftest import PATIENCE_SECONDS

from resact.cache.layout import READ_ME, array_name

STORE_PAGE = Path(__file__).parents[2] / "docs" / "store.md"
# In front of a program: as if resact were not there, its entry point for zarr included.
WITHOUT = """
import sys
from importlib import metadata
sys.modules["resact"] = None
entry_points = metadata.entry_points
class Others:
    groups = entry_points().groups
    def select(**kind):
        return metadata.EntryPoints(e for e in entry_points(**kind) if not e.value.startswith("resact"))
metadata.entry_points = lambda **kind: Others.select(**kind) if kind else Others
"""


def run(*parts: str) -> str:
    program = "\n".join((WITHOUT, *parts))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def documented(heading: str) -> str:
    """The lines of Python under a heading of docs/store.md."""
    found = re.search(rf"### {re.escape(heading)}\n.*?```python\n(.*?)```", STORE_PAGE.read_text(), re.S)
    assert found, heading
    return found[1]


def test_the_documented_lines_read_a_jpeg_store_with_pillow(stores, tmp_path: Path) -> None:
    built = stores["jpeg"]
    lines = documented("Reading a `jpeg` store without resact")
    assert len([line for line in lines.splitlines() if line.strip()]) <= 10
    for video_id, pixels in built.pixels.items():
        video, target = built.path / array_name(video_id), tmp_path / "frames.npy"
        run(
            lines,
            "import numpy, simplejpeg",
            f"frames = numpy.stack([numpy.asarray(frame) for frame in read_frames(Path({str(video)!r}))])",
            f"numpy.save({str(target)!r}, frames)",
        )
        frames = np.load(target)
        assert frames.shape == pixels.shape
        assert frames.dtype == np.uint8
        # libjpeg smooths the chroma; the luma is the same
        luma = np.array([0.299, 0.587, 0.114])
        assert np.abs((frames - pixels.astype(float)) @ luma).mean() < 1.5


def test_the_documented_call_gives_the_same_pixels(stores) -> None:
    """Instead of Pillow's."""
    built = stores["jpeg"]
    page = STORE_PAGE.read_text()
    call = 'simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=True)'
    assert f"`{call}`" in page
    lines = documented("Reading a `jpeg` store without resact").replace("from PIL import Image", "import simplejpeg")
    lines = re.sub(r"Image\.open\(io\.BytesIO\((.*?)\)\)", lambda found: call.replace("data", found[1]), lines)
    namespace: dict[str, object] = {}
    exec(lines, namespace)
    for video_id, pixels in built.pixels.items():
        frames = list(namespace["read_frames"](built.path / array_name(video_id)))  # type: ignore[operator]
        np.testing.assert_array_equal(frames, pixels)


def test_what_zarr_says_without_resact_is_in_the_readme_which_comes_first(stores) -> None:
    path = stores["jpeg"].path
    said = run(
        "import json, zarr",
        f"group = zarr.open_group({str(path)!r}, mode='r')",
        "try:",
        "    group['wide']",
        "except Exception as error:",
        "    print(json.dumps([list(group.attrs), group.attrs['README'], str(error)]))",
    )
    names, words, error = json.loads(said)
    assert names[0] == READ_ME == "README"
    assert error == "Unknown codec: 'resact.jpeg'"
    for part in ("Unknown codec", "resact.jpeg", "VIDEO/0.0.0.0", "CRC-32C", "docs/store.md", "xarray"):
        assert part in words
    assert (path / "zarr.json").read_bytes().startswith(b'{"attributes": {"README": "')


def test_arrays_name_their_dimensions_for_xarray(stores) -> None:
    built = stores["jpeg"]
    array = zarr.open_array(built.path / "wide", mode="r")
    assert array.metadata.dimension_names == ("time", "y", "x", "channel")
    assert "dims=array.metadata.dimension_names" in STORE_PAGE.read_text()
