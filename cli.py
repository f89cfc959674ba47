"""The command line: one function per command. Only this module and `cluster/terminal/` print.

Each command prints what it does before it imports what it needs, so that the first line appears immediately and
`--help` does not wait for Dask or torch.
"""

from __future__ import annotations

import atexit
import os
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from .cluster.ray.auth import use_token
from .cluster.requests import (
    AdoptRequest,
    AppendRequest,
    ConvertImagesRequest,
    ConvertTablesRequest,
    EnsembleRequest,
    PredictRequest,
    PruneRequest,
    Session,
    SplitRequest,
    StackRequest,
    TrainRequest,
)
from .cluster.terminal.commands import cluster_app, commands
from .cluster.terminal.headings import GroupedCommands, KindsOfSources, examples_last
from .cluster.terminal.output import choose_output, console, errors, listening, print_json, print_result
from .cluster.terminal.request_options import request_command
from .cluster.terminal.tables import (
    print_dataset,
    show_ensemble,
    show_estimate,
    show_plan,
    show_result,
    show_rows,
    show_source_scores,
    show_summary,
)
from .storage.errors import DamagedError, FoldstreamError, StoppedError, UsageError
from .storage.places.locate import locate

EXAMPLES = """Examples:

foldstream convert csv titanic.csv titanic.zarr --label Survived --id PassengerId

foldstream train titanic.zarr runs/titanic

foldstream predict runs/titanic test.csv submission.csv"""

