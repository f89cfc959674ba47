"""Decoding in a monitored child process: a process that hangs is killed, and one that dies is replaced."""

import atexit
import json
import mmap
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, astuple, dataclass
from multiprocessing.connection import wait
from time import monotonic

import numpy as np

from ...storage.errors import WorkerError
from ...storage.format.images import ImageForm
from ...storage.pictures.decode import Notes, add_notes
from .child import HEAD, shared_arrays, shared_bytes, target_spec
from .files import ImageFile

MOST_SECONDS = 60.0  # for one file, or until a new process starts to decode
POLL_SECONDS = 1.0
TIMED_OUT = "decoding timed out"


@dataclass(frozen=True)
class TargetFiles:
    """The targets of images: a file for each, and of masks the pixel values of the classes, in ascending order, and
    those that do not count. Without classes they are images."""

    files: Sequence[ImageFile]
    classes: Sequence[int]
    ignored: Sequence[int]


@dataclass(frozen=True)
class DecodedImages:
    """The samples, (files, channels, height, width), the hashes of the files, (files,) uint64, and their targets if
    there are any: codes of masks, (files, height, width) uint8, or images like the samples. `errors` are the positions
    of files that cannot be decoded, with the reason, and `notes` what is to be said of the others."""

    samples: np.ndarray
    hashes: np.ndarray
    targets: np.ndarray | None
    errors: dict[int, str]
    notes: Notes


@contextmanager
def decode_images(
    files: Sequence[ImageFile], form: ImageForm, seconds: float = MOST_SECONDS, targets: TargetFiles | None = None
) -> Iterator[DecodedImages]:
    """Decode files, and their targets if they have any. The arrays are valid until the context ends.

    Each file has a timeout of `seconds`; a file on which the process dies twice counts as one that cannot be decoded.
    """
    try:
        decoder = _idle.pop()
    except IndexError:
        decoder = ImageDecoder()
    try:
        yield decoder.decode(files, form, seconds, targets)
    finally:
        _idle.append(decoder)


def start_decoder() -> None:
    """Start a process ahead of time if none is idle, because it takes half a second to start."""
    if not _idle:
        decoder = ImageDecoder()
        decoder.start()
        _idle.append(decoder)


class ImageDecoder:
    """A decoding process, and the memory that it shares with this one."""

    def __init__(self) -> None:
        self._descriptor = _anonymous_file()
        self._process: subprocess.Popen[bytes] | None = None
        self._environment: dict[str, str] = {}
        self._memory = self._mapped(HEAD.size)
        atexit.register(self.close)

    def _mapped(self, size: int) -> mmap.mmap:
        os.ftruncate(self._descriptor, size)
        return mmap.mmap(self._descriptor, size)

    def decode(
        self, files: Sequence[ImageFile], form: ImageForm, seconds: float, targets: TargetFiles | None = None
    ) -> DecodedImages:
        """See `decode_images`."""
        if self._environment != os.environ:
            self.close()  # credentials for a store may have been set since it started
        of_target = None if targets is None else target_spec(form, bool(targets.classes))
        size = shared_bytes(len(files), form, of_target)
        if size > len(self._memory):
            self._memory = self._mapped(size)
        errors, notes = dict[int, str](), Notes()
        died_at, first = -1, 0
        places = [astuple(file) for file in files]
        of_targets = targets and {
            "files": [astuple(file) for file in targets.files],
            "classes": targets.classes,
            "ignored": targets.ignored,
        }
        while first < len(files):
            HEAD.pack_into(self._memory, 0, -1)
            request = {"form": asdict(form), "files": places, "targets": of_targets, "first": first}
            started = self._process is None
            end = self._ask(json.dumps(request).encode() + b"\n", errors, notes, seconds)
            if end is None:
                break
            (at,) = HEAD.unpack_from(self._memory)
            if at < 0 and started:
                raise WorkerError(
                    f"the image decoding process exited before it started decoding: {end}; run the same command again"
                )
            if at < 0:
                continue  # an idle process ends with the thread that started it: start another one
            first = at
            if died_at == first or end.startswith(TIMED_OUT):
                errors[first] = end
                first += 1
            else:
                died_at = first  # it may have run out of memory for a moment: try once more
        return DecodedImages(*shared_arrays(self._memory, len(files), form, of_target), errors, notes)

    def _ask(self, request: bytes, errors: dict[int, str], notes: Notes, seconds: float) -> str | None:
        """Send a request. Returns why the process ended, or None if it has tried all files."""
        process = self._process or self.start()
        assert process.stdin
        assert process.stdout
        try:
            process.stdin.write(request)
            process.stdin.flush()
        except BrokenPipeError:
            return self._ended()
        number, since, rest = -1, monotonic(), b""
        while True:
            if wait([process.stdout.fileno()], min(POLL_SECONDS, seconds)):
                data = os.read(process.stdout.fileno(), 1 << 16)
                if not data:
                    return self._ended()
                *lines, rest = (rest + data).split(b"\n")
                for message in map(json.loads, lines):
                    if "error" in message:
                        raise WorkerError(f"the image decoding process failed: {message['error']}")
                    if "done" in message:
                        return None
                    if "notes" in message:
                        add_notes(notes, message["notes"])
                    else:
                        errors[message["invalid"][0]] = message["invalid"][1]
            (at,) = HEAD.unpack_from(self._memory)
            if at != number:
                number, since = at, monotonic()
            elif monotonic() - since > (seconds if at >= 0 else MOST_SECONDS):
                self.close()
                return f"{TIMED_OUT} after {seconds:g} s"

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process."""
        self._environment = dict(os.environ)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "foldstream.pipeline.images.child", str(self._descriptor)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # C libraries write warnings there, one line per file
            pass_fds=(self._descriptor,),
        )
        return self._process

    def _ended(self) -> str:
        assert self._process
        code = self._process.wait()
        self.close()
        return f"the decoder crashed ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process:
            assert process.stdin
            assert process.stdout
            process.kill()
            process.wait()
            with suppress(BrokenPipeError):  # from a request that it no longer read
                process.stdin.close()
            process.stdout.close()


_idle: list[ImageDecoder] = []
"""Idle decoders of this process: starting one takes as long as decoding a few hundred photographs."""


def _anonymous_file() -> int:
    """An anonymous file: in memory on Linux, in the temporary folder on other systems."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("foldstream")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
