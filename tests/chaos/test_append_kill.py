"""An append survives SIGKILL at any moment. `python -m tests.chaos.append_kills 20 0` does more kills."""

from .append_kills import strike


def test_an_append_killed_at_any_moment_leaves_one_of_two_versions(seed: int) -> None:
    [kill] = strike(1, seed)
    assert kill.version in (1, 2)
