"""Requests ahead of their use: as many as a link carries, none twice, within a number of bytes."""

import heapq
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from queue import Queue

import numpy as np
import pytest
from foldstream.storage.blocks.ahead import BURST, LEAST_DEPTH, LEAST_RATE, BlocksAhead, Depth, Key, Pace, Sent
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


def test_a_burst_is_requested_at_once_and_the_rest_at_a_pace() -> None:
    pace = Pace()
    assert pace.allows(LEAST_RATE, 5.0)
    pace.spend(BURST)
    assert not pace.allows(LEAST_RATE, 5.0)
    assert pace.allows(LEAST_RATE, 5.004)
    pace.spend(SIZE)
    assert not pace.allows(LEAST_RATE, 5.004 + 0.9 * (SIZE / LEAST_RATE - 0.004))
    assert pace.allows(LEAST_RATE, 9.0)
    pace.spend(BURST)
    assert not pace.allows(LEAST_RATE, 9.0), "what is saved up is bounded"


def test_the_pace_is_twice_the_rate_that_the_link_has_shown() -> None:
    depth = Depth()
    assert depth.pace == LEAST_RATE
    depth.answered(SIZE, Sent(0.0, 0), 0.001)
    assert depth.pace == pytest.approx(2 * SIZE / 0.001)


@pytest.mark.parametrize(("rate", "latency", "least"), [(1e8, 0.1, 0.92), (1e8, 0.03, 0.95), (1e9, 0.03, 0.8)])
def test_a_link_stays_busy_although_answers_are_noted_late(rate: float, latency: float, least: float) -> None:
    shares = [share_of_link(rate, latency, np.random.default_rng(seed)) for seed in range(5)]
    assert np.mean(shares) > least, shares


def share_of_link(rate: float, latency: float, draws: np.random.Generator) -> float:
    """How much of a link is used from the first request on, if all answers that are on their way share it, and if a
    process is too busy six times a second, for 20 to 60 ms, to note what has arrived and to request more."""
    depth, pace, tick, now, busy_until = Depth(latency), Pace(), 0.001, 0.0, 0.0
    served = under_way = 0.0
    coming: list[list[float]] = []  # when the answer begins, what is left of it, when it was requested, what had come
    arrived: list[tuple[float, Sent]] = []
    while served < 1.5 * rate:
        left = rate * tick
        while (active := [one for one in coming if one[0] <= now]) and left > 1:
            part = min(left / len(active), min(one[1] for one in active))
            for one in active:
                one[1] -= part
            left -= part * len(active)
            served += part * len(active)
            arrived += [(now, Sent(one[2], int(one[3]))) for one in active if one[1] < 1]
            coming = [one for one in coming if one[1] >= 1]
        if now >= busy_until and draws.random() < 6 * tick:
            busy_until = now + draws.uniform(0.02, 0.06)
        if now >= busy_until:
            for when, sent in arrived:
                depth.answered(SIZE, sent, when)
                under_way -= SIZE
            arrived = []
            while under_way < depth.bytes and pace.allows(depth.pace, now):
                coming.append([now + latency, SIZE, now, depth.arrived])
                pace.spend(SIZE)
                under_way += SIZE
        now += tick
    return served / now / rate


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
    assert [store.told.get(timeout=20) for _ in range(first)] == [("x", block) for block in range(first)]
    assert len(store.sent) == first
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
