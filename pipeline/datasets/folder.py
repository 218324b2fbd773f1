"""Any folder of videos as a data set: `<class>/<video>`, or deeper, below a root.

A video's id is its path below the root. Which videos are for test says a CSV, or else a seeded division by group. The
folder may grow between one prep and the next.
"""

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from resact.cache.layout import DOCUMENT
from resact.cache.settings import DatasetSettings
from resact.errors import SourceError, UsageError
from resact.pipeline.datasets.dataset import DATASETS, Dataset, SourceVideo, choose_classes, path_as_id
from resact.pipeline.datasets.division import SPLIT, Division
from resact.pipeline.datasets.split_csv import Lists, read_split_csv

TEST_SHARE = 0.3
"""Of each class's groups, unless asked otherwise; about that of UCF101."""

_LAYOUT = "ROOT/<class>/<video>, in sub-folders of the class where wanted"
_UCF_GROUP = re.compile(r"(.*_g\d+)_", re.DOTALL)
_SIDES = {"train", "training", "test", "testing", "val", "valid", "validation"}
_CLUTTER = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information"}
_SUFFIXES = (
    ".txt .csv .tsv .json .jsonl .xml .yaml .yml .toml .ini .cfg .log .md .rst .html .htm .pdf .doc .docx .xls .xlsx "
    ".srt .vtt .ass .sub .nfo .url .py .ipynb .m .sh .bat .npy .npz .pkl .pt .mat .h5 .hdf5 .parquet .md5 .sha256 "
    ".jpg .jpeg .png .bmp .tif .tiff .svg .webp .heic .wav .mp3 .m4a .aac .flac .zip .tar .gz .tgz .bz2 .xz .7z .rar "
    ".part .crdownload .download .tmp .partial"
)
_NO_VIDEO = frozenset(_SUFFIXES.split())
"""Of files that lie beside videos; some of them ffmpeg would take for one, such as a picture or half a download."""


def load_folder(
    root: Path | None,
    *,
    classes: Sequence[str] | None = None,
    allow_partial: bool = False,
    name: str | None = None,
    splits: Path | None = None,
    test_share: float | None = None,
    split_seed: int | None = None,
    group_pattern: str | None = None,
    flip_safe: bool | None = None,
) -> Dataset:
    """All videos below `root`.

    Args:
        root: the folder; each folder in it is a class.
        classes: only these.
        allow_partial: go on although videos that the CSV names are missing.
        name: of the data set; None for the folder's own.
        splits: CSV of memberships, as in `split_csv`; None to divide by group.
        test_share: of each class's groups, in (0, 1); None for `TEST_SHARE`.
        split_seed: of the division; None for 0.
        group_pattern: regular expression, searched in a video's path below the root; what its one pair of parentheses
            matches is the video's group. None for `..._gNN_...` in the file's name as in UCF101, else the sub-folder
            of the class that it is in; a video that has neither is a group of its own.
        flip_safe: whether a mirrored video keeps its class; None for yes.

    Raises:
        UsageError: contradicting or impossible arguments.
        SourceError: no such folder, no videos of classes in it, or a CSV that does not fit it.
    """
    if root is None:
        raise UsageError(f"prep folder needs --root DIR, the folder that holds your videos as {_LAYOUT}")
    if splits and (test_share is not None or split_seed is not None):
        raise UsageError("got --splits and --test-share or --split-seed: a CSV divides the videos, or chance does")
    share, seed = TEST_SHARE if test_share is None else test_share, split_seed or 0
    if not 0 < share < 1:
        raise UsageError(f"got --test-share {share:g}, expected more than 0 and less than 1, such as {TEST_SHARE}")
    title, pattern = _title(root, name), _pattern(group_pattern)

    found = _Findings(root, splits)
    by_class = found.search()
    _require_classes(root, list(by_class))
    names = [name for videos in by_class.values() for name in videos]
    notes = found.notes()
    if pattern and (own := [name for name in names if not _found_in(name, pattern)]):
        if len(own) == len(names):
            raise UsageError(f"got --group-pattern {group_pattern!r}, which no path matches, such as {names[0]!a}")
        notes.append(f"{len(own):,} videos do not match --group-pattern: each is its own group ({_some(own)})")
    groups = {name: _group(name, pattern) for name in names}
    division = None
    if splits:
        lists = read_split_csv(splits, names)
    else:
        division = _division(groups, share, seed)
        lists = _drawn(division, groups)
    groups |= lists.groups
    listed = [name for name in names if name in lists.memberships]
    missing = sorted(set(lists.memberships) - set(names))
    if listed and classes is not None:
        missing = [name for name in missing if _class_of(name) in classes]
    if missing and not (allow_partial and listed):
        raise SourceError(
            f"{splits} names {len(missing):,} videos that are not below {root} ({_some(missing)}): expected paths "
            f"below it such as {names[0]!a}; correct the list, or take what is there with --allow-partial"
        )
    if unlisted := [name for name in names if name not in lists.memberships]:
        notes.append(f"left out: videos that {splits} does not name: {len(unlisted):,} ({_some(unlisted)})")
    chosen = choose_classes(list(dict.fromkeys(_class_of(name) for name in listed)), classes)
    label_of = {class_name: label for label, class_name in enumerate(chosen)}
    videos = tuple(
        SourceVideo(
            video_id=path_as_id(name),
            class_name=_class_of(name),
            label=label_of[_class_of(name)],
            group=groups[name],
            splits=lists.memberships[name],
            path=root / name,
            name=name,
            problem="not a regular file" if found.is_special(name) else None,
        )
        for name in listed
        if _class_of(name) in label_of
    )
    notes += _doubts(videos, chosen, lists.splits)
    if flip_safe is None:
        notes.append("mirrored videos are taken to keep their class; where left and right matter: --not-flip-safe")
    return Dataset(
        settings=DatasetSettings(
            name=title,
            videos=None,
            all_classes=None,
            classes=chosen,
            splits=lists.splits,
            flip_safe=flip_safe is not False,
            division=division.description if division else None,
        ),
        videos=videos,
        missing=tuple(missing),
        notes=tuple(notes),
        division=division,
    )


