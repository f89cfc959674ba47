"""Turn what users write (a path, a URL or a pattern) into places."""

import glob
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError, check_choice
from .local import LocalPlace
from .place import Place

if TYPE_CHECKING:
    from .bucket import BucketPlace

Location = str | os.PathLike[str]
"""A location as users may give it."""
SCHEMES = ("s3", "gs", "az")
ANY_FOLDERS = "**"  # in a pattern


def locate(location: Location) -> Place:
    """The place of a path, which is made absolute, or of a URL, whose key is taken literally: `%20` is not a space.

    Raises UsageError for an unsupported scheme, and for a URL that does not name an object.
    """
    if isinstance(location, Place):
        return location
    text = os.fspath(location)
    if "://" not in text:
        return LocalPlace(text if _is_absolute(text) else str(Path(text).absolute()))
    place = _in_bucket(text)
    if not place.key:
        example = f"{text.partition('://')[0]}://bucket/digits.zarr"
        raise UsageError(f"{text}: the URL is incomplete; name a bucket and an object or folder in it, as in {example}")
    return place


def matching(pattern: str) -> tuple[Place, list[Place]]:
    """The folder before the first wildcard of a path or a URL, and the matching files, sorted as text.

    The rule is that of Python's `glob`, also in a bucket: `*`, `?`, `[a-z]` and `[!a-z]` match within a name, and `**`
    matches any number of folders; none of them matches a dot at the start of a name.
    """
    in_bucket = "://" in pattern
    parts = pattern.split("/") if in_bucket else list(Path(pattern).parts)
    first = max(_wildcard(parts), 3 if in_bucket else 0)
    folder = _in_bucket("/".join(parts[:first])) if in_bucket else locate(Path(*parts[:first]))
    if pattern.endswith("/"):  # folders
        return folder, []
    if not in_bucket and ANY_FOLDERS not in parts:  # without a look into every folder below
        return folder, [place for place in map(locate, sorted(glob.glob(pattern))) if place.is_file()]
    names = (file.name for file in folder.walk(follow_links=True))
    return folder, sorted((folder / name for name in names if _matches(name.split("/"), parts[first:])), key=str)


def _matches(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether the names of folders and of a file match the parts of a pattern."""
    if not parts or not names:
        return not parts and not names
    part, name = parts[0], names[0]
    shown = part.startswith(".") or not name.startswith(".")
    if part == ANY_FOLDERS:
        if len(parts) == 1:
            parts = [*parts, "*"]
        return _matches(names, parts[1:]) or (shown and _matches(names[1:], parts))
    same = shown and fnmatchcase(name, part) if glob.has_magic(part) else name == part
    return same and _matches(names[1:], parts[1:])


def _wildcard(parts: Sequence[str]) -> int:
    """The position of the first part with a wildcard, or the number of parts."""
    return next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))


def _is_absolute(path: str) -> bool:
    """Whether `pathlib` would leave a path unchanged; `pathlib` itself is much slower."""
    return path[:1] == "/" and "//" not in path and "/./" not in path and not path.endswith(("/", "/."))


def _in_bucket(url: str) -> "BucketPlace":
    from .bucket import BucketPlace  # the client of object stores is imported only where one is used

    scheme, _, rest = url.partition("://")
    if scheme in ("http", "https"):
        raise UsageError(
            f"{url}: not an object store (s3://, gs:// or az://); download the file and give its local path"
        )
    check_choice("the scheme", scheme, SCHEMES)
    bucket, _, key = rest.strip("/").partition("/")
    if "@" in bucket:
        raise UsageError(
            f"a {scheme}:// URL contains credentials; set them in the environment, and name only the bucket in the URL"
        )
    if not bucket or set(bucket) & set("?#%*[] "):
        raise UsageError(f"{url}: '{bucket}' is not a valid bucket name; write {scheme}://bucket/digits.zarr")
    if key and not all(part.strip(".") or len(part) > 2 for part in key.split("/")):
        raise UsageError(f"{url}: object stores have no '.', '..' or empty folders; remove them from the URL")
    return BucketPlace(f"{scheme}://{bucket}", key)
