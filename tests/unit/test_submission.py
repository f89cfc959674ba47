"""What is uploaded to a cluster, and how its dashboards are reached."""

import os
import stat
import tomllib
from pathlib import Path

import pytest
from foldstream.cluster.api.job_file import load_job_file
from foldstream.cluster.ray.auth import MODE, TOKEN, TOKEN_PATH, make_token, use_token
from foldstream.cluster.submit.submission import pack_job, tunnel_to

JOB = """
[convert.csv]
sources = ["data/*.csv", "s3://bucket/more.csv"]
out = "digits.zarr"
label = "label"

[train]
run = "runs/first"
model = "models/own.py:make"
augment = ["crop=4", "models/own.py:noise"]
init = "weights.pt"
settings = { lr = [0.1, 0.01], hidden = 16 }

[predict]
source = "test.csv"
out = "out.csv"
"""


def test_the_job_is_uploaded_with_absolute_paths_and_its_model(tmp_path: Path) -> None:
    home, sent = tmp_path / "home", tmp_path / "sent"
    (home / "models").mkdir(parents=True)
    (home / ".git").mkdir()
    (home / "data").mkdir()
    (home / "data" / "a.csv").write_text("label,x\n1,2\n")
    (home / "models" / "own.py").write_text("def make(shape, outputs): ...\n")
    (home / "job.toml").write_text(JOB)
    sent.mkdir()
    pack_job(load_job_file(home / "job.toml"), sent)
    assert sorted(path.name for path in sent.iterdir()) == ["job.toml", "own.py"]
    tables = tomllib.loads((sent / "job.toml").read_text())
    assert tables["convert"]["csv"]["sources"] == [f"{home}/data/*.csv", "s3://bucket/more.csv"]
    assert tables["convert"]["csv"]["out"] == tables["train"]["dataset"] == f"{home}/digits.zarr"
    assert tables["train"]["run"] == tables["predict"]["run"] == f"{home}/runs/first"
    assert tables["train"]["model"] == "own.py:make"
    assert tables["train"]["augment"] == ["crop=4", "own.py:noise"]
    assert tables["train"]["init"] == f"{home}/weights.pt"
    assert tables["train"]["settings"] == {"lr": [0.1, 0.01], "hidden": 16}
    assert load_job_file(sent / "job.toml")["train"]["model"] == f"{sent}/own.py:make"


@pytest.mark.parametrize(
    ("address", "tunnel"),
    [
        ("http://127.0.0.1:8265", ""),
        ("http://localhost:8265", ""),
        ("http://head.example:8265", "ssh -N -L 8787:127.0.0.1:8787 head.example"),
    ],
)
def test_a_dashboard_on_the_heads_loopback_is_reached_by_a_tunnel(address: str, tunnel: str) -> None:
    assert tunnel_to(address, "http://127.0.0.1:8787/status") == tunnel


def test_only_its_owner_can_read_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (MODE, TOKEN):
        monkeypatch.setenv(name, "")  # so that it is restored afterwards
        monkeypatch.delenv(name)
    file = tmp_path / "deep" / "token"
    monkeypatch.setenv(TOKEN_PATH, str(file))
    use_token()
    assert MODE not in os.environ, "no token exists yet"
    make_token()
    token = file.read_text()
    assert len(token) == 64
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o644)
    make_token()
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == (token, 0o600)
    use_token()
    assert os.environ[MODE] == "token"
    monkeypatch.setenv(MODE, "disabled")
    use_token()
    assert os.environ[MODE] == "disabled"
