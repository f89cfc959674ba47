"""The commands for clusters and jobs: one function per command."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ...storage.errors import UsageError
from ...storage.metrics.names import score_text
from ...storage.places.locate import locate
from ..loopback import LOOPBACK
from ..ray.auth import make_token, use_token
from ..requests import SubmitRequest
from .output import console, print_json, print_result
from .request_options import request_command

if TYPE_CHECKING:
    from ..doctor.finding import Finding
    from ..ray.local_cluster import LocalCluster

commands = typer.Typer()
cluster_app = typer.Typer(help="Manage a local Ray cluster, to try out cluster features.", no_args_is_help=True)
commands.add_typer(cluster_app, name="cluster")

ToOption = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Address of a cluster, e.g. http://HOST:8265; by default the local cluster."),
]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Job ID, as shown by 'foldstream jobs'.")]


@request_command(commands, SubmitRequest, "submit")
def submit(request: SubmitRequest) -> None:
    """Submit a job file to a Ray cluster. Submit the same job again to resume it.

    Examples:
        foldstream submit examples/digits/job.toml --follow
        foldstream submit examples/digits/job.toml --to http://10.0.0.5:8265
        foldstream submit examples/digits/job.toml --kubernetes --image me/foldstream:1
    """
    if request.kubernetes:
        if request.to or request.follow:
            raise UsageError(
                "--to and --follow need an existing cluster, but --kubernetes creates one for the job; omit them"
            )
        _submit_to_kubernetes(request)
        return
    if request.dry_run or request.image or request.name or request.manifests:
        raise UsageError("--dry-run, --image, --name and --manifests require --kubernetes; add it, or omit them")
    from ..submit import submission

    client = submission.open_client(request.to)
    submitted = submission.submit(Path(request.job), client)
    uploaded = ", ".join(f"{name} ({size:,} bytes)" for name, size in submitted.files.items())
    console.print(f"{submitted.id}: uploaded {uploaded}", highlight=False, soft_wrap=True)
    if request.follow:
        for piece in submission.follow_log(client, submitted.id):
            console.out(piece, end="", highlight=False)


def _submit_to_kubernetes(request: SubmitRequest) -> None:
    from ..api.job_file import load_job_file
    from ..submit.kubectl import apply_job, job_manifests
    from ..submit.kubernetes import RayJobOptions, job_name, render

    if not request.image:
        raise UsageError("--kubernetes needs --image REGISTRY/foldstream:TAG; build it with deploy/docker/Dockerfile")
    least, separator, most = request.nodes.partition(":")
    if not (separator and least.isdecimal() and most.isdecimal()):
        raise UsageError(f"--nodes {request.nodes}: expected the minimum and maximum number of worker pods, e.g. 0:8")
    job = Path(request.job)
    tables = load_job_file(job)
    run = tables.get("train", {}).get("run", job.stem)
    options = RayJobOptions(request.name or job_name(run), request.image, int(least), int(most), request.secret)
    made = job_manifests(tables, options, request.manifests)
    if request.dry_run:
        console.out(render(made), end="", highlight=False)
        return
    apply_job(made, options.name)
    console.print(f"submitted RayJob {options.name}; to follow it, run", end=" ")
    console.print(
        f"'kubectl get rayjob {options.name} --watch' or 'foldstream status {run}'", highlight=False, soft_wrap=True
    )


@commands.command("jobs")
def list_jobs(to: ToOption = None) -> None:
    """List the jobs of a cluster.

    Examples:
        foldstream jobs
        foldstream jobs --to http://10.0.0.5:8265
    """
    from ..submit import submission

    table = Table("job", "status", "run")
    jobs = submission.list_jobs(submission.open_client(to))
    for row in jobs:
        table.add_row(*row)
    named = [dict(zip(("job", "status", "run"), row, strict=True)) for row in jobs]
    print_result({"jobs": named}, lambda: console.print(table))


@commands.command()
def logs(
    job: JobArgument,
    to: ToOption = None,
    follow: Annotated[bool, typer.Option("--follow", help="Keep printing until the job ends.")] = False,
) -> None:
    """Print the output of a job. With --follow, the exit status is that of the job.

    Examples:
        foldstream logs raysubmit_8rTq1Zb4
        foldstream logs raysubmit_8rTq1Zb4 --follow
    """
    from ..submit import submission

    client = submission.open_client(to)
    for piece in submission.follow_log(client, job) if follow else [submission.read_log(client, job)]:
        console.out(piece, end="", highlight=False)


@commands.command()
def stop(job: JobArgument, to: ToOption = None) -> None:
    """Stop a job. Submit it again to resume it.

    Examples:
        foldstream stop raysubmit_8rTq1Zb4
        foldstream stop raysubmit_8rTq1Zb4 --to http://10.0.0.5:8265
    """
    from ..submit import submission

    ran = submission.stop_job(submission.open_client(to), job)
    console.print(f"{job}: {'stopped' if ran else 'already ended'}", highlight=False)


@commands.command()
def status(
    run: Annotated[str, typer.Argument(metavar="RUN|JOB", help="Folder or URL of a run, or a job ID.")],
    to: ToOption = None,
) -> None:
    """Show the progress of a run, wherever it runs, with its failures and its newest log.

    Examples:
        foldstream status runs/titanic
        foldstream status raysubmit_8rTq1Zb4
    """
    from ..runs.status import last_log, run_status
    from ..search.record import search_status
    from ..submit import submission

    if submission.is_job_id(run):
        job = run
        name, run = submission.find_job(submission.open_client(to), job)
        console.print(f"{job}: {name.lower()}, run {run}", highlight=False, soft_wrap=True)
    state = run_status(locate(run))
    table = Table("fold", "epochs", "state", "loss")
    for fold in state.folds:
        loss = score_text(fold.scores["loss"]) if "loss" in fold.scores else ""
        table.add_row(fold.name, f"{fold.epochs:.1f} of {fold.total_epochs}", fold.state, loss)
    console.print(table)
    if trials := search_status(locate(run)):
        console.print(trials_table(trials))
    for failure in state.failures:
        console.print(f"failed: {failure}", highlight=False, markup=False, soft_wrap=True)
    log = last_log(locate(run))
    console.out(log, end="", highlight=False)
    searched = {"search": trials} if trials else {}
    print_result(
        {**asdict(state), **searched, "log": log},
        lambda: console.print("complete" if state.complete else "incomplete"),
    )


@commands.command()
def watch(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN…", help="Folder or URL of a run, in progress or complete, or a folder of runs."),
    ],
    port: Annotated[int, typer.Option(help="Local port; another one is chosen if it is in use.")] = 5006,
    open: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve a live page of a run until Ctrl-C: its folds, curves, time breakdown, failures and report; of several runs
    or a folder of runs, also a page that compares them.

    Examples:
        foldstream watch runs/titanic --open
        foldstream watch s3://bucket/runs/titanic --port 5010
    """
    from ..views.watch import run_server

    run = ", ".join(runs)
    with run_server([locate(one) for one in runs], port) as server:
        address = f"http://{LOOPBACK}:{server.port}"
        console.print(f"{run}: {address}, press Ctrl-C to stop", highlight=False, soft_wrap=True)
        print_json({"name": run, "value": address})
        if open:
            typer.launch(address)
        with suppress(KeyboardInterrupt):
            server.io_loop.start()


