"""Data sets as their makers publish them: a folder of videos for each class, lists of three splits, archives.

`ucf101` and `hmdb51` each declare one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from resact.cache.default_paths import data_folder
from resact.cache.settings import DatasetSettings
from resact.errors import SourceError
from resact.pipeline.datasets.dataset import Dataset, SourceVideo, choose_classes, some
from resact.pipeline.datasets.fetch import Fetch, Part, WholeSize
from resact.pipeline.datasets.folder_search import is_clutter
from resact.pipeline.datasets.registry import DatasetKind

SPLITS = ("split1", "split2", "split3")


@dataclass(frozen=True)
class ListedVideo:
    """One video of the lists."""

    video_id: str
    group: str
    splits: dict[str, str]
    """Split -> `train` or `test`; without the splits that do not use it."""


@dataclass(frozen=True)
class Lists:
    """The makers' lists."""

    classes: Sequence[str]
    """All classes, in the order of their labels."""
    videos: Mapping[str, ListedVideo]
    """`class/file name`, as `fold` spells it -> the video."""


@dataclass(frozen=True, kw_only=True)
class PublishedDataset(DatasetKind):
    """A data set with its makers' folders and lists."""

    name: str
    title: str
    """Its name in messages."""
    homepage: str
    whole: WholeSize
    flip_safe: bool
    video_folders: tuple[str, ...]
    """Possible folders of the classes, below the data set's folder; the first one that exists is used."""
    list_folders: tuple[str, ...]
    """Possible folders of the lists; the first one that has a list is used."""
    list_files: str
    """Pattern of the lists' file names."""
    read_lists: Callable[[Path], Lists]
    """Reads the lists in a folder; raises `SourceError` if they are incomplete or wrong."""
    unlisted: Callable[[str], tuple[str, str]]
    """`class/file name` that no list names -> its id and group."""
    fold: Callable[[str], str] = str
    """Makes names comparable; `str.lower` if lists and files differ in case."""
    archives: tuple[Part, ...]
    """The makers' archives of `lists` and `videos`."""

    def load(self, root: Path | None, *, classes: Sequence[str] | None = None, allow_partial: bool = False) -> Dataset:
        """The data set below `root`, or below the data folder or its folder `name`."""
        home, missing_parts = self.find_home(root)
        videos_in, lists_in = self._video_folder(home), self._list_folder(home)
        if videos_in is None:
            each = ", and the archive of each class," if any(part.nested for part in self.archives) else ""
            raise SourceError(
                f"{self.title} is not in {' or '.join(map(str, self._possible_homes(root)))}: fetch it with `resact "
                f"prep {self.name} --download`, or get {' and '.join(part.file.name for part in self.archives)} from "
                f"{self.homepage}, and unpack both{each} into {home} (it then holds "
                f"{self.video_folders[-1]}/<class>/*.avi and {self.list_folders[0]}/{self.list_files})"
            )
        if lists_in is None:
            archives = [part.file.name for part in self.archives if part.what in missing_parts]
            raise SourceError(
                f"{home} has no {self.list_folders[0]}/{self.list_files}: get {some(archives)} from {self.homepage}, "
                "and unpack it there"
            )
        lists = self.read_lists(lists_in)
        chosen = choose_classes(lists.classes, classes)
        label_of = {self.fold(class_name): label for label, class_name in enumerate(chosen)}
        known = set(map(self.fold, lists.classes))
        notes, videos = [], []
        for folder in sorted(path for path in videos_in.iterdir() if path.is_dir()):
            if self.fold(folder.name) in label_of:
                videos += self._videos_of_class(folder, home, lists, chosen, label_of[self.fold(folder.name)])
            elif self.fold(folder.name) not in known and folder != lists_in:
                notes.append(f"{folder} is not a class of {self.name}: left out")
        if archives := sorted(path.name for path in videos_in.glob("*.rar")):
            notes.append(f"not unpacked: {len(archives):,} archives ({some(archives)})")
        if unused := [video.video_id for video in videos if not video.splits and video.problem is None]:
            notes.append(f"stored, but in no split: {len(unused):,} videos ({some(unused)})")
        wanted = {name: video for name, video in lists.videos.items() if name.partition("/")[0] in label_of}
        have = {self._folded(video.path) for video in videos}
        missing = sorted(video.video_id for name, video in wanted.items() if name not in have)
        if missing and not allow_partial:
            present = len({video.label for video in videos if video.problem is None})
            raise SourceError(
                f"{videos_in} holds {len(wanted) - len(missing):,} of the {len(wanted):,} videos and {present} of the "
                f"{len(chosen)} classes that the lists of {self.name} name (missing: {some(missing)}): "
                "complete it, or take a part with --classes NAME,NAME or what is there with --allow-partial"
            )
        settings = DatasetSettings(
            name=self.name,
            videos=len(lists.videos),
            all_classes=len(lists.classes),
            classes=chosen,
            splits=SPLITS,
            flip_safe=self.flip_safe,
        )
        return Dataset(settings=settings, videos=tuple(videos), missing=tuple(missing), notes=tuple(notes))

    def _videos_of_class(
        self, folder: Path, home: Path, lists: Lists, chosen: Sequence[str], label: int
    ) -> list[SourceVideo]:
        videos = []
        for path in sorted(path for path in folder.iterdir() if not is_clutter(path.name)):
            listed = lists.videos.get(self._folded(path))
            problem = None if listed else f"the lists of {self.name} have no video of this name"
            listed = listed or ListedVideo(*self.unlisted(f"{folder.name}/{path.name}"), {})
            videos.append(
                SourceVideo(
                    video_id=listed.video_id,
                    class_name=chosen[label],
                    label=label,
                    group=listed.group,
                    splits=listed.splits,
                    path=path,
                    name=path.relative_to(home).as_posix(),
                    problem=problem,
                )
            )
        return videos

    def plan_fetch(self, root: Path | None, address: str | None = None) -> Fetch | None:
        """The download of the missing parts; None if nothing is missing."""
        home, missing = self.find_home(root)
        parts = [part for part in self.archives if part.what in missing]
        if address is not None:
            parts = [replace(p, file=replace(p.file, url=f"{address.rstrip('/')}/{p.file.name}")) for p in parts]
        return Fetch(name=self.title, whole=self.whole, home=home, parts=tuple(parts)) if parts else None

    def find_home(self, root: Path | None) -> tuple[Path, list[str]]:
        """The folder that holds most of the data set, existing or not, and which of `videos` and `lists` it lacks."""
        homes = self._possible_homes(root)
        lacking = {
            home: {"videos": self._video_folder(home) is None, "lists": self._list_folder(home) is None}
            for home in homes
        }
        home = min(homes, key=lambda home: [*lacking[home].values()])
        missing = [part for part, lacks in lacking[home].items() if lacks]
        return (home if len(missing) < 2 else homes[-1]), missing

    def _possible_homes(self, root: Path | None) -> list[Path]:
        return [root] if root else [data_folder(), data_folder() / self.name]

    def _video_folder(self, home: Path) -> Path | None:
        return next((home / folder for folder in self.video_folders if (home / folder).is_dir()), None)

    def _list_folder(self, home: Path) -> Path | None:
        return next((home / folder for folder in self.list_folders if any((home / folder).glob(self.list_files))), None)

    def _folded(self, path: Path) -> str:
        return self.fold(f"{path.parent.name}/{path.name}")
