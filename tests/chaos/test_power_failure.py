"""What is committed survives a power failure at any moment, and everything else is resumed by the same command."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from .disk import Call, Disk, Tree, read_tree, trace, write_tree
from .power_failures import SCENARIOS, Scenario, make_sources

STATES = 15  # of each command from which it is repeated
MANY_STATES = 60  # that the long test tries in a run of CI, each time others; `make test-all` tries all
MEMORY = Path("/dev/shm")  # where fsync takes no time


@dataclass(frozen=True)
class Recording:
    """The system calls of the commands in a folder, which is as they left it."""

    folder: Path
    before: dict[str, Tree]
    calls: list[Call]


@pytest.fixture(scope="module")
def recording() -> Iterator[Recording]:
    """All commands, run once."""
    with tempfile.TemporaryDirectory(prefix="power-", dir=MEMORY if MEMORY.is_dir() else None) as name:
        folder = Path(name)
        make_sources(folder / "sources")
        for scenario in SCENARIOS.values():
            (folder / scenario.name).mkdir()
            scenario.earlier(folder / "sources", folder / scenario.name)
        before = {name: read_tree(folder / name) for name in SCENARIOS}
        command = [sys.executable, "-m", "tests.chaos.power_failures", str(folder)]
        yield Recording(folder, before, list(trace(command, folder / "log")))


def states(recording: Recording, scenario: Scenario, seed: int) -> list[Tree]:
    """All states in which a power failure may leave the folder, each once, in the order of the moments."""
    draws = np.random.default_rng(seed)
    disk = Disk(recording.folder / scenario.name, recording.before[scenario.name])
    found = {frozenset(tree.items()): tree for tree in disk.after_power_failure(draws)}
    for call in recording.calls:
        if disk.apply(call):
            found |= {frozenset(tree.items()): tree for tree in disk.after_power_failure(draws)}
    assert disk.now() == read_tree(recording.folder / scenario.name), "the model of the disk has missed something"
    return list(found.values())


def check_committed(recording: Recording, scenario: Scenario, found: list[Tree]) -> None:
    """In each state, what a file commits is there."""
    for committed in (read_tree(recording.folder / scenario.name), recording.before[scenario.name]):
        last, needed = committed.get(scenario.last), scenario.compared(committed).items()
        for tree in found:
            if last and tree.get(scenario.last) == last:
                assert needed <= tree.items()


def check_repeated(recording: Recording, scenario: Scenario, tree: Tree) -> None:
    """The command leads to the same files from any state."""
    wanted, root = read_tree(recording.folder / scenario.name), recording.folder / "after"
    write_tree(root, tree)
    try:
        scenario.command(recording.folder / "sources", root)
        assert scenario.repeated(read_tree(root)) == scenario.repeated(wanted)
    finally:
        shutil.rmtree(root)


@pytest.mark.usefixtures("usual_blocks")
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_power_failure_loses_nothing_that_is_committed(name: str, seed: int, recording: Recording) -> None:
    found = states(recording, SCENARIOS[name], seed)
    check_committed(recording, SCENARIOS[name], found)
    for tree in some_of(found, STATES, seed):
        check_repeated(recording, SCENARIOS[name], tree)


@pytest.mark.usefixtures("usual_blocks")
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_power_failure_after_a_command_loses_nothing_of_its_result(
    name: str, seed: int, recording: Recording
) -> None:
    scenario, folder = SCENARIOS[name], recording.folder / name
    disk = Disk(folder, recording.before[name])
    for call in recording.calls:
        disk.apply(call)
    for tree in disk.after_power_failure(np.random.default_rng(seed)):
        assert scenario.compared(read_tree(folder)).items() <= tree.items()


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("usual_blocks")
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_power_failure_at_every_moment(name: str, seed: int, recording: Recording) -> None:
    found = states(recording, SCENARIOS[name], seed)
    check_committed(recording, SCENARIOS[name], found)
    for tree in some_of(found, MANY_STATES, seed) if seed else found:
        check_repeated(recording, SCENARIOS[name], tree)


def some_of(found: list[Tree], count: int, seed: int) -> list[Tree]:
    """So many of the states, drawn at random but in their order, and the last one."""
    drawn = np.random.default_rng(seed).permutation(len(found))[:count]
    return [found[number] for number in sorted({*drawn, len(found) - 1})]
