"""Every error that a user can meet, in one tree.

    ResactError                  the work cannot be done; the message says got / expected / what to run next
    ├── UsageError (ValueError)  an argument is wrong or arguments contradict each other
    ├── SourceError              videos or lists of a data set are missing or wrong
    ├── DecodeError              ffmpeg gave no usable frames for one video
    ├── ToolError                ffmpeg or a codec library is missing, or differs from the store's version
    ├── StreamError              a batch of clips could not be made
    ├── DiskFullError            the store's file system has no space left
    ├── RankLostError            another of torchrun's processes ended, or its host cannot be reached
    ├── Interrupted              stopped on request (ctrl-C, SIGTERM); the same command continues from here
    ├── RunError                 a training run
    │   ├── RunNotFoundError     nothing at that path
    │   ├── RunLockedError       another training is writing to it
    │   ├── RunWriteError        a file of the run could not be written, such as on a full disk
    │   ├── CheckpointError      a weights file has changed since it was written
    │   └── DivergedError        the loss is not finite
    └── StoreError               the store itself
        ├── StoreNotFoundError   nothing at that path
        ├── StoreLockedError     another prep is writing to it
        ├── SettingsError        it was made with other settings
        └── DamagedError         its bytes have changed since they were written

Two warnings: SlowServerWarning says that a store's web server makes reading slow, CacheWarning that a cache does not
hold all that it is asked to.

Command-line exit codes: UsageError 2, Interrupted 130, every other one 1.
"""


class ResactError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class UsageError(ResactError, ValueError):
    """An argument of a command or a public function is wrong."""

    exit_code = 2


class SourceError(ResactError):
    """The source videos or split lists are missing or wrong."""


class DecodeError(ResactError):
    """ffmpeg gave no usable frames for one video."""


class ToolError(ResactError):
    """ffmpeg or a codec library is missing, or differs from the one the store was made with."""


class StreamError(ResactError):
    """A batch of clips could not be made."""


class DiskFullError(ResactError):
    """The store's file system has no room left."""


class RankLostError(ResactError):
    """Another of torchrun's processes ended, or its host cannot be reached any more."""


class Interrupted(ResactError):  # noqa: N818 - not a fault
    """Stopped on request; the same command continues from here."""

    exit_code = 130


class RunError(ResactError):
    """Something is wrong with a training run."""


class RunNotFoundError(RunError):
    """There is no run at that path."""


class RunLockedError(RunError):
    """Another training is writing to the run."""


class RunWriteError(RunError):
    """A file of the run could not be written."""


class CheckpointError(RunError):
    """A checkpoint or a weights file has changed since it was written."""


class DivergedError(RunError):
    """The loss is not finite."""


class StoreError(ResactError):
    """Something is wrong with a clip store."""


class StoreNotFoundError(StoreError):
    """There is no clip store at that path."""


class StoreLockedError(StoreError):
    """Another prep is writing to the store."""


class SettingsError(StoreError):
    """The store was made with other settings."""


class DamagedError(StoreError):
    """Bytes of the store have changed since they were written."""


class SlowServerWarning(UserWarning):
    """A web server sends whole files instead of the requested ranges."""


class CacheWarning(UserWarning):
    """A cache has no room for some videos, which are read from their store each time."""
