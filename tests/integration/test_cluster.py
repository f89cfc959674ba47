"""A job on a cluster of two real Ray nodes, by the command line; and who else has a say in it."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
from foldstream.cluster.loopback import ALONE
from foldstream.cluster.ray.auth import MODE, TOKEN_PATH

from ..chaos.fold_kills import NODE_CLUSTER
from ..conftest import EXAMPLES
from .test_docs import blocks_of, commands_in

pytestmark = pytest.mark.long

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "clusters.md"

JOB = """
[convert.csv]
sources = ["{source}"]
out = "digits.zarr"
label = "label"
shape = [1, 28, 28]

[train]
run = "run"
model = "own.py:linear"
folds = 2
epochs = 2
batch_size = 64
workers = 2
settings = {{ hidden = 16 }}

[predict]
source = "{test}"
out = "predictions.csv"
"""
TRY = """
import sys
import ray
ray.init(sys.argv[1])
ray.get(ray.remote(lambda path: open(path, "w").close()).remote(sys.argv[2]))
"""
MODEL = """
from torch import nn

def linear(sample_shape, outputs, hidden=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
"""
SECRET = "canary-4f1d0c"
RESULTS = ["predictions.csv", "run/folds/0/model.safetensors", "run/folds/1/model.safetensors"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a user of their own, with a local cluster of two nodes."""
    folder = tmp_path_factory.mktemp("home")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "FOLDSTREAM_HOME": str(folder),
        TOKEN_PATH: str(folder / "token"),
        "COLUMNS": "200",
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    started = command(environment, "cluster", "start", "--nodes", "2", "--cores", "2")
    assert started.returncode == 0, started.stderr
    process = psutil.Process(json.loads((folder / "cluster.json").read_text())["pid"])
    every = [process, *process.children(recursive=True)]
    yield environment
    assert command(environment, "cluster", "stop").stdout == "stopped\n"
    assert not [one for one in every if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert "no local cluster" in command(environment, "cluster", "status").stdout


def command(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "foldstream.cli", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=500, env=environment)


def write_job(folder: Path, digits_csv: Path) -> Path:
    folder.mkdir()
    (folder / "own.py").write_text(MODEL)
    (folder / "job.toml").write_text(JOB.format(source=digits_csv, test=EXAMPLES / "test.csv.gz"))
    return folder / "job.toml"


@pytest.fixture(scope="module")
def submitted(
    home: dict[str, str], digits_csv: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A job's folder, and what it has printed on the cluster."""
    job = write_job(tmp_path_factory.mktemp("submitted") / "job", digits_csv)
    return job.parent, command(home, "submit", job, "--follow")


@pytest.fixture(scope="module")
def expected(home: dict[str, str], digits_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """What the job gives without a cluster."""
    job = write_job(tmp_path_factory.mktemp("here") / "job", digits_csv)
    done = command(home, "run", job)
    assert done.returncode == 0, done.stderr
    return results(job.parent)


def results(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in RESULTS]


def test_a_job_gives_the_same_on_the_cluster_and_here(
    submitted: tuple[Path, subprocess.CompletedProcess[str]], expected: list[bytes]
) -> None:
    folder, done = submitted
    assert done.returncode == 0, done.stdout + done.stderr
    assert "predictions: " in done.stdout
    assert re.search(r"uploaded job.toml \(\d+ bytes\), own.py \(\d+ bytes\)\n", done.stdout)
    assert results(folder) == expected


def test_a_cluster_that_a_program_is_connected_to_gives_the_same(
    home: dict[str, str], expected: list[bytes], digits_csv: Path, tmp_path: Path
) -> None:
    """Two nodes of ray.cluster_utils, in this case."""
    job = write_job(tmp_path / "job", digits_csv)
    line = [sys.executable, NODE_CLUSTER, "2", "1", "away", "run", job]
    done = subprocess.run(list(map(str, line)), env=home, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert results(job.parent) == expected


def test_a_job_that_is_done_is_known_and_does_nothing_more(
    home: dict[str, str], submitted: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    folder, done = submitted
    number = done.stdout.partition(":")[0]
    assert re.search(rf"{number} .*SUCCEEDED .*{folder}/run", command(home, "jobs").stdout)
    assert command(home, "logs", number).stdout in done.stdout
    assert command(home, "stop", number).stdout == f"{number}: already ended\n"
    weights = folder / "run/folds/0/model.safetensors"
    before = weights.stat().st_mtime_ns
    again = command(home, "submit", folder / "job.toml", "--follow")
    assert again.returncode == 0, again.stdout
    assert weights.stat().st_mtime_ns == before


def test_the_dashboard_is_found(home: dict[str, str]) -> None:
    state = json.loads((Path(home["FOLDSTREAM_HOME"]) / "cluster.json").read_text())
    assert command(home, "dashboard").stdout == f"Ray: {state['dashboard']}\n"


def test_status_reads_the_run_alone_or_asks_for_the_jobs(
    home: dict[str, str], submitted: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    folder, done = submitted
    shown = command(dict(os.environ, COLUMNS="200"), "status", folder / "run").stdout
    assert shown.count("2.0 of 2") == 2
    assert "predict: done" in shown
    assert shown.endswith("\ncomplete\n")
    number = done.stdout.partition(":")[0]
    assert command(home, "status", number).stdout == f"{number}: succeeded, run {folder}/run\n{shown}"


def test_a_job_that_fails_says_so_and_why(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(f'[train]\ndataset = "{tmp_path}/none.zarr"\nrun = "run"\n')
    failed = command(home, "submit", tmp_path / "job.toml", "--follow")
    assert failed.returncode != 0
    assert "none.zarr" in failed.stdout
    assert re.search(r"raysubmit_\w+ failed", failed.stderr)
    number = failed.stdout.partition(":")[0]
    assert command(home, "logs", number, "--follow").returncode == failed.returncode
    unknown = command(home, "logs", "raysubmit_none")
    assert unknown.returncode
    assert "foldstream jobs" in unknown.stderr


def test_who_has_no_token_gets_nothing_from_any_port(home: dict[str, str], tmp_path: Path) -> None:
    state = json.loads((Path(home["FOLDSTREAM_HOME"]) / "cluster.json").read_text())
    ports = set()
    keeper = psutil.Process(state["pid"])
    for process in (keeper, *keeper.children(recursive=True)):
        for connection in process.net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                host, port = connection.laddr
                assert host in ("127.0.0.1", "::1", "::ffff:127.0.0.1"), f"{process.name()} listens on {host}"
                ports.add(port)
    assert len(ports) > 8
    evil, answers = {"entrypoint": f"touch {tmp_path}/ran"}, {}
    tries = [("GET", "/api/jobs/"), ("GET", "/nodes?view=summary"), ("GET", "/logs"), ("POST", "/api/jobs/")]
    for port in sorted(ports):
        for method, path in tries:
            try:
                answer = requests.request(method, f"http://127.0.0.1:{port}{path}", json=evil, timeout=1)
            except requests.RequestException:
                continue  # no HTTP
            answers[port, method, path] = answer.status_code
            told = f"port {port}: {method} {path} gives {answer.status_code}, {answer.text[:200]}"
            counts = answer.text.startswith("# HELP")  # for Prometheus
            assert answer.status_code in (401, 403, 404, 405) or (method == "GET" and counts), told
    assert answers[int(state["dashboard"].rpartition(":")[2]), "POST", "/api/jobs/"] == 401
    stranger = dict(home, **{TOKEN_PATH: str(tmp_path / "other")})
    (tmp_path / "other").write_text("0" * 64)
    for wrong in (
        stranger,
        {name: value for name, value in home.items() if name != TOKEN_PATH} | {"HOME": str(tmp_path)},
    ):
        refused = command(wrong, "jobs", "--to", state["dashboard"])
        assert refused.returncode
        assert TOKEN_PATH in refused.stderr
    for own, mode, enters in ((stranger, "token", False), (stranger, "disabled", False), (home, "token", True)):
        environment = dict(own, **{MODE: mode, ALONE: "0"})
        tried = subprocess.run(
            [sys.executable, "-c", TRY, state["address"], f"{tmp_path}/ran"],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert (tried.returncode == 0) == (tmp_path / "ran").exists() == enters, tried.stderr
        assert ("InvalidAuthToken" in tried.stderr) != enters


def test_the_doctor_examines_all_nodes(home: dict[str, str], tmp_path: Path) -> None:
    address = json.loads((Path(home["FOLDSTREAM_HOME"]) / "cluster.json").read_text())["address"]
    examined = command(home, "doctor", "--cluster", address, "--storage", str(tmp_path / "place"))
    assert not examined.returncode, examined.stderr
    assert "127.0.0.1, 127.0.0.1" in examined.stdout
    assert "all nodes can reach each other" in examined.stdout
    assert "every node can read and write" in " ".join(examined.stdout.split())
    (tmp_path / "token").write_text("0" * 64)
    refused = command({**home, TOKEN_PATH: str(tmp_path / "token")}, "doctor", "--cluster", address)
    assert refused.returncode == 2
    assert TOKEN_PATH in refused.stderr


def test_the_commands_of_the_guide_to_clusters_run(
    home: dict[str, str], submitted: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """With this cluster, its job, and folders in place of a bucket."""
    folder, job = submitted
    own = {
        "auto": json.loads((Path(home["FOLDSTREAM_HOME"]) / "cluster.json").read_text())["address"],
        "raysubmit_8rTq1Zb4": job.stdout.partition(":")[0],
        "s3://bucket/runs/first": str(folder / "run"),
        "s3://bucket/runs": str(tmp_path / "runs"),
        "job.toml": str(folder / "job.toml"),
    }
    blocks = [block for block in blocks_of(GUIDE) if block.language == "sh" and not block.reason]
    commands = [words for block in blocks for words in commands_in(block.text)]
    assert {words[1] for words in commands} >= {"doctor", "plan", "jobs", "logs", "status", "stop"}
    for words in commands:
        done = command(home, *(own.get(word, word) for word in words[1:]))
        assert done.returncode == 0, (words, done.stdout, done.stderr)


def test_secrets_stay_where_they_are(
    home: dict[str, str], submitted: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    folder, done = submitted
    token = Path(home[TOKEN_PATH])
    assert token.stat().st_mode & 0o077 == 0
    secrets = (SECRET, token.read_text())
    assert not any(secret in done.stdout + done.stderr for secret in secrets)
    written = [path for root in (folder, Path(home["FOLDSTREAM_HOME"])) for path in root.rglob("*") if path != token]
    assert any(path.name.endswith(".log") for path in written)
    for path in written:
        if path.is_file():
            data = path.read_bytes()
            assert not any(secret.encode() in data for secret in secrets), path
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not any(secret in line for line in lines for secret in secrets)


def test_a_second_cluster_and_a_wrong_address_are_refused(home: dict[str, str]) -> None:
    second = command(home, "cluster", "start")
    assert second.returncode
    assert "foldstream cluster stop" in second.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        nobody = command(home, "jobs", "--to", f"http://127.0.0.1:{port}")
    assert nobody.returncode
    assert "no Ray dashboard responds" in nobody.stderr
