"""Conversion survives SIGKILL at any moment. `python -m tests.chaos.convert_kills csv 30 0` does more kills."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from foldstream.pipeline.tables.convert import convert
from foldstream.pipeline.tables.sources import describe_source
from foldstream.pipeline.tables.spec.request import ConvertRequest
from foldstream.storage.tasks import Result, SerialExecutor, Task

from .convert_kills import strike_conversions

KILLS = {"csv": 5, "images": 3}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KILLS)
def test_a_conversion_killed_at_any_moment_ends_with_the_same_files(kind: str, seed: int, tmp_path: Path) -> None:
    assert len(strike_conversions(tmp_path, kind, KILLS[kind], seed)) == KILLS[kind]


class HalfWriting(SerialExecutor):
    """Leaves a temporary file behind, as a worker does that is killed while it writes a shard."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        for done in super().map(function, tasks):
            if (self.root / "x").exists():
                (self.root / "x" / ".0.0123abcd.tmp").write_bytes(b"half")
            yield done


def test_what_a_killed_worker_left_half_written_is_gone_at_the_end(digits_csv: Path, tmp_path: Path) -> None:
    root = tmp_path / "out.zarr"
    convert(ConvertRequest((describe_source(str(digits_csv)),), labels=("label",)), root, HalfWriting(root))
    assert not list(root.rglob("*.tmp"))