app = typer.Typer(
    help="Train PyTorch models with k-fold cross-validation on data larger than memory.",
    epilog=EXAMPLES,
    cls=GroupedCommands,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
convert_app = typer.Typer(help="Convert source files into a dataset.", cls=KindsOfSources, no_args_is_help=True)
app.add_typer(convert_app, name="convert")
app.add_typer(commands)


def print_version(wanted: bool) -> None:
    """Print the version of Foldstream and of Python, and exit."""
    if wanted:
        typer.echo(f"foldstream {version('foldstream')}, Python {platform.python_version()}")
        raise typer.Exit


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON lines: progress, then the result.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train PyTorch models with k-fold cross-validation on data larger than memory."""
    choose_output(quiet, json)


@request_command(convert_app, ConvertTablesRequest, "csv")
def convert_csv(request: ConvertTablesRequest) -> None:
    """Convert CSV, Parquet, Arrow or JSON lines files into a dataset: chunked Zarr arrays with a manifest. Run the same
    command to resume.

    Examples:
        foldstream convert csv titanic.csv titanic.zarr --label Survived --id PassengerId
        foldstream convert csv 'trips/*.parquet' trips.zarr --label fare --time day
        foldstream convert csv test.csv test.zarr --like titanic.zarr
    """
    with listening() as listener:
        listener.announce("converting", f"{shorten(request.places)} into {request.out}")
        from .cluster.api.conversion import convert_tables

        dataset = convert_tables(request, Session(listener=listener))
    print_dataset(dataset)


@request_command(convert_app, ConvertImagesRequest, "images")
def convert_images(request: ConvertImagesRequest) -> None:
    """Convert images into a dataset of samples of one size. Run the same command to resume.

    Examples:
        foldstream convert images photos/ photos.zarr
        foldstream convert images scans.zip scans.zarr --labels scans.csv --label sick --size 128 --fit crop
    """
    with listening() as listener:
        listener.announce("converting", f"{shorten(request.places)} into {request.out}")
        from .cluster.api.conversion import convert_image_files

        dataset = convert_image_files(request, Session(listener=listener))
    print_dataset(dataset)


@request_command(app, AdoptRequest, "adopt")
def adopt(request: AdoptRequest) -> None:
    """Make a dataset of arrays in Zarr, HDF5, NumPy, Arrow, Parquet or Lance files, which stay where they are. Run the
    same command to resume.

    Examples:
        foldstream adopt digits.npz digits.zarr --x images --y labels
        foldstream adopt cells.h5ad cells.zarr --y obs/cell_type
        foldstream adopt climate.zarr climate-data.zarr --x temperature --sample-dim time --y targets.npy
    """
    with listening() as listener:
        listener.announce("adopting", f"{request.place} as {request.out}")
        from .cluster.api.conversion import adopt_arrays

        dataset = adopt_arrays(request, Session(listener=listener))
    print_dataset(dataset)


@request_command(app, AppendRequest, "append")
def append(request: AppendRequest) -> None:
    """Append the rows of new sources to a dataset, as its next version. Earlier versions stay as they are. Run the same
    command to resume.

    Examples:
        foldstream append titanic.zarr more.csv
        foldstream append photos.zarr new_photos/ --on-error skip
    """
    with listening() as listener:
        listener.announce("appending", f"{shorten(request.places)} to {request.dataset}")
        from .cluster.api.conversion import append_sources

        dataset = append_sources(request, Session(listener=listener))
    print_dataset(dataset)


@request_command(app, PruneRequest, "prune")
def prune(request: PruneRequest) -> None:
    """Take back appends: remove the newest versions of a dataset, or only what an interrupted append has left.

    Examples:
        foldstream prune titanic.zarr
        foldstream prune titanic.zarr --keep 1
    """
    from .cluster.api import conversion

    with listening() as listener:
        removed = conversion.prune(request.dataset, keep=request.keep, listener=listener)
    versions = f"removed: version {', '.join(map(str, removed))}" if removed else "no version was removed"
    print_result({"removed": removed}, lambda: console.print(versions, highlight=False))


@request_command(app, SplitRequest, "split")
def split(request: SplitRequest) -> None:
    """Assign rows to folds, save the plan with the dataset and show it. Use it with 'train --plan NAME'.

    Examples:
        foldstream split titanic.zarr --folds 10 --overwrite
        foldstream split trips.zarr --name weekly --split time --order-column day --gap 7
    """
    from .cluster.api.split import assign_folds

    with listening() as listener:
        plan = assign_folds(request, Session(listener=listener))
    rows = [plan.counts(rows.array, rows.held_out).sum() for rows in plan.models]
    print_result({"plan": str(plan.place), "held_out_rows": [int(count) for count in rows]}, lambda: show_plan(plan))


@request_command(app, TrainRequest, "train")
def train(request: TrainRequest) -> None:
    """Train k folds with Ray Train and merge their out-of-fold predictions. Run the same command to resume.

    Examples:
        foldstream train titanic.zarr runs/titanic
        foldstream train digits.zarr runs/digits --folds 5 --epochs 10 --set lr=0.005
        foldstream train photos.zarr runs/own --model net.py:Net --workers 2
    """
    with listening() as listener:
        from .cluster.api.train import run_training

        summary = run_training(request, Session(listener=listener))
    print_result(summary, lambda: show_result(summary))


@request_command(app, EnsembleRequest, "ensemble")
def ensemble(request: EnsembleRequest) -> None:
    """Weigh several runs on one dataset with the same folds by their out-of-fold predictions. Predict with the ensemble
    as with a run. Run the same command to resume.

    Examples:
        foldstream ensemble runs/cnn runs/mlp runs/linear runs/all
        foldstream ensemble runs/cnn runs/mlp runs/all --method nnls
    """
    with listening() as listener:
        from .cluster.ensembles.ensemble import make_ensemble

        summary = make_ensemble(request, Session(listener=listener))
    print_result(summary, lambda: show_ensemble(summary))


@request_command(app, StackRequest, "stack")
def stack(request: StackRequest) -> None:
    """Make a dataset with the out-of-fold predictions of runs as further features. Runs on it have the same folds, and
    predict new rows by the other runs first. Run the same command to resume.

    Examples:
        foldstream stack runs/cnn runs/mlp stacked.zarr
        foldstream stack runs/cnn runs/mlp predictions.zarr --only
    """
    with listening() as listener:
        listener.announce("stack", f"{len(request.runs)} runs as features of {request.out}")
        from .cluster.ensembles.stack import stack_runs

        dataset = stack_runs(request, Session(listener=listener))
    print_dataset(dataset)


@request_command(app, PredictRequest, "predict")
def predict(request: PredictRequest) -> None:
    """Predict with the models of all folds and write a CSV or Parquet file, a folder of Parquet files, or Zarr. Run the
    same command to resume.

    Examples:
        foldstream predict runs/titanic test.csv submission.csv
        foldstream predict runs/photos more/ probabilities.parquet --proba --on-error skip
        foldstream predict runs/photos s3://bucket/more.zarr s3://bucket/predictions/ --workers 8
    """
    with listening() as listener:
        listener.announce("predicting", f"{request.source} with {request.run}")
        from .cluster.api.predict import predict_source

        done = predict_source(request, Session(listener=listener))
    out = str(request.out)
    result = {"rows": done.rows, "out": out, "left_out": done.left_out, "scored": done.scored}
    print_result(result, lambda: console.print(f"{done.rows:,} predictions: {out}", highlight=False, soft_wrap=True))
    if done.scored:
        show_source_scores(done.scored)


@app.command()
def oof(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a complete run, or of an ensemble.")],
    out: Annotated[
        str, typer.Argument(metavar="OUT.csv|OUT.parquet", help="File to write: .csv, .csv.gz or .parquet.")
    ],
    format: Annotated[
        str | None,
        typer.Option(metavar="csv|parquet", help="Format of a file whose ending does not say it."),
    ] = None,
) -> None:
    """Write the out-of-fold predictions as a table: for each row, the prediction of the models that have not seen it.

    Examples:
        foldstream oof runs/titanic oof.csv
        foldstream oof runs/titanic oof.parquet
    """
    from .cluster.api.predict import write_oof

    with listening() as listener:
        rows = write_oof(run, out, format=format, progress=listener.progress)
    print_result({"rows": rows, "out": out}, lambda: console.print(f"{rows:,} rows: {out}", highlight=False))


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a complete run.")],
    out: Annotated[
        str,
        typer.Argument(
            metavar="OUT", help="Folder to write to, one file per fold; with --ensemble also a file NAME.onnx."
        ),
    ],
    format: Annotated[str, typer.Option(help="File format: torchscript, onnx or safetensors.")] = "torchscript",
    ensemble: Annotated[
        bool,
        typer.Option("--ensemble", help="With --format onnx: one file of all folds, which takes columns as they are."),
    ] = False,
) -> None:
    """Export the folds' models for use without Foldstream. They take stored rows and return logits or values. With
    --ensemble, one ONNX file takes rows as they are and predicts what 'foldstream predict' does.

    Examples:
        foldstream export runs/titanic exported
        foldstream export runs/titanic exported --format onnx
        foldstream export runs/titanic titanic.onnx --format onnx --ensemble
    """
    from .training.model.export import export as export_models

    for file in export_models(run, out, format=format, ensemble=ensemble):
        console.print(str(file), highlight=False, soft_wrap=True)


@app.command("run")
def run(
    job: Annotated[
        str,
        typer.Argument(
            metavar="JOB.toml",
            help=r"Job file with the tables \[convert.csv], \[convert.images] or \[adopt], \[train] and \[predict].",
        ),
    ],
    ray: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS",
            help="Address of a Ray cluster, or auto for the cluster of this machine; by default a new one.",
        ),
    ] = None,
) -> None:
    """Convert, train and predict as described in a job file. Completed steps are skipped.

    Examples:
        foldstream run examples/digits/job.toml
        foldstream run examples/digits/job.toml --ray auto
    """
    with listening() as listener:
        listener.announce("running", job)
        from .cluster.api.job import run_job
        from .cluster.api.job_file import load_job_file

        tables = load_job_file(Path(job))  # before the run: the file of a submitted job is removed at its end
        summary = run_job(job, listener, cluster=ray)
    if summary:
        print_result(summary, lambda: show_result(summary))
    if "predict" in tables:
        console.print(f"predictions: {tables['predict']['out']}", highlight=False, soft_wrap=True)


@app.command()
def plan(
    job: Annotated[str, typer.Argument(metavar="JOB.toml", help="Job file, as for 'foldstream run'.")],
    nodes: Annotated[str, typer.Option(help="Comma-separated numbers of nodes to estimate for.")] = "1,4,16",
    cores: Annotated[int | None, typer.Option(min=1, help="Cores per node; by default those of this machine.")] = None,
    price: Annotated[float | None, typer.Option(min=0, help="Price of a node per hour.")] = None,
    source_bytes: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Total size of all sources, e.g. 1TB, if only some of them are available here."
        ),
    ] = None,
) -> None:
    """Estimate what a job will need from a sample of its sources: rows, bytes, memory, disk, hours, cost.

    Examples:
        foldstream plan examples/digits/job.toml
        foldstream plan examples/digits/job.toml --nodes 1,4,16 --price 2.50
    """
    from .cluster.planning.job import estimate_job
    from .pipeline.target.options import parse_numbers

    try:
        numbers: tuple[int, ...] = parse_numbers(nodes)
    except ValueError as error:
        raise UsageError(f"--nodes {nodes}: {error}") from None
    show_estimate(estimate_job(job, numbers, cores, price, source_bytes))


@app.command()
def verify(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Dataset to check.")],
    repair: Annotated[bool, typer.Option("--repair", help="Convert damaged shards again from the sources.")] = False,
) -> None:
    """Read a whole dataset and list every damaged or missing file.

    Examples:
        foldstream verify titanic.zarr
        foldstream verify titanic.zarr --repair
    """
    from .cluster.api import conversion

    with listening() as listener:
        damages = conversion.verify(dataset, repair=repair, listener=listener)
    for damage in damages:
        rows = f"rows {damage.first_row:,} to {damage.last_row:,} of {damage.array}"
        console.print(f"{damage.path}: {damage.reason} ({rows})", highlight=False, soft_wrap=True)
    print_json({"result": {"damaged": [str(damage.path) for damage in damages], "repaired": repair}})
    if damages and not repair:
        raise DamagedError(f"{dataset}: {len(damages)} damaged files; fix them with --repair, or restore a backup")
    console.print(f"{len(damages)} files repaired" if damages else f"{dataset} is intact")
    from .storage.dataset import open_dataset

    if (foreign := open_dataset(dataset).foreign) and not len(foreign.hashes):
        console.print(
            "its features are in files without hashes, of which only sizes, times and chunks were checked; "
            "'foldstream adopt … --hash' stores hashes",
            highlight=False,
            soft_wrap=True,
        )


@app.command()
def info(
    path: Annotated[
        str, typer.Argument(metavar="DATASET|RUN", help="Dataset, run, grid, search, or ensemble of runs.")
    ],
    preview: Annotated[
        str | None,
        typer.Option(metavar="FILE.png", help="Image file to write: some rows of an image dataset, with their labels."),
    ] = None,
    head: Annotated[
        int, typer.Option(metavar="N", min=0, max=1000, help="Number of leading rows of a dataset to show.")
    ] = 0,
) -> None:
    """Show what a dataset contains, or the results of a run.

    Examples:
        foldstream info titanic.zarr --head 5
        foldstream info photos.zarr --preview photos.png
        foldstream info runs/titanic
    """
    from .training.run import has_candidates

    root = locate(path)
    shows = {"run.json": show_summary, "grid.json": show_result, "ensemble.json": show_ensemble}
    found = next((name for name in shows if (root / name).exists()), None)
    if found or has_candidates(root):
        from .cluster.runs.run import read_run
        from .storage.places.json_files import read_json

        if preview or head:
            option = "--preview" if preview else "--head"
            raise UsageError(f"{option} shows rows of a dataset, but {path} is a run; give the path of a dataset")
        summary = read_json(root / found) if found and found != "run.json" else read_run(root)[1]
        print_result(summary, lambda: shows[found or "run.json"](summary))
        return
    from .storage.dataset import open_dataset

    dataset = open_dataset(path)
    print_dataset(dataset)
    if head:
        from .cluster.api.browse import open_to_browse

        show_rows(open_to_browse(path).rows(head))
    if preview:
        from .pipeline.images.preview import draw_preview

        console.print(f"{draw_preview(dataset, Path(preview))} rows: {preview}", highlight=False, soft_wrap=True)


for group in (app, convert_app, commands, cluster_app):
    examples_last(group)


def main() -> NoReturn:
    """Run the command line. Foldstream's own errors are shown without a traceback."""
    run: Callable[[], None] = app
    use_token()
    try:
        run()
    except StoppedError as stopped:
        errors.print(str(stopped), markup=False, highlight=False, soft_wrap=True)
        sys.exit(stopped.exit_code)
    except FoldstreamError as error:
        errors.print(f"[red]error:[/] {escape_markup(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    sys.exit(0)


def run_and_leave() -> NoReturn:
    """The entry point: run the command line and exit immediately. A regular interpreter shutdown would take a second
    once torch and Ray are loaded."""
    try:
        main()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    atexit._run_exitfuncs()
    with suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def shorten(places: Sequence[str]) -> str:
    """The first place, and the number of the others."""
    return places[0] + (f" and {len(places) - 1} more" if len(places) > 1 else "")


def escape_markup(text: str) -> str:
    """Escape square brackets for rich."""
    return text.replace("[", r"\[")


if __name__ == "__main__":
    run_and_leave()
