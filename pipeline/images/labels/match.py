"""Find images by what a table calls them: paths, also absolute or with other folders before them, names, or stems."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..listing.list import ImageList

NONE, SEVERAL = -1, -2
BY_STEM, BY_NAME = 1, 2


@dataclass(frozen=True)
class Matches:
    """For each key, (keys,) int64: the image's index, NONE or SEVERAL; and how it was found: BY_NAME, BY_STEM, or 0."""

    images: np.ndarray
    ways: np.ndarray


class ImageNames:
    """The images by their names."""

    def __init__(self, images: ImageList) -> None:
        self._images = images
        self._paths = normalized(images.table["path"].combine_chunks())

    def find(self, keys: pa.Array) -> Matches:
        """Find images: by the same path; by a path of which the image's is the end, or that is the end of the image's;
        or so without the suffixes. Backslashes are slashes, and composed and decomposed letters are equal."""
        keys = normalized(keys)
        found, ways = np.full(len(keys), NONE), np.zeros(len(keys), np.int64)
        if self._are_unique:
            found = pc.index_in(keys, self._paths).fill_null(NONE).to_numpy().astype(np.int64)
            ways[found >= 0] = BY_NAME
        for way, index, plain in ((BY_NAME, self._by_name, keys), (BY_STEM, self._by_stem, keys)):
            left = np.flatnonzero(found == NONE)
            if not len(left):
                break
            found[left] = index.find(plain.take(pa.array(left)))
            ways[left] = np.where(found[left] == NONE, 0, way)
        return Matches(found, ways)

    def fitting(self, key: str) -> list[str]:
        """The first images that a key fits, if there are several, for messages."""
        (name,) = normalized(pa.array([key])).to_pylist()
        numbers = self._by_name.candidates(name) or self._by_stem.candidates(name)
        return [self._images.name(number) for number in numbers[:2]]

    @cached_property
    def _are_unique(self) -> bool:
        return bool(pc.count_distinct(self._paths).as_py() == len(self._paths))

    @cached_property
    def _by_name(self) -> "_Index":
        return _Index(self._images, self._paths)

    @cached_property
    def _by_stem(self) -> "_Index":
        return _Index(self._images, pc.replace_substring_regex(self._paths, r"\.[^./]*$", ""))


class _Index:
    """Images by the last part of their paths."""

    def __init__(self, images: ImageList, paths: pa.Array) -> None:
        self._paths = paths
        self._places = normalized(pa.array([place for place, _ in images.containers])).to_pylist()
        self._containers = images.table["container"].to_numpy()
        names = last_part(paths).dictionary_encode()
        codes = names.indices.to_numpy()
        self._names = names.dictionary
        self._order = np.argsort(codes, kind="stable")
        self._starts = np.searchsorted(codes[self._order], np.arange(len(self._names) + 1))

    def find(self, keys: pa.Array) -> np.ndarray:
        """The image of each key, NONE or SEVERAL, (keys,)."""
        codes = pc.index_in(last_part(keys), self._names).fill_null(-1).to_numpy()
        found = np.full(len(keys), NONE)
        starts, counts = self._starts[codes], np.where(codes < 0, 0, self._starts[codes + 1] - self._starts[codes])
        bare = ~pc.match_substring(keys, "/").fill_null(True).to_numpy(zero_copy_only=False)
        simple = bare & (counts == 1)
        found[simple] = self._order[starts[simple]]
        for number in np.flatnonzero((counts > 0) & ~simple).tolist():
            among = self.candidates(keys[number].as_py(), int(codes[number]))
            found[number] = (among[0] if len(among) == 1 else SEVERAL) if among else NONE
        return found

    def candidates(self, key: str, code: int | None = None) -> list[int]:
        """The images that a key fits best: the one with this path; else those whose path is the longest end of the key;
        else those whose path ends with it."""
        if code is None:
            code = self._names.index(key.rpartition("/")[2]).as_py()
        if code < 0:
            return []
        end = f"/{key.lstrip('/')}"
        numbers = self._order[self._starts[code] : self._starts[code + 1]].tolist()
        paths = {number: self._paths[number].as_py() for number in numbers}
        ends = [number for number, path in paths.items() if f"/{key}".endswith(f"/{path}")]
        if ends:
            longest = max(len(paths[number]) for number in ends)
            best = [number for number in ends if len(paths[number]) == longest]
            return [number for number in best if self._whole(number, paths[number]).endswith(end)] or best
        return [number for number, path in paths.items() if self._whole(number, path).endswith(end)]

    def _whole(self, number: int, path: str) -> str:
        """An image's path with that of its folder or archive."""
        return f"{self._places[self._containers[number]]}/{path}"


def normalized(texts: pa.Array) -> pa.Array:
    """Paths with slashes, composed letters, and no `./` before them."""
    if not pc.all(pc.string_is_ascii(texts), min_count=0).as_py():
        texts = pc.utf8_normalize(texts, form="NFC")
    return pc.replace_substring_regex(pc.replace_substring(texts, "\\", "/"), r"^(\./)+", "")


def last_part(paths: pa.Array) -> pa.Array:
    """The names at the end of paths."""
    return pc.replace_substring_regex(paths, r"(?s)^.*/", "")
