"""TensorBoard event files, in a folder or in an object store, with the same credentials as datasets."""

from tensorboard.compat.tensorflow_stub.io.gfile import register_filesystem
from torch.utils.tensorboard import SummaryWriter

from ...storage.places.locate import SCHEMES, locate
from ...storage.places.place import Place


class _Objects:
    """The part of a file system that TensorBoard's writer needs. It writes the whole file at each flush."""

    def exists(self, filename: bytes | str) -> bool:
        return True

    def makedirs(self, path: bytes | str) -> None:
        """Do nothing: an object store has no folders."""

    def join(self, path: bytes | str, *paths: bytes | str) -> str:
        return "/".join(map(_text, (path, *paths)))

    def write(self, filename: bytes | str, content: bytes, binary_mode: bool = False) -> None:
        locate(_text(filename)).write(content)


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def open_logs(folder: Place, purge_step: int) -> SummaryWriter:
    """A writer of event files in a folder. Readers ignore earlier events with a step of `purge_step` or later."""
    if folder.waits_for_network:
        for scheme in SCHEMES:
            register_filesystem(scheme, _Objects())
    return SummaryWriter(str(folder), purge_step=purge_step)
