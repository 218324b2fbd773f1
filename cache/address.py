"""The address of a store: a local path or any fsspec URL."""

import os
from pathlib import Path

from resact.cache.files import Files, LocalFiles
from resact.cache.remote_files import RemoteFiles, without_secrets
from resact.errors import StoreError, ToolError, UsageError


def open_files(path: str | os.PathLike[str]) -> Files:
    """A store's files: local for a path or a `file://` URL, remote for any other URL.

    Raises:
        UsageError: not a URL of a file system that fsspec knows.
        ToolError: the package for it is not installed.
        StoreError: it cannot be reached with the user's settings.
    """
    local = local_path(path)
    if local is not None:
        return LocalFiles(local)
    import fsspec

    url = os.fspath(path)
    if "?" not in url:  # what follows it may be a signature
        scheme, _, rest = url.partition("://")
        url = f"{scheme}://{rest.rstrip('/')}"
    shown = without_secrets(url)
    try:
        system, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ToolError(f"{shown} needs a package that is not installed: {error}") from error
    except ValueError as error:
        raise UsageError(f"got {shown}, expected a path or a URL such as s3://, gs:// or https://: {error}") from error
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise StoreError(f"cannot reach {shown} ({words}): check its address and your settings for it") from error
    if root.startswith(("http://", "https://")) and root == url:
        from resact.cache.http_files import HttpFiles

        return HttpFiles(url, system)
    return RemoteFiles(url, system, root)


def local_path(path: str | os.PathLike[str]) -> Path | None:
    """The folder of a path or a `file://` URL; None for any other URL."""
    text = os.fspath(path)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Path(text)
    return Path(rest) if scheme in ("file", "local") else None