@dataclass
class _Findings:
    """What is below a root, as paths with forward slashes."""

    root: Path
    csv: Path | None
    """The user's own, which may lie among the folders."""
    beside: list[str] = field(default_factory=list)
    """Files that are in no class."""
    no_videos: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    """Folders of the root without a video."""
    again: list[str] = field(default_factory=list)
    """Folders that links lead to a second time: those would be twice the same videos, or go round in circles."""
    stores: list[str] = field(default_factory=list)
    _seen: set[tuple[int, int]] = field(default_factory=set)

    def search(self) -> dict[str, list[str]]:
        """Class -> its videos, both sorted; classes without videos are left out."""
        try:
            self._seen.add(_identity(self.root))
            by_class = {}
            for name in self._entries(""):
                if not (self.root / name).is_dir():
                    self.beside.append(name)
                elif self._is_to_search(name):
                    by_class[name] = sorted(self._below(name))
        except OSError as error:
            where = os.fsdecode(error.filename or self.root)
            raise SourceError(f"{where!a} cannot be searched for videos: {error.strerror}") from None
        self.empty = [name for name, videos in by_class.items() if not videos]
        return {name: videos for name, videos in by_class.items() if videos}

    def _below(self, class_name: str) -> Iterator[str]:
        folders = [class_name]  # and not recursion, which a deep tree would exhaust
        while folders:
            for name in self._entries(folders.pop()):
                if (self.root / name).is_dir():
                    folders += [name] if self._is_to_search(name) else []
                elif PurePosixPath(name).suffix.lower() in _NO_VIDEO:
                    self.no_videos.append(name)
                else:
                    yield name

    def _entries(self, folder: str) -> list[str]:
        entries = sorted(entry.name for entry in (self.root / folder).iterdir() if not _is_clutter(entry.name))
        return [f"{folder}/{entry}" if folder else entry for entry in entries]

    def _is_to_search(self, name: str) -> bool:
        path = self.root / name
        identity = _identity(path)
        if (path / DOCUMENT).exists():
            self.stores.append(name)
        elif identity in self._seen:
            self.again.append(name)
        else:
            self._seen.add(identity)
            return True
        return False

    def is_special(self, name: str) -> bool:
        """A pipe, socket or device, which nothing should open."""
        path = self.root / name
        return path.exists() and not path.is_file()

    def notes(self) -> list[str]:
        """What was left out, and why."""
        beside = [
            name for name in self.beside if self.csv is None or (self.root / name).resolve() != self.csv.resolve()
        ]
        reasons = {
            "files beside the folders of the classes": beside,
            "files that are no videos": self.no_videos,
            "folders without a video, which are no classes": self.empty,
            "folders that links lead to again": self.again,
            "Zarr stores": self.stores,
        }
        return [f"left out: {what}: {len(names):,} ({_some(names)})" for what, names in reasons.items() if names]


