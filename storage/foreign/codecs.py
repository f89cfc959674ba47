"""The codecs of foreign chunks, as functions from stored to decoded bytes that run without Python's lock."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import google_crc32c
import numcodecs
import numpy as np
from isal import isal_zlib
from numcodecs import blosc

Data: TypeAlias = bytes | np.ndarray
Decode: TypeAlias = Callable[[Data, np.ndarray | None, int], Data]
"""A function of stored bytes, the memory (bytes,) uint8 for the decoded ones or None, and their expected number."""

blosc.use_threads = False  # the threads that read decode in parallel

CHECKSUM_BYTES = 4
OTHERS = {"shuffle", "delta", "fixedscaleoffset", "fletcher32", "bz2", "lzma", "packbits", "astype", "quantize"}
"""Codecs that numcodecs decodes, beside those below."""


def decoder(codecs: Sequence[Mapping[str, Any]]) -> Decode:
    """The function that decodes what the codecs have encoded, one after another. Raises ValueError, with the name, for
    codecs that are not known."""
    steps = [_decoder(codec) for codec in reversed(codecs)]

    def decode(data: Data, out: np.ndarray | None, size: int) -> Data:
        for step in steps[:-1]:
            data = step(data, None, 0)
        return steps[-1](data, out, size)

    return decode


def _decoder(config: Mapping[str, Any]) -> Decode:
    name = str(config["id"])
    if name in ("zlib", "gzip"):
        return _inflate(31 if name == "gzip" else 15)
    if name == "deflate":
        return _inflate(-15, int(config["skip"]))
    if name == "crc32c":
        return _checked
    if name not in OTHERS and name not in ("blosc", "zstd", "lz4"):
        raise ValueError(name)
    codec = numcodecs.get_codec(dict(config))

    def decode(data: Data, out: np.ndarray | None, size: int) -> Data:
        decoded = codec.decode(data, out)
        return decoded if isinstance(decoded, bytes) else np.asarray(decoded).reshape(-1).view(np.uint8)

    return decode


def _inflate(window_bits: int, skip: int = 0) -> Decode:
    """Decompress by zlib, without the first `skip` bytes of what comes out: the header of an NPY file in an archive."""

    def decode(data: Data, out: np.ndarray | None, size: int) -> Data:
        found = isal_zlib.decompress(data, window_bits, max(size + skip, len(data)))
        return np.frombuffer(found, np.uint8)[skip:]

    return decode


def _checked(data: Data, out: np.ndarray | None, size: int) -> Data:
    """Without the CRC-32C at the end. Raises ValueError if it is not that of the bytes."""
    found, stored = data[:-CHECKSUM_BYTES], bytes(data[-CHECKSUM_BYTES:])
    if google_crc32c.value(bytes(found)) != int.from_bytes(stored, "little"):
        raise ValueError("the chunk does not match its checksum")
    return found
