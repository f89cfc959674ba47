"""Submit, list, follow and stop jobs on a Ray cluster through Ray's job API.

Only the job file, with absolute paths, and the code that it names, with its assets, are uploaded. Data and weights are
never uploaded: the nodes of the cluster read them where the job file says they are.
"""

import asyncio
import os
import re
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
from ...storage.options import as_texts
from ...storage.places.locate import locate
from ...storage.programs.own_code import ROOT, collect_code, copy_code
from ...training.config import SEVERAL_FUNCTIONS
from ...training.ray.internals import silence_upload_logs
from ..api.job_file import load_job_file
from ..callbacks.callback import map_target
from ..loopback import LOOPBACK, on_loopback
from ..ray.auth import TOKEN_PATH
from ..ray.local_cluster import current_cluster

ADDRESS = "RAY_API_SERVER_ADDRESS"
"""The environment variable that Ray's own commands use for the address."""
JOB = "job.toml"
RUN_KEY = "foldstream"  # in a job's metadata: the run that it trains


@dataclass(frozen=True)
class SubmittedJob:
    """A submitted job: its Ray job ID, and the uploaded files with their sizes in bytes."""

    id: str
    files: dict[str, int]


def find_address(address: str | None) -> str:
    """The given address, otherwise RAY_API_SERVER_ADDRESS or the address of the local cluster. Raises UsageError."""
    local = current_cluster()
    found = address or os.environ.get(ADDRESS) or (local.dashboard if local else None)
    if found is None:
        raise UsageError(
            "no cluster address is set; pass --to http://HOST:8265, or start a local cluster with "
            "'foldstream cluster start'"
        )
    return found


def open_client(address: str | None) -> JobSubmissionClient:
    """Connect to the cluster at an address such as http://host:8265, by default the one that `find_address` finds.

    Raises UsageError if nothing responds at the address, or if access is denied.
    """
    address = find_address(address)
    silence_upload_logs()
    try:
        return JobSubmissionClient(address)
    except ConnectionError:
        raise UsageError(
            f"--to {address}: no Ray dashboard responds at this address; check it, or open a tunnel"
        ) from None
    except RuntimeError as error:
        raise UsageError(
            f"--to {address}: not a Ray dashboard of a compatible version ({error}); use the cluster's version of Ray"
        ) from None
    except AuthenticationError:
        raise UsageError(
            f"--to {address}: authentication failed; set {TOKEN_PATH} to a file with the cluster's token"
        ) from None


def submit(job: Path, client: JobSubmissionClient) -> SubmittedJob:
    """Submit a job file to the cluster. Raises UsageError, before anything is uploaded, if the file is invalid."""
    tables = load_job_file(job)
    with tempfile.TemporaryDirectory(prefix="foldstream-job-") as name:
        folder = Path(name)
        pack_job(tables, folder)
        files = {entry.name: entry.size for entry in locate(folder).walk()}
        number: str = client.submit_job(
            entrypoint=f"foldstream run {JOB} --ray auto",
            runtime_env={"working_dir": name},
            metadata={RUN_KEY: str(tables["train"]["run"] if "train" in tables else job.name)},
        )
    return SubmittedJob(number, files)


