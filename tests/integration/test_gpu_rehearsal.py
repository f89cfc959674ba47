"""What is run on a machine with a GPU, rehearsed on the CPU: without the packages that such a machine lacks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..gpu.figures import GpuFigures

RUN = Path(__file__).parents[1] / "gpu" / "run.sh"
LACKING = ("ray", "dask", "distributed", "bokeh", "simplejpeg", "mlflow", "wandb")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_what_needs_a_gpu_is_rehearsed(tmp_path: Path) -> None:
    for name in LACKING:
        (tmp_path / "lacking" / name).mkdir(parents=True)
        (tmp_path / "lacking" / name / "__init__.py").write_text(f"raise ImportError('{name} is not on that machine')")
    out = tmp_path / "out"
    out.mkdir()
    given = {"OUT": str(out), "PYTHON": sys.executable, "PYTHONPATH": str(tmp_path / "lacking"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(RUN), "--rehearsal"], env=os.environ | given, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = GpuFigures.model_validate_json((out / "bench-gpu.json").read_text())
    assert not figures.failed
    assert {len(load.loaders) for load in figures.loads.values()} == {4}
    assert (out / "profile.txt").exists()
    told = (out / "summary.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in told if "passed after" in line] == ["tests", "bench", "profile"]
