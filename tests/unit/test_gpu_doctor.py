"""The doctor's verdict on a GPU, and the exchange between processes that it times."""

import torch
from foldstream.cluster.doctor.gpus import examine_gpus, judge_gpus, ring_bandwidth


def test_a_gpu_is_used_if_it_is_much_faster_than_the_cpu() -> None:
    used, idle = judge_gpus({"cpu": 0.5, "cuda:0": 0.01, "cuda:1": 0.4})
    assert used.ok
    assert used.value == "the GPU is used: 50.0 × the CPU's speed"
    assert not idle.ok
    assert idle.value == "the GPU is hardly used: 1.2 × the CPU's speed"
    assert "nvidia-smi" in idle.remedy


def test_a_ring_of_two_processes_is_timed() -> None:
    assert ring_bandwidth(2, "gloo", 4 << 20) > 0


def test_each_device_is_timed() -> None:
    found = {finding.name: finding for finding in examine_gpus()}
    assert found["exp on cpu"].value.endswith(" s")
    assert len([name for name in found if name.startswith("copies to")]) == torch.cuda.device_count()