@commands.command()
def serve(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder or URL of a complete run, or of an ensemble.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on. Clients need a token, unless it is loopback.")
    ] = LOOPBACK,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for a free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="FOLDSTREAM_TOKEN",
            help="Token that clients must send; by default a new one is printed, or none is needed on loopback.",
        ),
    ] = None,
    ensemble: Annotated[
        str, typer.Option(help="How the folds' predictions are combined, as for 'foldstream predict'.")
    ] = "mean",
) -> None:
    """Serve predictions of a run over HTTP until Ctrl-C: JSON, CSV or images in, JSON out.

    Examples:
        foldstream serve runs/titanic --port 8000
        foldstream serve runs/titanic --host 0.0.0.0
    """
    import asyncio

    from ..serve.address import address_of, choose_token, listen

    sockets, needed = listen(host, port), choose_token(host, token)
    console.print(f"loading: {run}", highlight=False, soft_wrap=True)
    from ..serve.server import serve as serve_run
    from ..serve.service import Service

    def ready() -> None:
        address = address_of(sockets)
        console.print(f"{run}: {address}, press Ctrl-C to stop", highlight=False, soft_wrap=True)
        if needed and not token:
            console.print(f"token: {needed}", highlight=False, soft_wrap=True)
        print_json({"name": run, "value": address, "token": None if token else needed})

    asyncio.run(serve_run(Service(run, ensemble), run, sockets, needed, ready))


