"""A job submitted with sbatch to a real Slurm with one node gives the same results as `foldstream run`."""

import subprocess
import sys
from pathlib import Path

import pytest

from .slurm import slurm, why_not

pytestmark = [pytest.mark.skipif(bool(why_not()), reason=why_not()), pytest.mark.timeout(900), pytest.mark.long]

SCRIPT = Path(__file__).parents[2] / "deploy" / "slurm" / "foldstream.sbatch"
JOB = """
[convert.csv]
sources = ["{source}"]
out = "digits.zarr"
label = "label"
shape = [1, 28, 28]

[train]
run = "run"
model = "mlp"
folds = 2
epochs = 2
batch_size = 64
workers = 1

[predict]
source = "{source}"
out = "predictions.csv"
"""


def test_a_job_by_sbatch_gives_what_it_gives_here(digits_csv: Path, tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("here", "there")}
    for folder in folders.values():
        folder.mkdir()
        (folder / "job.toml").write_text(JOB.format(source=digits_csv))
    (tmp_path / "slurm").mkdir()
    with slurm(tmp_path / "slurm") as environment:
        path = f"{Path(sys.executable).parent}:{environment['PATH']}"
        given = environment | {"PATH": path, "HOME": str(tmp_path)}
        log = folders["there"] / "log"
        command = ["sbatch", "--wait", "--nodes=1", f"--output={log}", str(SCRIPT), "job.toml"]
        done = subprocess.run(command, env=given, cwd=folders["there"], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr + (log.read_text() if log.exists() else "")
    here = [sys.executable, "-m", "foldstream.cli", "run", str(folders["here"] / "job.toml")]
    assert subprocess.run(here, capture_output=True, timeout=600).returncode == 0
    for name in ("predictions.csv", "run/folds/0/model.safetensors", "run/folds/1/model.safetensors"):
        assert (folders["here"] / name).read_bytes() == (folders["there"] / name).read_bytes(), name
