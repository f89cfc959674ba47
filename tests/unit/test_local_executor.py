"""Tasks run on threads of this process, and once they take long, on Dask in it."""

import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest
from foldstream.cluster.dask import executor as module
from foldstream.cluster.dask.executor import LocalExecutor, job_executor
from foldstream.cluster.dask.local import LAST_LOOK_SECONDS
from foldstream.cluster.listener import SILENT, Listener
from foldstream.storage.errors import UsageError
from foldstream.storage.tasks import CONVERSION, RUN, SerialExecutor

TASKS = 30


def square(number: int) -> int:
    return number * number


@pytest.fixture
def announced() -> list[str]:
    return []


@pytest.fixture
def local(announced: list[str]) -> Iterator[LocalExecutor]:
    executor = LocalExecutor(Listener(announce=lambda name, value: announced.append(name)))
    yield executor
    executor.close()


def test_short_work_ends_before_dask_starts(local: LocalExecutor, announced: list[str]) -> None:
    assert dict(local.map(square, range(TASKS))) == {n: n * n for n in range(TASKS)}
    assert dict(local.map(square, [])) == {}
    assert announced == []


@pytest.mark.parametrize("before", [0, 1, 7])
def test_dask_gets_what_is_left_when_work_takes_long(before: int, local: LocalExecutor, announced: list[str]) -> None:
    """Whenever it starts, each task is run once, and its result has its position."""
    results = local.map(square, range(TASKS))
    found = [next(results) for _ in range(before)]
    local.spent = module.PATIENCE_SECONDS + 1
    found += results
    assert sorted(found) == [(n, n * n) for n in range(TASKS)]
    assert announced == ["Dask dashboard"]
    assert dict(local.map(square, range(3))) == {0: 0, 1: 1, 2: 4}
    assert announced == ["Dask dashboard"]


@pytest.mark.parametrize("page", [CONVERSION, RUN])
def test_the_address_that_is_told_shows_the_end_of_the_work(page: str) -> None:
    told = list[str]()
    executor = LocalExecutor(Listener(announce=lambda name, value: told.append(value)))
    try:
        executor.publish(page, {"place": "here", "stage": "cut", "done": 1, "total": 2, "unit": "ranges"})
        executor.dask()
        [address] = told
        assert address.endswith(f"/{page}")
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert answer.status == 200
        closing = time.monotonic()
    finally:
        executor.close()
    assert time.monotonic() - closing >= LAST_LOOK_SECONDS


def test_no_task_runs_any_more_once_the_first_error_is_raised(local: LocalExecutor) -> None:
    running, most = set[int](), TASKS
    failed = threading.Event()

    def work(number: int) -> None:
        if number == 0:
            failed.set()
            raise UsageError("no")
        running.add(number)
        failed.wait()
        time.sleep(0.05)
        running.discard(number)

    with pytest.raises(UsageError, match="no"):
        list(local.map(work, range(most)))
    assert not running


def test_tasks_are_taken_as_there_is_room(local: LocalExecutor) -> None:
    """A conversion stops submitting when it has seen a problem, and a terabyte has too many tasks to hold."""
    taken: list[int] = []
    results = local.map(square, (taken.append(n) or n for n in range(1000)))  # type: ignore[func-returns-value]
    next(results)
    assert len(taken) <= 2 * module.WINDOW * local.threads
    results.close()  # type: ignore[attr-defined]


def test_an_executor_that_is_given_is_used() -> None:
    given = SerialExecutor()
    with job_executor(SILENT, given) as executor:
        assert executor is given
