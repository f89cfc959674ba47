"""The process that decodes images: a decoder that hangs or crashes affects this process and nothing else.

A request is a line of JSON. The process writes the samples, and a hash of each file, into memory shared with the
requesting process, and replies with one line for each file that could not be decoded, and one at the end. Before each
file it writes the file's index into the shared memory, so that the requesting process knows which file was being
decoded.
"""

import json
import mmap
import os
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ...storage.errors import FoldstreamError
from ...storage.format.arrays import ArraySpec
from ...storage.format.images import ImageForm
from ...storage.machine import end_with_parent, keep_freed_memory
from ...storage.pictures.decode import ImageError, decode_image, upright_size
from .files import REMOTE_READS, ImageFile, hash_file, read_ahead, read_image

HASH = np.dtype(np.uint64)
HEAD = struct.Struct("<q56x")  # the index of the file that is being decoded, at the start of the shared memory


def main(descriptor: int) -> None:
    """Serve requests on standard input until it ends."""
    end_with_parent()  # on other systems than Linux at the next request
    keep_freed_memory()
    sys.modules["scipy"] = None  # type: ignore[assignment] # numba searches for its BLAS, which takes 0.1 s
    memory = mmap.mmap(descriptor, 0)
    for line in sys.stdin:
        try:
            if len(memory) < os.fstat(descriptor).st_size:
                memory = mmap.mmap(descriptor, 0)
            for message in decode_files(memory, json.loads(line)):
                reply(message)
            reply({"done": True})
        except Exception:  # noqa: BLE001 - it is raised again in the requesting process
            reply({"error": traceback.format_exc()})


def reply(message: dict[str, Any]) -> None:
    """Reply with a line of JSON."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def decode_files(memory: mmap.mmap, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Decode the files from index `first` on into shared memory. Yields a message for each that fails, with its index
    and the reason, and for each of which something is to be said."""
    form = ImageForm.from_json(request["form"])
    files = [ImageFile(*fields) for fields in request["files"]]
    targets = request["targets"]
    of_target = None if targets is None else target_spec(form, bool(targets["classes"]))
    samples, hashes, drawn = shared_arrays(memory, len(files), form, of_target)
    draw = target_reader(targets, form, drawn)
    with ThreadPoolExecutor(REMOTE_READS) as threads:
        number = request["first"]
        for read in read_ahead(files[number:], threads):
            HEAD.pack_into(memory, 0, number)
            try:
                data = read()
                hashes[number] = hash_file(data)
                if notes := decode_image(data, form, samples[number]):
                    yield {"notes": notes}
                draw(number, data)
            except ImageError as error:
                yield {"invalid": [number, str(error)]}
            except (OSError, FoldstreamError) as error:
                yield {"invalid": [number, f"the file cannot be read ({getattr(error, 'strerror', None) or error})"]}
            number += 1


def target_reader(
    targets: dict[str, Any] | None, form: ImageForm, out: np.ndarray | None
) -> Callable[[int, bytes], None]:
    """A function that draws the target of the image of a number, whose bytes it gets, into its place in `out`."""
    if targets is None or out is None:
        return lambda number, image: None
    from .targets.pixels import draw_mask, draw_target, read_mask

    files = [ImageFile(*fields) for fields in targets["files"]]
    classes, ignored = (np.array(targets[name], np.int64) for name in ("classes", "ignored"))

    def draw(number: int, image: bytes) -> None:
        what, size = "mask" if len(classes) else "target", upright_size(image)
        try:
            data = read_image(files[number])
        except (OSError, FoldstreamError) as error:
            raise ImageError(f"its {what} cannot be read ({getattr(error, 'strerror', None) or error})") from None
        if len(classes):
            draw_mask(read_mask(data), classes, ignored, size, form, out[number])
        else:
            draw_target(data, size, form, out[number])

    return draw


def target_spec(form: ImageForm, masks: bool) -> ArraySpec:
    """The array of targets: masks or images of a form."""
    return ArraySpec("y", "uint8", form.size) if masks else ArraySpec("y", form.dtype, form.sample_shape)


def shared_bytes(count: int, form: ImageForm, target: ArraySpec | None) -> int:
    """The size of the shared memory for `count` files: the head, their hashes, samples and targets."""
    sample = ArraySpec("x", form.dtype, form.sample_shape)
    return HEAD.size + count * (HASH.itemsize + sample.row_bytes + (target.row_bytes if target else 0))


def shared_arrays(
    memory: mmap.mmap, count: int, form: ImageForm, target: ArraySpec | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Views of the shared memory: the samples, (count, channels, height, width), the hashes of the files, (count,)
    uint64, and the targets, (count, …), if there are any."""
    hashes = np.frombuffer(memory, HASH, count, HEAD.size)
    at, arrays = HEAD.size + hashes.nbytes, []
    for spec in filter(None, (ArraySpec("x", form.dtype, form.sample_shape), target)):
        shape = (count, *spec.row_shape)
        arrays.append(np.frombuffer(memory, spec.dtype, int(np.prod(shape)), at).reshape(shape))
        at += arrays[-1].nbytes
    return arrays[0], hashes, arrays[1] if target else None


if __name__ == "__main__":
    main(int(sys.argv[1]))
