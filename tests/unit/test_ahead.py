"""Requests ahead of their use: as many as a link carries, none twice, within a number of bytes."""

import heapq
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from queue import Queue

import numpy as np
import pytest
from foldstream.storage.blocks.ahead import BURST, LEAST_DEPTH, LEAST_RATE, BlocksAhead, Depth, Key, Sent
from foldstream.storage.errors import DatasetError

SIZE = 500_000


@pytest.mark.parametrize("latency", [0.001, 0.03, 0.1])
@pytest.mark.parametrize("rate", [1e8, 1e9])
def test_as_much_is_on_its_way_as_the_link_carries(latency: float, rate: float) -> None:
    depth, now, under_way, link_free = Depth(), 0.0, 0, 0.0
    answers: list[tuple[float, Sent]] = []
    seconds = max(2.0, 40 * latency)
    half = 0
    while now < seconds:
        while under_way < depth.bytes:
            link_free = max(link_free, now + latency) + SIZE / rate
            heapq.heappush(answers, (link_free, Sent(now, depth.arrived)))
            under_way += SIZE
        now, sent = heapq.heappop(answers)
        under_way -= SIZE
        depth.answered(SIZE, sent, now)
        half = half or (depth.arrived if now > seconds / 2 else 0)
    assert (depth.arrived - half) / (seconds / 2) > 0.95 * rate
    assert under_way <= max(LEAST_DEPTH, 3 * rate * (latency + SIZE / rate)) + SIZE, "more waits in queues than needed"


def test_a_long_way_is_filled_from_the_start() -> None:
    assert Depth(0.1).bytes == pytest.approx(2 * 125e6 * 0.1)
    assert Depth(0.001).bytes == Depth().bytes == LEAST_DEPTH


def test_requests_begin_at_the_pace_of_a_link_until_it_has_shown_its_own() -> None:
    depth = Depth(0.1)
    assert [depth.paced(when) for when in (5.0, 5.125, 9.0)] == [BURST, BURST + int(LEAST_RATE / 8), depth.bytes]
    depth.answered(SIZE, Sent(5.0, 0), 5.1)
    assert depth.paced(5.1) == depth.bytes
    assert Depth().paced(5.0) == LEAST_DEPTH


def test_what_a_link_has_carried_long_ago_no_longer_counts() -> None:
    depth = Depth()
    depth.answered(1000 * SIZE, Sent(0.0, 0), 1.0)
    assert depth.bytes > LEAST_DEPTH
    depth.answered(SIZE, Sent(20.0, depth.arrived), 20.1)
    assert depth.bytes == LEAST_DEPTH


class Store:
    """Requests that are answered when a test says so."""

    def __init__(self) -> None:
        self.sent: list[Key] = []
        self.answers: dict[Key, Future[np.ndarray]] = {}
        self.told = Queue[Key]()
        self.at_once = False

    def request(self, keys: Sequence[Key]) -> tuple[list[slice], Future[np.ndarray]]:
        self.sent += keys
        self.told.put(keys[0])
        self.answers[keys[0]] = answer = Future[np.ndarray]()
        if self.at_once:
            self.answer(keys[0][1])
        return [slice(number * SIZE, (number + 1) * SIZE) for number in range(len(keys))], answer

    def answer(self, block: int) -> None:
        self.answers["x", block].set_result(stored(b"%d" % block))


