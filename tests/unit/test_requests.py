"""Requests whose answers are late: they are sent again, a few of them, and the first answer counts."""

import asyncio
from collections.abc import Sequence

import pytest
from foldstream.storage.places import requests
from foldstream.storage.places.requests import StoreClient


class Slow:
    """Answers requests after given seconds each, with their numbers."""

    def __init__(self, seconds: Sequence[float]) -> None:
        self.seconds, self.asked, self.cancelled = seconds, 0, list[int]()
        self.over = False

    async def ask(self) -> bytes:
        number, self.asked = self.asked, self.asked + 1
        try:
            await asyncio.sleep(self.seconds[number])
        except asyncio.CancelledError:
            if not self.over:  # the end of a loop cancels what is left
                self.cancelled.append(number)
            raise
        return b"%d" % number


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are late after 50 ms, or after three times what is usual."""
    for name in ("FIRST_LATE", "LEAST_LATE"):
        monkeypatch.setattr(requests, name, 0.05)


def answers(store: Slow, count: int, at_once: bool = False) -> list[bytes]:
    """The answers to so many requests, one after the other or all at once."""

    async def ask() -> list[bytes]:
        client = StoreClient("s3://bucket")
        if at_once:
            found = await asyncio.gather(*(client.first_answer(store.ask) for _ in range(count)))
        else:
            found = [await client.first_answer(store.ask) for _ in range(count)]
        await asyncio.sleep(0)  # those that were cancelled notice it
        store.over = True
        return found

    return asyncio.run(ask())


def test_a_late_answer_is_asked_for_again_and_the_first_one_counts() -> None:
    store = Slow([0.0] * 20 + [5.0, 0.0])
    assert answers(store, 21)[-1] == b"21"
    assert store.cancelled == [20]


def test_an_answer_that_comes_before_that_of_its_hedge_counts_too() -> None:
    store = Slow([0.1, 5.0])
    assert answers(store, 1) == [b"0"]
    assert store.cancelled == [1]


def test_a_link_that_is_slow_for_all_is_not_asked_more() -> None:
    store = Slow([0.04] * 20 + [0.08] * 10)
    answers(store, 30)
    assert store.asked == 30, "80 ms is less than three times what is usual"


def test_a_request_is_hedged_once_the_others_are_answered() -> None:
    store = Slow([0.1] * 199 + [5.0] + [0.1] * 20)
    assert len(answers(store, 200, at_once=True)) == 200
    assert store.cancelled[-1] == 199, "others that were a little late had used up the hedges before"


def test_hedges_are_few_where_all_answers_are_late() -> None:
    store = Slow([0.3] * 400)
    answers(store, 200, at_once=True)
    assert 200 < store.asked <= 200 + requests.MOST_HEDGES


def test_an_error_is_raised_at_once() -> None:
    asked = list[str]()

    async def missing() -> bytes:
        asked.append("object")
        raise FileNotFoundError("no such object")

    with pytest.raises(FileNotFoundError, match="no such object"):
        asyncio.run(StoreClient("s3://bucket").first_answer(missing))
    assert len(asked) == 1
