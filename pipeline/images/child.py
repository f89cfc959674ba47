"""The process that decodes: a decoder that hangs or dies takes this process with it and nothing else.

It is told by a line of JSON what to decode, puts the samples into memory that it shares with the process that asked,
and answers with a line for each file that gave none, and one at the end. Before each file it writes its number there,
so that whoever asked knows which one it was at.
"""

import ctypes
import json
import mmap
import os
import signal
import struct
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from ...storage.errors import FoldstreamError
from ...storage.format import ImageForm
from ...storage.machine import keep_freed_memory
from .decode import ImageError, decode_image
from .files import ImageFile, read_image

HEAD = struct.Struct("<q56x")  # the number of the file that is being decoded, at the beginning of the shared memory
REMOTE_READS = 16  # at once, of objects
PDEATHSIG = 1  # of Linux's prctl


def main(descriptor: int) -> None:
    """Serve requests on standard input until it ends."""
    if sys.platform == "linux":  # end with the process that started this one; elsewhere at the next request
        ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGKILL)
    keep_freed_memory()
    sys.modules["scipy"] = None  # type: ignore[assignment] # numba looks for its BLAS, which takes a tenth of a second
    memory = mmap.mmap(descriptor, 0)
    for line in sys.stdin:
        try:
            if len(memory) < os.fstat(descriptor).st_size:
                memory = mmap.mmap(descriptor, 0)
            for number, reason in decode_files(memory, json.loads(line)):
                tell({"invalid": [number, reason]})
            tell({"done": True})
        except Exception:  # noqa: BLE001 - it is raised again in the process that asked
            tell({"error": traceback.format_exc()})


def tell(message: dict[str, Any]) -> None:
    """Answer with a line."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def decode_files(memory: mmap.mmap, request: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """Put the samples of the files from number `first` on at their places. Yields those that gave none, and why."""
    form = ImageForm.from_json(request["form"])
    files = [ImageFile(*fields) for fields in request["files"]]
    samples = samples_in(memory, len(files), form)
    with ThreadPoolExecutor(REMOTE_READS) as threads:
        number = request["first"]
        for read in read_ahead(files[number:], threads):
            HEAD.pack_into(memory, 0, number)
            try:
                decode_image(read(), form, samples[number])
            except ImageError as error:
                yield number, str(error)
            except (OSError, FoldstreamError) as error:
                yield number, f"it cannot be read ({getattr(error, 'strerror', None) or error})"
            number += 1


def read_ahead(files: Sequence[ImageFile], threads: Executor) -> Iterator[Callable[[], bytes]]:
    """For each file what gives its bytes. Those of an object store, where one takes long to come and many come at
    once, are on their way by then."""
    ahead: deque[Callable[[], bytes]] = deque()
    for file in files:
        ahead.append(threads.submit(read_image, file).result if "://" in file.place else partial(read_image, file))
        if len(ahead) > REMOTE_READS:
            yield ahead.popleft()
    yield from ahead


def samples_in(memory: mmap.mmap, count: int, form: ImageForm) -> np.ndarray:
    """The samples in shared memory, (count, channels, height, width)."""
    shape = (count, *form.sample_shape)
    return np.frombuffer(memory, form.dtype, int(np.prod(shape)), HEAD.size).reshape(shape)


if __name__ == "__main__":
    main(int(sys.argv[1]))