def _is_clutter(entry: str) -> bool:
    return entry.startswith(".") or entry.lower() in _CLUTTER


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _class_of(name: str) -> str:
    return name.partition("/")[0]


def _some(names: Sequence[str]) -> str:
    # `ascii`, so that line ends, bytes that are no text and look-alikes show.
    return ", ".join(n if n.isascii() and n.isprintable() else ascii(n) for n in names[:3]) + ", ..." * (len(names) > 3)


def _title(root: Path, name: str | None) -> str:
    # Not `resolve`: a link has a name of its own.
    title = Path(os.path.abspath(root)).name if name is None else name  # noqa: PTH100
    source = "--name" if name is not None else "a folder named"
    if not title.isprintable() or not title.strip() or "/" in title or title.startswith("."):
        raise UsageError(f"got {source} {title!r}, expected a name that a file may have: choose one with --name NAME")
    if title.lower() in DATASETS:
        raise UsageError(
            f"got {source} {title!r}, which is the name of another data set: choose one with --name NAME, "
            f"or see `resact prep {title.lower()}`"
        )
    return title


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UsageError(f"got --group-pattern {text!r}, which is no regular expression: {error}") from None
    if pattern.groups != 1:
        raise UsageError(f"got --group-pattern {text!r}, expected one pair of parentheses around what names the group")
    return pattern


def _require_classes(root: Path, classes: Sequence[str]) -> None:
    if not classes:
        raise SourceError(f"{root} has no folder with videos in it, expected {_LAYOUT}")
    if {name.lower() for name in classes} <= _SIDES:
        raise SourceError(
            f"{root} holds {', '.join(classes)}, which are no classes, expected {_LAYOUT}: put the videos, or links "
            "to them, into one folder a class, and name their sides in a CSV for --splits"
        )
    alike: dict[str, str] = {}
    for name in classes:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise SourceError(f"{root} holds a folder {name!a}, whose name is no UTF-8: rename it") from None
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in alike:
            raise SourceError(f"{root} holds the folders {alike[folded]!a} and {name!a}, which look alike: rename one")
        alike[folded] = name


def _group(name: str, pattern: re.Pattern[str] | None) -> str:
    """The group of a video; one name is one group, in whatever classes it is."""
    _, *folders, file = name.split("/")
    if pattern:
        return _found_in(name, pattern) or path_as_id(name)
    if match := _UCF_GROUP.match(file):
        return match[1]
    return folders[0] if folders else path_as_id(name)


def _found_in(name: str, pattern: re.Pattern[str]) -> str | None:
    match = pattern.search(name)
    return match and match[1]


def _division(group_of: Mapping[str, str], share: float, seed: int) -> Division:
    classes: dict[str, set[str]] = {}
    for name, group in group_of.items():
        classes.setdefault(group, set()).add(_class_of(name))
    return Division(test_share=share, seed=seed, groups={g: frozenset(names) for g, names in classes.items()})


def _drawn(division: Division, groups: Mapping[str, str]) -> Lists:
    """As a CSV would say it."""
    side_of = division.memberships()
    return Lists(splits=(SPLIT,), memberships={name: {SPLIT: side_of[group]} for name, group in groups.items()})


def _doubts(videos: Sequence[SourceVideo], classes: Sequence[str], splits: Sequence[str]) -> list[str]:
    """What a user may not have meant."""
    notes = []
    for split in splits:
        sides_of_class: dict[str, set[str]] = {name: set() for name in classes}
        sides_of_group: dict[str, set[str]] = {}
        for video in videos:
            if split in video.splits:
                sides_of_class[video.class_name].add(video.splits[split])
                sides_of_group.setdefault(video.group, set()).add(video.splits[split])
        lacking = [name for name, sides in sides_of_class.items() if len(sides) < 2]
        if lacking:
            notes.append(
                f"{split} has no videos on both sides of {len(lacking):,} classes ({_some(lacking)}), for which it "
                "takes two groups: --group-pattern says what a group is, --splits who is on which side"
            )
        if torn := sorted(group for group, sides in sides_of_group.items() if len(sides) > 1):
            notes.append(f"{split} has videos of {len(torn):,} groups in both train and test ({_some(torn)})")
    if len(classes) == 1:
        notes.append(f"there is only one class, {_some(classes)}: expected {_LAYOUT}")
    return notes