@commands.command()
def dashboard(
    to: ToOption = None,
    open: Annotated[bool, typer.Option("--open", help="Open Ray's dashboard in the browser.")] = False,
) -> None:
    """Show the addresses of a cluster's dashboards, and how to reach them.

    Examples:
        foldstream dashboard --open
        foldstream dashboard --to http://10.0.0.5:8265
    """
    from ..submit import submission

    address = submission.find_address(to)
    for name, link in submission.dashboards(submission.open_client(address), address).items():
        tunnel = submission.tunnel_to(address, link)
        console.print(f"{name}: {link}" + (f" via {tunnel}" if tunnel else ""), highlight=False, soft_wrap=True)
    if open:
        typer.launch(address)


@cluster_app.command("start")
def start_cluster(
    nodes: Annotated[int, typer.Option(help="Number of nodes, all on this machine.")] = 1,
    cores: Annotated[
        int | None, typer.Option(help="Cores per node; by default this machine's cores, split equally among the nodes.")
    ] = None,
) -> None:
    """Start a Ray cluster on this machine, on loopback. It runs until it is stopped.

    Examples:
        foldstream cluster start
        foldstream cluster start --nodes 2 --cores 4
    """
    make_token()
    use_token()  # before Ray is imported
    from ..ray import local_cluster

    show_cluster(local_cluster.start_cluster(nodes, cores))


@cluster_app.command("stop")
def stop_cluster() -> None:
    """Stop the local cluster and everything that runs on it.

    Examples:
        foldstream cluster stop
    """
    from ..ray import local_cluster

    console.print("stopped" if local_cluster.stop_cluster() else "no local cluster is running")


@cluster_app.command("status")
def cluster_status() -> None:
    """Show whether a local cluster is running, and its addresses.

    Examples:
        foldstream cluster status
    """
    from ..ray import local_cluster

    if cluster := local_cluster.current_cluster():
        show_cluster(cluster)
    else:
        console.print("no local cluster is running; start one with 'foldstream cluster start'")


@commands.command()
def doctor(
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Address of a Ray cluster to check, e.g. HOST:6379 or auto.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(metavar="PLACE", help="With --cluster: folder or URL that every node must access.")
    ] = None,
) -> None:
    """Check this machine and compare the speed of its CPU and GPUs, or check the nodes of a cluster.

    Examples:
        foldstream doctor
        foldstream doctor --cluster auto --storage s3://bucket/runs
    """
    if storage and not cluster:
        raise UsageError("--storage is checked from the nodes of a cluster; add --cluster ADDRESS, or omit --storage")
    if cluster:
        from ..doctor.cluster_doctor import examine_cluster
        from ..ray.job_cluster import connect_ray

        with connect_ray(cluster):
            show_findings(examine_cluster(storage))
        return
    from ..doctor.doctor import examine
    from ..doctor.gpus import examine_gpus

    show_findings([*examine(), *examine_gpus()])


def trials_table(trials: list[dict[str, Any]]) -> Table:
    """A table of what has become of the candidates of a search."""
    table = Table("candidate", *trials[0]["settings"], "rung", "score", "state")
    for trial in trials:
        score = "" if trial["score"] is None else score_text(trial["score"])
        values = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in trial["settings"].values()]
        state = f"{trial['state']}: {trial['why']}" if trial["why"] else trial["state"]
        table.add_row(trial["name"], *values, str(trial["rung"] or ""), score, escape(state))
    return table


def show_findings(findings: list[Finding]) -> None:
    """Print findings, with the remedies of problems."""
    table = Table(box=None, show_header=False)
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[yellow]check[/]"
        table.add_row(mark, finding.name, finding.value, finding.remedy if not finding.ok else "")
    console.print(table)


def show_cluster(cluster: LocalCluster) -> None:
    """Print the addresses of a local cluster."""
    console.print(f"nodes: {cluster.nodes}", highlight=False)
    console.print(f"dashboard, and address for --to: {cluster.dashboard}", highlight=False)
    console.print(f"address for --ray: {cluster.address}", highlight=False)