def pack_job(tables: dict[str, dict[str, Any]], folder: Path) -> None:
    """Write a job's tables into a folder, together with the code that it refers to. Raises UsageError if two files have
    the same name."""
    tables = {table: dict(values) for table, values in tables.items()}
    train, convert = tables.get("train", {}), tables.get("convert.csv", {})
    settings, targets = train.get("settings", {}), [one.partition("=")[0] for one in train.get("callbacks", ())]
    given = [train.get("model", ""), str(settings.get("loss", "")), *targets]
    given += [name for option in SEVERAL_FUNCTIONS for name in as_texts(train.get(option))]
    tokenizers, own, others = (
        [convert.get("tokenizer", "")],
        as_texts(train.get("asset")),
        as_texts(convert.get("asset")),
    )
    code = collect_code([*given, *tokenizers], [*own, *others])
    copy_code(code, locate(folder))
    names = {name: _name_there(code.names[name]) for name in code.names}
    for values, option in ((train, "model"), (convert, "tokenizer")):
        if option in values:
            values[option] = names.get(values[option], values[option])
    for option in SEVERAL_FUNCTIONS:
        if option in train:
            train[option] = [names.get(one, one) for one in as_texts(train[option])]
    if "loss" in settings:
        train["settings"] = {**settings, "loss": names.get(str(settings["loss"]), settings["loss"])}
    if "callbacks" in train:
        train["callbacks"] = [map_target(one, lambda name: names.get(name, name)) for one in train["callbacks"]]
    for values, named, assets in ((train, given, own), (convert, tokenizers, others)):
        if assets:
            values["asset"] = list(collect_code(named, assets).assets)
    for table in [table for table in tables if "." in table]:
        outer, inner = table.split(".")
        tables.setdefault(outer, {})[inner] = tables.pop(table)
    (folder / JOB).write_text(tomli_w.dumps(tables))


def _name_there(name: str) -> str:
    """What the job file says of code in its folder: modules are imported from there, not from a folder in it."""
    return f".{ROOT}{name}" if "/" in name else name


def list_jobs(client: JobSubmissionClient) -> list[tuple[str, str, str]]:
    """ID, status and run of each Foldstream job on a cluster, oldest first."""
    ours = [job for job in client.list_jobs() if job.submission_id and RUN_KEY in (job.metadata or {})]
    return [
        (job.submission_id, job.status.value, job.metadata[RUN_KEY])
        for job in sorted(ours, key=lambda job: job.start_time)
    ]


def find_job(client: JobSubmissionClient, job: str) -> tuple[str, str]:
    """Status and run of a job. Raises UsageError if the job does not exist."""
    status: str = _status(client, job).value
    return status, str((client.get_job_info(job).metadata or {}).get(RUN_KEY, ""))


def is_job_id(name: str) -> bool:
    """Whether `name` is a Ray job ID rather than a path."""
    return name.startswith("raysubmit_") and "/" not in name


def dashboards(client: JobSubmissionClient, address: str) -> dict[str, str]:
    """Addresses of Ray's dashboard, and of Dask's dashboard for each running job, by title. Dask's dashboards listen on
    the head's loopback."""
    found = {"Ray": address}
    for job, status, _ in list_jobs(client):
        if status == JobStatus.RUNNING and (link := re.search(r"Dask dashboard: (\S+)", client.get_job_logs(job))):
            found[f"Dask, {job}"] = link[1]
    return found


def tunnel_to(address: str, dashboard: str) -> str:
    """The command that forwards a dashboard from the loopback of a cluster's head; empty if the head is this
    machine."""
    head, port = urlsplit(address).hostname or "", urlsplit(dashboard).port
    far = on_loopback(urlsplit(dashboard).hostname or "") and not on_loopback(head)
    return f"ssh -N -L {port}:{LOOPBACK}:{port} {head}" if far else ""


def stop_job(client: JobSubmissionClient, job: str) -> bool:
    """Stop a job; submit it again to resume it. Returns whether it was running. Raises UsageError."""
    _status(client, job)
    return bool(client.stop_job(job))


def read_log(client: JobSubmissionClient, job: str) -> str:
    """The output of a job so far. Raises UsageError if the job does not exist."""
    _status(client, job)
    log: str = client.get_job_logs(job)
    return log


def follow_log(client: JobSubmissionClient, job: str) -> Iterator[str]:
    """Yield the output of a job until it ends. Raises RunError if the job fails, and UsageError if it does not exist.

    A stream that ends may have been cut off, so it is reopened as long as the job is running.
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
        raise RunError(f"{job} {status.value.lower()}: {message.splitlines()[0]}")


def _status(client: JobSubmissionClient, job: str) -> JobStatus:
    try:
        return client.get_job_status(job)
    except RuntimeError as error:
        raise UsageError(f"job '{job}' does not exist ({error}); list all jobs with 'foldstream jobs'") from None


def _stream(client: JobSubmissionClient, job: str) -> Iterator[str]:
    """Yield a job's log from its beginning, until the job or the connection ends."""
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
