"""Jobs on a Ray cluster: submitted, listed, followed and stopped over Ray's job API.

What travels is the job file, with its paths made absolute, and the file of its model. Data never do: the cluster's
nodes read them where the job says that they are.
"""

import asyncio
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import tomli_w
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from ...storage.errors import RunError, UsageError
from ...training.zoo.factory import model_file
from ..api.job_file import load_job_file
from ..callbacks.callback import map_target
from ..loopback import LOOPBACK, on_loopback
from ..ray.auth import TOKEN_PATH
from ..ray.local_cluster import current_cluster

ADDRESS = "RAY_API_SERVER_ADDRESS"
"""Where Ray's own commands look for the address, too."""
JOB = "job.toml"
RUN_KEY = "foldstream"  # in a job's metadata: its title


@dataclass(frozen=True)
class SubmittedJob:
    """A job as it was submitted: its number at Ray, and what was uploaded, with bytes."""

    id: str
    files: dict[str, int]


def find_address(address: str | None) -> str:
    """The address that is given, or that of RAY_API_SERVER_ADDRESS, or the local cluster's. Raises UsageError."""
    local = current_cluster()
    place = address or os.environ.get(ADDRESS) or (local.dashboard if local else None)
    if place is None:
        raise UsageError(
            "no cluster is known; give its address with --to http://HOST:8265, or start one with «foldstream cluster "
            "start»"
        )
    return place


def open_client(address: str | None) -> JobSubmissionClient:
    """A client of the cluster at an address, as http://host:8265, or else of the one that `find_address` finds. Raises
    UsageError where none answers, or does not let in."""
    place = find_address(address)
    for name in ("ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they tell of each upload
    try:
        return JobSubmissionClient(place)
    except ConnectionError:
        raise UsageError(
            f"--to {place}: no Ray dashboard answers there; look at the address, or tunnel to it"
        ) from None
    except RuntimeError as error:
        raise UsageError(f"--to {place}: what answers there is no Ray dashboard of this version ({error})") from None
    except AuthenticationError:
        raise UsageError(
            f"--to {place}: it asks for a token; have {TOKEN_PATH} name a file with the cluster's"
        ) from None


def submit(job: Path, client: JobSubmissionClient) -> SubmittedJob:
    """Have the cluster run a job file. Raises UsageError, before anything is sent, where it is not right."""
    tables = load_job_file(job)
    with tempfile.TemporaryDirectory(prefix="foldstream-job-") as name:
        folder = Path(name)
        pack_job(tables, folder)
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        number: str = client.submit_job(
            entrypoint=f"foldstream run {JOB} --ray auto",
            runtime_env={"working_dir": name},
            metadata={RUN_KEY: str(tables["train"]["run"] if "train" in tables else job.name)},
        )
    return SubmittedJob(number, files)


def pack_job(tables: dict[str, dict[str, Any]], folder: Path) -> None:
    """Write a job's tables into a folder, and the files of its model and callbacks beside it. Raises UsageError for two
    files of one name."""
    tables = {table: dict(values) for table, values in tables.items()}
    train = tables.get("train", {})
    if "model" in train:
        train["model"] = _pack(train["model"], folder)
    if "callbacks" in train:
        train["callbacks"] = [map_target(one, lambda code: _pack(code, folder)) for one in train["callbacks"]]
    for table in [table for table in tables if "." in table]:
        outer, inner = table.split(".")
        tables.setdefault(outer, {})[inner] = tables.pop(table)
    (folder / JOB).write_text(tomli_w.dumps(tables))


def _pack(name: str, folder: Path) -> str:
    """Copy the file of `path/to/file.py:factory` into a folder, and say what it is called there; another name as it
    is."""
    if not (file := model_file(name)):
        return name
    path, factory = file
    target = folder / path.name
    if target.exists() and target.read_bytes() != path.read_bytes():
        raise UsageError(f"{path}: another file of the job is called {path.name} too; rename one of them")
    shutil.copyfile(path, target)
    return f"{path.name}:{factory}"


def list_jobs(client: JobSubmissionClient) -> list[tuple[str, str, str]]:
    """Number, status and run of our jobs on a cluster, the oldest first."""
    ours = [job for job in client.list_jobs() if job.submission_id and RUN_KEY in (job.metadata or {})]
    return [
        (job.submission_id, job.status.value, job.metadata[RUN_KEY])
        for job in sorted(ours, key=lambda job: job.start_time)
    ]


def find_job(client: JobSubmissionClient, job: str) -> tuple[str, str]:
    """Status and run of a job. Raises UsageError for one that is not known."""
    status: str = _status(client, job).value
    return status, str((client.get_job_info(job).metadata or {}).get(RUN_KEY, ""))


def is_job_id(name: str) -> bool:
    """Whether it is a job's number, as Ray gives them, and no place."""
    return name.startswith("raysubmit_") and "/" not in name


def dashboards(client: JobSubmissionClient, address: str) -> dict[str, str]:
    """Ray's dashboard, and Dask's of each job that runs, by what they show. Dask's are on loopback of the head."""
    found = {"Ray": address}
    for job, status, _ in list_jobs(client):
        if status == JobStatus.RUNNING and (link := re.search(r"Dask dashboard: (\S+)", client.get_job_logs(job))):
            found[f"Dask, {job}"] = link[1]
    return found


def tunnel_to(address: str, dashboard: str) -> str:
    """The command by which a dashboard on loopback of a cluster's head is seen here; empty if the head is here."""
    head, port = urlsplit(address).hostname or "", urlsplit(dashboard).port
    far = on_loopback(urlsplit(dashboard).hostname or "") and not on_loopback(head)
    return f"ssh -N -L {port}:{LOOPBACK}:{port} {head}" if far else ""


def stop_job(client: JobSubmissionClient, job: str) -> bool:
    """End a job; submitted again it goes on from where it was. Returns whether it ran. Raises UsageError."""
    _status(client, job)
    return bool(client.stop_job(job))


def read_log(client: JobSubmissionClient, job: str) -> str:
    """What a job has printed so far. Raises UsageError for one that is not known."""
    _status(client, job)
    log: str = client.get_job_logs(job)
    return log


def follow_log(client: JobSubmissionClient, job: str) -> Iterator[str]:
    """What a job prints, piece by piece, until it ends. Raises RunError if it fails, UsageError if it is not known.

    A stream that ends may have been cut off, so it is taken up again for as long as the job runs.
    """
    seen = 0
    while True:
        ended = _status(client, job).is_terminal()
        position = 0
        for piece in [client.get_job_logs(job)] if ended else _stream(client, job):
            yield piece[max(0, seen - position) :]
            position += len(piece)
            seen = max(seen, position)
        if ended:
            break
    if (status := _status(client, job)) is not JobStatus.SUCCEEDED:
        message = str(client.get_job_info(job).message)
        raise RunError(f"{job} has {status.value.lower()}: {message.splitlines()[0]}")


def _status(client: JobSubmissionClient, job: str) -> JobStatus:
    try:
        return client.get_job_status(job)
    except RuntimeError as error:
        raise UsageError(f"{job} is not known ({error}); «foldstream jobs» lists those that are") from None


def _stream(client: JobSubmissionClient, job: str) -> Iterator[str]:
    """A job's log from its beginning on, until it or the connection ends."""
    loop, stream = asyncio.new_event_loop(), client.tail_job_logs(job)
    try:
        while True:
            try:
                yield loop.run_until_complete(anext(stream))
            except (StopAsyncIteration, RuntimeError):
                return
    finally:
        loop.run_until_complete(stream.aclose())
        loop.close()