def stored(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def plan(*blocks: int) -> Iterator[list[Key]]:
    return ([("x", block)] for block in blocks)


def test_no_more_is_requested_than_has_room_until_it_is_taken() -> None:
    store = Store()
    ahead = BlocksAhead(store.request, 3 * SIZE)
    ahead.follow(plan(*range(10)))
    assert [block for _, block in store.sent] == [0, 1, 2]
    for block in range(3):
        store.answer(block)
    assert len(store.sent) == 3
    assert ahead.take(("x", 1)).tobytes() == b"1"
    assert [block for _, block in store.sent] == [0, 1, 2, 3]


def test_no_more_is_on_its_way_than_the_link_carries() -> None:
    store, first = Store(), -(-LEAST_DEPTH // SIZE)
    ahead = BlocksAhead(store.request, 100 * SIZE)
    ahead.follow(plan(*range(60)))
    assert [store.told.get_nowait() for _ in store.sent] == [("x", block) for block in range(first)]
    store.answer(0)
    assert store.told.get(timeout=20) == ("x", first)
    assert len(store.sent) == first + 1


def test_a_long_way_is_filled_before_anything_arrives_but_not_at_once() -> None:
    store = Store()
    ahead = BlocksAhead(store.request, 100 * SIZE, latency=0.1)
    ahead.follow(plan(*range(100)))
    at_once = len(store.sent)
    wanted = -(-Depth(0.1).bytes // SIZE)
    assert BURST // SIZE <= at_once < wanted
    assert [store.told.get(timeout=20) for _ in range(wanted)] == [("x", block) for block in range(wanted)]


def test_what_is_needed_before_its_turn_is_requested_once() -> None:
    store = Store()
    ahead = BlocksAhead(store.request, 2 * SIZE)
    ahead.follow(plan(0, 1, 2, 3, 4))
    store.at_once = True
    assert ahead.take(("x", 3)).tobytes() == b"3"
    for block in (0, 1):
        store.answer(block)
    assert [ahead.take(("x", block)).tobytes() for block in (0, 1, 2, 4)] == [b"0", b"1", b"2", b"4"]
    assert sorted(block for _, block in store.sent) == [0, 1, 2, 3, 4]


def test_the_error_of_a_request_is_that_of_its_block() -> None:
    store = Store()
    ahead = BlocksAhead(store.request, 2 * SIZE)
    ahead.follow(plan(0, 1, 2))
    store.answers["x", 0].set_exception(DatasetError("the store refuses"))
    store.answer(1)
    with pytest.raises(DatasetError, match="the store refuses"):
        ahead.take(("x", 0))
    assert [block for _, block in store.sent] == [0, 1, 2], "what failed makes room too"
    assert ahead.take(("x", 1)).tobytes() == b"1"


def test_another_plan_keeps_what_it_needs_soon_and_drops_the_rest() -> None:
    store = Store()
    ahead = BlocksAhead(store.request, 3 * SIZE)
    ahead.follow(plan(*range(10)))
    ahead.follow(plan(2, 7, 1, 8, 9))
    assert [block for _, block in store.sent] == [0, 1, 2, 7]
    assert store.answers["x", 0].cancelled()
    assert not store.answers["x", 1].cancelled()


def test_what_another_plan_keeps_is_not_requested_again_once_it_is_taken() -> None:
    store = Store()
    ahead = BlocksAhead(store.request, 3 * SIZE)
    ahead.follow(plan(*range(10)))
    ahead.follow(plan(*range(10)))
    store.answer(2)
    assert ahead.take(("x", 2)).tobytes() == b"2"
    assert [block for _, block in store.sent] == [0, 1, 2, 3]


def test_neighboring_blocks_are_one_request_and_taken_one_by_one() -> None:
    store = Store()
    ahead = BlocksAhead(store.request, 9 * SIZE)
    ahead.follow(iter([[("x", 3), ("x", 4), ("x", 5), ("y", 6)], [("x", 9)]]))
    assert [*store.answers] == [("x", 3), ("y", 6), ("x", 9)]
    store.answers["x", 3].set_result(stored(b"".join(bytes([block]) * SIZE for block in (3, 4, 5))))
    assert ahead.take(("x", 4)).tobytes() == bytes([4]) * SIZE
    assert ahead.take(("x", 3)).tobytes() == bytes([3]) * SIZE
    ahead.follow(iter([[("x", 9)]]))
    store.answer(9)
    assert ahead.take(("x", 9)).tobytes() == b"9"


def test_a_block_found_elsewhere_makes_room_and_its_neighbor_still_comes() -> None:
    store = Store()
    ahead = BlocksAhead(store.request, 2 * SIZE)
    ahead.follow(iter([[("x", 3), ("x", 4)], [("x", 9)], [("x", 11)]]))
    ahead.forget(("x", 3))
    assert [*store.answers] == [("x", 3), ("x", 9)]
    store.answers["x", 3].set_result(stored(bytes(SIZE) + bytes([4]) * SIZE))
    assert ahead.take(("x", 4)).tobytes() == bytes([4]) * SIZE


def test_an_error_reaches_each_of_the_blocks_it_was_for() -> None:
    store = Store()
    ahead = BlocksAhead(store.request, 9 * SIZE)
    ahead.follow(iter([[("x", 3), ("x", 4)]]))
    store.answers["x", 3].set_exception(DatasetError("the store refuses"))
    for block in (3, 4):
        with pytest.raises(DatasetError, match="refuses"):
            ahead.take(("x", block))
