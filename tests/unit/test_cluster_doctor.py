"""The facts of a cluster's nodes are compared, and every problem has a remedy."""

from dataclasses import replace

import pytest
from foldstream.cluster.doctor.cluster_doctor import NodeFacts, compare_nodes

VERSIONS = {"python": "3.11.2", "torch": "2.13.0"}
GIB = 1 << 30
FIRST = NodeFacts("10.0.0.1", VERSIONS, 100.0, (), "", 8 * GIB, 90 * GIB, "", (99.9, 100.1))
SECOND = replace(FIRST, address="10.0.0.2")


def problems(second: NodeFacts, storage: str | None = None) -> dict[str, str]:
    return {one.name: f"{one.value} | {one.remedy}" for one in compare_nodes([FIRST, second], storage) if not one.ok}


def test_equal_nodes_have_no_problems() -> None:
    assert not problems(SECOND, "s3://bucket/runs")


@pytest.mark.parametrize(
    ("changed", "name", "expected"),
    [
        ({"versions": VERSIONS | {"torch": "2.12.0"}}, "torch", "2.13.0 on 10.0.0.1; 2.12.0 on 10.0.0.2"),
        ({"clock": 105.0}, "clocks", "off by at most 4.90 s, on 10.0.0.2"),
        ({"clock": 90.0}, "clocks", "off by at most 9.90 s, on 10.0.0.2"),
        ({"unreachable": ("10.0.0.1",)}, "network", "10.0.0.2 cannot reach 10.0.0.1"),
        ({"shared_memory": GIB // 2}, "shared memory", "at least 537 MB free, too little on 10.0.0.2"),
        ({"disk": GIB}, "disk", "at least 1.07 GB free, too little on 10.0.0.2"),
        ({"storage": "access denied"}, "storage", "access denied on 10.0.0.2"),
    ],
)
def test_a_difference_is_found_with_its_node_and_remedy(changed: dict[str, object], name: str, expected: str) -> None:
    found = problems(replace(SECOND, **changed), "s3://bucket/runs")  # type: ignore[arg-type]
    assert list(found) == [name]
    assert expected in found[name]
    assert not found[name].endswith("| ")


def test_different_nccl_versions_are_found() -> None:
    first = replace(FIRST, gpus=("H100",), nccl="2.27.5")
    second = replace(SECOND, gpus=("H100", "H100"), nccl="2.26.2")
    found = {one.name: one for one in compare_nodes([first, second], None)}
    assert found["GPUs"].value == "1 (H100) on 10.0.0.1; 2 (H100) on 10.0.0.2"
    assert not found["NCCL"].ok


def test_a_slow_answer_is_not_clock_skew() -> None:
    assert not problems(replace(SECOND, asked=(90.0, 110.0)))
