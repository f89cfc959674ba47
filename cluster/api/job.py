"""Run a whole job: check it, then convert, train and predict, in this process or on one cluster."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ...storage.errors import UsageError
from ...storage.places.locate import locate
from ...storage.tasks import CONVERSION
from ...training.run import RunFolder
from ...training.stream.order import check_batch_size
from ..bars import showing_progress
from ..dask.executor import job_executor
from ..listener import Listener
from ..requests import PredictRequest, Session, TrainRequest
from ..runs.workers import ray_is_connected
from .conversion import convert_sources
from .job_file import Job, load_job_file, parse_job
from .job_log import job_log
from .predict import output_of, predict_source
from .train import run_training
from .training_request import callback_factories, check_settings


@contextmanager
def job_session(listener: Listener, address: str | None) -> Iterator[Session]:
    """A session for a whole job: in this process, or on a Ray cluster (at an address, or already connected) together
    with Dask."""
    if address is None and not ray_is_connected():
        with job_executor(listener) as executor:
            yield Session(listener=listener, client=executor)
        return
    # This looks at the current folder as it is loaded. Ray unpacks a submitted job's folder anew for another node on
    # the same machine, which takes away the folder in which this process is.
    import torch._dynamo  # noqa: F401

    from ..dask.local import page_address
    from ..dask.on_ray import dask_on_ray
    from ..ray.job_cluster import connect_ray

    with connect_ray(address) if address else nullcontext(), dask_on_ray() as client:
        listener.announce("Dask dashboard", page_address(client, CONVERSION))
        yield Session(listener=listener, client=client)


def run_job(
    path: str | Path, listener: Listener | None = None, *, cluster: str | None = None, progress: bool = True
) -> dict[str, Any]:
    """Convert, train and predict as described in a TOML file; completed steps are skipped.

    The tables `convert.csv` or `convert.images` (sources, out, …) or `adopt` (place, out, …), `train` (dataset, run,
    …) and `predict` (run, source, out, …) contain the keywords of the corresponding functions. Paths are relative to
    the file. `train.dataset` and `predict.run` default to the results of the preceding tables.

    Args:
        path: The TOML file.
        listener: Notified of progress and of the dashboards' addresses, instead of the progress bars.
        cluster: Address of a Ray cluster whose nodes can access the same files; "auto" for the cluster that this
            machine belongs to. By default the job runs on this machine.
        progress: Show progress bars in a terminal or notebook.

    Returns:
        The run's summary, as `Run.summary`; empty if the job does not train.

    Raises:
        UsageError: The file or an option is invalid.

    Example:
        >>> summary = fs.run_job("job.toml")
        >>> summary["rows"]
        150
    """
    job = parse_job(load_job_file(Path(path)))
    check_job(job)
    with ExitStack() as stack:
        heard = stack.enter_context(showing_progress(listener, progress))
        if job.train:
            heard = stack.enter_context(job_log(RunFolder(locate(str(job.train.run))), heard))
        session = stack.enter_context(job_session(heard, cluster))
        if job.convert:
            convert_sources(job.convert, session)
        summary = run_training(job.train, session) if job.train else {}
        if job.predict:
            predict_source(job.predict, session)
    return summary


def check_job(job: Job) -> None:
    """Raise UsageError for problems with training or prediction that do not depend on the data, before converting
    anything."""
    if job.train:
        _check_train(job.train)
    if job.predict:
        _check_predict(job.predict, job)


def _check_train(request: TrainRequest) -> None:
    callback_factories(request)
    check_settings(request)
    if request.batch_size and not RunFolder(locate(str(request.run))).job.exists():
        check_batch_size(request.batch_size, request.world_size)


def _check_predict(request: PredictRequest, job: Job) -> None:
    output_of(request)
    source, made = locate(str(request.source)), [locate(str(part.out)) for part in (job.convert, request) if part]
    missing = not source.waits_for_network and not source.exists() and not set("*?[") & set(str(source))
    if missing and source not in made:
        raise UsageError(f"[predict] source: {source} does not exist; check the path")
