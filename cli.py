"""The command line: one function a command, each a call of the public API. It and `cluster/terminal/` are the only
places that print.

Each command imports what it needs: `--help` waits neither for Dask nor for torch, `convert` not for torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from .cluster.ray.auth import use_token
from .cluster.terminal.commands import commands
from .cluster.terminal.output import choose_output, console, errors, listening, print_json, print_result
from .cluster.terminal.tables import show_dataset, show_estimate, show_plan, show_result, show_summary
from .storage.errors import DamagedError, FoldstreamError, UsageError
from .storage.object_path import locate

app = typer.Typer(
    help="Train PyTorch models, with k-fold cross validation, on data larger than memory.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
convert_app = typer.Typer(help="Convert source files into a dataset.", no_args_is_help=True)
app.add_typer(convert_app, name="convert")
app.add_typer(commands)

SourcesArgument = Annotated[
    list[str],
    typer.Argument(metavar="SOURCE…", help="CSV files, plain, .gz, .bz2, .xz or .zst; folders of them; patterns."),
]
FoldsOption = Annotated[int, typer.Option(help="Number of folds.")]
SplitOption = Annotated[
    str, typer.Option(help="kfold, stratified, group, stratified-group, time or column; auto: by label and column.")
]
RepeatsOption = Annotated[int, typer.Option(help="Times that the rows are split, each time into other folds.")]
HoldoutOption = Annotated[float, typer.Option(metavar="SHARE", help="Of the rows, as 0.33, that no model sees.")]
GroupOption = Annotated[str | None, typer.Option(help="Column of group splits: its values are never cut apart.")]
OrderOption = Annotated[str | None, typer.Option(help="Column of a time split: folds train on earlier rows only.")]
GapOption = Annotated[float, typer.Option(help="Between training and held-out rows of a time split, as its column.")]
FoldOption = Annotated[str | None, typer.Option(help="Column of folds of your own; -1: never held out.")]
OutArgument = Annotated[str, typer.Argument(metavar="OUT.zarr", help="Where the dataset is to be.")]


@app.callback()
def options(
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print lines of JSON: progress, then the result.")] = False,
) -> None:
    """Train PyTorch models, with k-fold cross validation, on data larger than memory.

    Example: foldstream --json run examples/digits/job.toml
    """
    choose_output(quiet, json)


def parse_integers(option: str, text: str | None, example: str) -> tuple[int, ...] | None:
    """`1,28,28` as numbers. Raises UsageError."""
    if text is None:
        return None
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise UsageError(f"{option} «{text}»: give positive whole numbers with commas, as in {example}")
    return numbers


def parse_size(text: str | None) -> int | tuple[int, ...] | None:
    """`64` as a number, `48,64` as two. Raises UsageError."""
    numbers = parse_integers("--size", text, "64 or 48,64")
    return numbers[0] if numbers and len(numbers) == 1 else numbers


def parse_seed(text: str) -> int | None:
    """A seed, or None for `none`. Raises UsageError."""
    if text != "none" and not text.isdecimal():
        raise UsageError(f"--shuffle «{text}»: give a whole number, or none")
    return None if text == "none" else int(text)


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """`NAME=VALUE` pairs as a dict of text. Raises UsageError."""
    settings = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise UsageError(f"--set «{pair}»: write NAME=VALUE, as in lr=0.01")
        settings[name] = value
    return settings


@convert_app.command("csv")
def convert_csv(
    sources: SourcesArgument,
    out: OutArgument,
    label: Annotated[
        list[str], typer.Option(help="Column to learn, repeatable for numbers. Without it: rows to predict.")
    ] = [],  # noqa: B006
    id: Annotated[str | None, typer.Option(help="Column to keep beside the rows, as `key`.")] = None,
    shape: Annotated[str | None, typer.Option(help="Shape of a sample, as in 1,28,28; else a vector.")] = None,
    dtype: Annotated[str, typer.Option(help="Type of the values; auto: the narrowest that is exact.")] = "auto",
    task: Annotated[str, typer.Option(help="classification or regression; auto: by the label's values.")] = "auto",
    ignore: Annotated[list[str], typer.Option(help="Column to leave out, repeatable.")] = [],  # noqa: B006
    category: Annotated[list[str], typer.Option(help="Column of categories, repeatable; others are seen.")] = [],  # noqa: B006
    date: Annotated[list[str], typer.Option(help="Column of dates, repeatable; others are seen.")] = [],  # noqa: B006
    missing: Annotated[
        str, typer.Option(help="What stands for a missing number: error, mean, constant=VALUE, or indicator.")
    ] = "error",
    like: Annotated[
        str | None, typer.Option(help="Dataset whose columns, categories and fillings to take, as for a test set.")
    ] = None,
    unknown: Annotated[str, typer.Option(help="A category that --like lacks: error, or a code of its own.")] = "error",
    on_error: Annotated[
        str, typer.Option(help="stop at the first faulty row, or skip: leave them out and list them.")
    ] = "stop",
    shuffle: Annotated[int | None, typer.Option(metavar="SEED", help="Shuffle all rows as they are written.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="Between fields; else seen from the first rows.")] = None,
    quote: Annotated[str, typer.Option(help="Around fields; empty for none.")] = '"',
    comment: Annotated[str | None, typer.Option(help="Begins a comment; else seen from the first lines.")] = None,
    decimal: Annotated[str | None, typer.Option(help="Decimal point; else seen from the first rows.")] = None,
    thousands: Annotated[str, typer.Option(help="Between groups of digits.")] = "",
    encoding: Annotated[str | None, typer.Option(help="Else UTF-8, or what a byte order mark says.")] = None,
    header: Annotated[
        str, typer.Option(help="first: names in the first row; none; auto: none if it is numbers.")
    ] = "auto",
    missing_marker: Annotated[
        list[str], typer.Option(help="Text that means a missing value, besides empty, NA, NaN, null, None; repeatable.")
    ] = [],  # noqa: B006
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a dataset at OUT.")] = False,
    dask: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler, as tcp://host:8786; else workers here.")
    ] = None,
    report: Annotated[str | None, typer.Option(help="HTML file for Dask's account of the work.")] = None,
) -> None:
    """Convert CSV files into a dataset: chunked Zarr arrays with a manifest. The same command resumes.

    Example: foldstream convert csv train.csv digits.zarr --label label --shape 1,28,28
    """
    from .cluster.api import conversion
    from .pipeline.csv.dialect import MISSING, CsvOptions

    with listening() as listener:
        dataset = conversion.convert_csv(
            sources,
            out,
            label=label,
            id=id,
            shape=parse_integers("--shape", shape, "1,28,28"),
            dtype=dtype,
            task=task,
            ignore=ignore,
            category=category,
            date=date,
            missing=missing,
            like=like,
            unknown=unknown,
            on_error=on_error,
            shuffle=shuffle,
            csv=CsvOptions(
                delimiter, quote, comment, decimal, thousands, (*MISSING, *missing_marker), encoding, header
            ),
            overwrite=overwrite,
            dask=dask,
            report=report,
            listener=listener,
        )
    print_result(dataset.facts(), lambda: show_dataset(dataset))


@convert_app.command("images")
def convert_images(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE…", help="Folders of images, patterns, .tar or .zip archives, also in a bucket."),
    ],
    out: OutArgument,
    size: Annotated[str | None, typer.Option(help="Of a sample, as in 64, or 48,64 (height and width).")] = None,
    color: Annotated[str, typer.Option(help="rgb or gray.")] = "rgb",
    fit: Annotated[str, typer.Option(help="Other proportions: pad, crop to the middle, or stretch.")] = "pad",
    background: Annotated[str, typer.Option(help="white or black: of padding, and behind transparency.")] = "white",
    dtype: Annotated[str, typer.Option(help="uint8, or uint16 to keep 16 bits of gray.")] = "uint8",
    labels: Annotated[str | None, typer.Option(help="CSV file of paths and labels; else folders are classes.")] = None,
    label: Annotated[
        list[str], typer.Option(help="Column of --labels to learn, repeatable for numbers; else the second.")
    ] = [],  # noqa: B006
    task: Annotated[str, typer.Option(help="classification or regression; auto: by the label's values.")] = "auto",
    like: Annotated[str | None, typer.Option(help="Dataset whose form and classes to take, as for a test set.")] = None,
    on_error: Annotated[
        str, typer.Option(help="stop at images that cannot be decoded, or skip: leave them out and list them.")
    ] = "stop",
    shuffle: Annotated[str, typer.Option(metavar="SEED", help="Seed of the images' order; none: by path.")] = "0",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a dataset at OUT.")] = False,
    dask: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler, as tcp://host:8786; else workers here.")
    ] = None,
    report: Annotated[str | None, typer.Option(help="HTML file for Dask's account of the work.")] = None,
) -> None:
    """Convert images into a dataset of samples of one size. The same command resumes.

    Example: foldstream convert images photos/ photos.zarr --size 64 --fit crop
    """
    from .cluster.api import conversion

    with listening() as listener:
        dataset = conversion.convert_images(
            sources,
            out,
            size=parse_size(size),
            color=color,
            fit=fit,
            background=background,
            dtype=dtype,
            labels=labels,
            label=label,
            task=task,
            like=like,
            on_error=on_error,
            shuffle=parse_seed(shuffle),
            overwrite=overwrite,
            dask=dask,
            report=report,
            listener=listener,
        )
    print_result(dataset.facts(), lambda: show_dataset(dataset))


@app.command()
def split(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="A dataset made by convert.")],
    name: Annotated[str, typer.Option(help="Of the plan; a dataset may hold several.")] = "default",
    folds: FoldsOption = 5,
    split: SplitOption = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the folds.")] = 0,
    repeats: RepeatsOption = 1,
    holdout: HoldoutOption = 0.0,
    group_column: GroupOption = None,
    order_column: OrderOption = None,
    gap: GapOption = 0.0,
    fold_column: FoldOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another plan of that name.")] = False,
) -> None:
    """Assign the rows to folds, keep that with the dataset, and show it. «train --plan NAME» uses it.

    Example: foldstream split trips.zarr --name weekly --split time --order-column day --gap 7
    """
    from .cluster.api import split as jobs

    with listening() as listener:
        plan = jobs.split_rows(
            dataset,
            name,
            folds=folds,
            split=split,
            seed=seed,
            repeats=repeats,
            holdout=holdout,
            group_column=group_column,
            order_column=order_column,
            gap=gap,
            fold_column=fold_column,
            overwrite=overwrite,
            listener=listener,
        )
    rows = [plan.counts(rows.array, rows.held_out).sum() for rows in plan.models]
    print_result({"plan": str(plan.place), "held_out_rows": [int(count) for count in rows]}, lambda: show_plan(plan))


@app.command()
def train(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="A dataset made by convert.")],
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of the run: weights, predictions, logs.")],
    model: Annotated[
        str, typer.Option(help="digits-cnn, article-cnn, mlp, path/to/file.py:factory or package.module:factory.")
    ] = "digits-cnn",
    folds: FoldsOption = 5,
    split: SplitOption = "auto",
    repeats: RepeatsOption = 1,
    holdout: HoldoutOption = 0.0,
    group_column: GroupOption = None,
    order_column: OrderOption = None,
    gap: GapOption = 0.0,
    fold_column: FoldOption = None,
    plan: Annotated[
        str | None, typer.Option(metavar="NAME", help="Folds that «split» has made, instead of the options above.")
    ] = None,
    refit: Annotated[bool, typer.Option("--refit", help="Train one model more, on all rows.")] = False,
    epochs: Annotated[int, typer.Option(help="Passes over each fold's training rows.")] = 10,
    batch_size: Annotated[int, typer.Option(help="Rows of a global batch, over all workers.")] = 128,
    workers: Annotated[
        int | None, typer.Option(help="Data-parallel workers; else two, or one where there is one GPU.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of folds, order, weights and dropout.")] = 0,
    window: Annotated[int, typer.Option(help="Blocks of each lane that are mixed at once.")] = 8,
    memory: Annotated[
        str | None, typer.Option(help="Bound of each worker's stream, such as 2GB; else an eighth of all, shared.")
    ] = None,
    cache: Annotated[
        str | None, typer.Option(help="Local disk of each worker for a dataset in an object store, such as 50GB.")
    ] = None,
    fold_mode: Annotated[
        str, typer.Option(help="fused: all folds from one pass over the data; runs: each by itself; auto chooses.")
    ] = "auto",
    max_retries: Annotated[int, typer.Option(help="New attempts at a fold that fails, before the others go on.")] = 2,
    hang_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Silence after which a worker counts as failed.")
    ] = 30.0,
    checkpoint_every: Annotated[
        str, typer.Option(metavar="TEXT", help="As in «1 epoch», «500 steps» or «10 minutes».")
    ] = "1 epoch",
    keep: Annotated[int, typer.Option(help="Checkpoints of each fold that stay: the last ones.")] = 1,
    callback: Annotated[
        list[str],
        typer.Option(
            metavar="NAME[=ARGUMENT]",
            help="Who is told what happens, repeatable: mlflow=EXPERIMENT, wandb=PROJECT, prometheus=PORT, "
            "path/to/file.py:factory or package.module:factory.",
        ),
    ] = [],  # noqa: B006 - Typer copies it
    set: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=VALUE",
            help="A setting, repeatable: optimizer, lr, weight_decay, momentum, scheduler, step_size, gamma, loss, "
            "label_smoothing, precision, clip_grad_norm, accumulate, compile, strategy (ddp or fsdp), sync_batchnorm, "
            "deterministic, patience, or one of the model's own. Several values with commas make a grid.",
        ),
    ] = [],  # noqa: B006 - Typer copies it
) -> None:
    """Train k folds with Ray Train and merge their out-of-fold predictions. The same command resumes.

    Example: foldstream train digits.zarr runs/digits --folds 5 --epochs 10 --set lr=0.005
    """
    from .cluster.api import train as jobs

    with listening() as listener:
        summary = jobs.train(
            dataset,
            run,
            model=model,
            folds=folds,
            split=split,
            repeats=repeats,
            holdout=holdout,
            group_column=group_column,
            order_column=order_column,
            gap=gap,
            fold_column=fold_column,
            plan=plan,
            refit=refit,
            epochs=epochs,
            batch_size=batch_size,
            workers=workers,
            seed=seed,
            window=window,
            memory=memory,
            cache=cache,
            fold_mode=fold_mode,
            max_retries=max_retries,
            hang_timeout=hang_timeout,
            checkpoint_every=checkpoint_every,
            keep=keep,
            settings=parse_settings(set),
            callbacks=callback,
            listener=listener,
        )
    print_result(summary, lambda: show_result(summary))


@app.command()
def predict(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a complete run.")],
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A dataset, a CSV with the run's columns, or images.")
    ],
    out: Annotated[str, typer.Argument(metavar="OUT.csv", help="The CSV to write.")],
    columns: Annotated[
        str | None, typer.Option(help="Names of its columns; else ImageId,Label, or of images path,label,probability.")
    ] = None,
    id: Annotated[str | None, typer.Option(help="Column of SOURCE that names the rows; else 1, 2, 3, …")] = None,
    ensemble: Annotated[
        str, typer.Option(help="How the folds' predictions become one: mean, median, vote, weighted; or refit.")
    ] = "mean",
) -> None:
    """Predict by all folds together and write a CSV.

    Example: foldstream predict runs/digits test.csv submission.csv
    """
    from .cluster.api import predict as jobs

    with listening() as listener:
        names = columns.split(",") if columns else None
        rows = jobs.predict(run, source, out, columns=names, id=id, ensemble=ensemble, listener=listener)
    print_result({"rows": rows, "out": out}, lambda: console.print(f"{rows:,} predictions: {out}", highlight=False))


@app.command()
def oof(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a complete run.")],
    out: Annotated[str, typer.Argument(metavar="OUT.csv|OUT.parquet", help="The table to write.")],
) -> None:
    """Write the out-of-fold predictions as a table: of each row, what models say that have not seen it.

    Example: foldstream oof runs/digits oof.parquet
    """
    from .cluster.api import predict as jobs

    with listening() as listener:
        rows = jobs.write_oof(run, out, listener=listener)
    print_result({"rows": rows, "out": out}, lambda: console.print(f"{rows:,} rows: {out}", highlight=False))


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a complete run.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder for a file of each fold.")],
    format: Annotated[str, typer.Option(help="torchscript, onnx or safetensors.")] = "torchscript",
) -> None:
    """Write the folds' models for use without Foldstream. They take stored rows, and give logits or values.

    Example: foldstream export runs/digits exported --format onnx
    """
    from .training.model.export import export as export_models

    for file in export_models(run, out, format=format):
        console.print(str(file), highlight=False, soft_wrap=True)


@app.command("run")
def run_job(
    job: Annotated[
        str, typer.Argument(metavar="JOB.toml", help="Tables [convert.csv] or [convert.images], [train], [predict].")
    ],
    ray: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS", help="Address of a Ray cluster, auto for this machine's; else one of its own."
        ),
    ] = None,
) -> None:
    """Convert, train and predict as one file says. What is done already is skipped.

    Example: foldstream run examples/digits/job.toml
    """
    from .cluster.api import job_file

    tables = job_file.load_job_file(Path(job))  # of a job that was submitted the file goes when the cluster is left
    with listening() as listener:
        summary = job_file.run_job(job, listener, cluster=ray)
    if summary:
        print_result(summary, lambda: show_result(summary))
    if "predict" in tables:
        console.print(f"predictions: {tables['predict']['out']}", highlight=False, soft_wrap=True)


@app.command()
def plan(
    job: Annotated[str, typer.Argument(metavar="JOB.toml", help="As «run» takes it.")],
    nodes: Annotated[str, typer.Option(help="Numbers of nodes.")] = "1,4,16",
    cores: Annotated[int | None, typer.Option(min=1, help="Cores of a node; else as many as this machine has.")] = None,
    price: Annotated[float | None, typer.Option(min=0, help="Of a node for an hour.")] = None,
    source_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Of all sources, as 1TB, if those that are here are only some.")
    ] = None,
) -> None:
    """Say what a job will need, from a sample of its sources: rows, bytes, memory, disk, hours, cost. Nothing runs.

    Example: foldstream plan examples/digits/job.toml --nodes 1,4,16 --price 2.50
    """
    from .cluster.planning.job import estimate_job

    show_estimate(estimate_job(job, parse_integers("--nodes", nodes, "1,4,16") or (), cores, price, source_bytes))


@app.command()
def verify(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="A dataset made by convert.")],
    repair: Annotated[bool, typer.Option("--repair", help="Convert damaged shards again from the source.")] = False,
) -> None:
    """Read all of a dataset and name every file that is damaged or missing.

    Example: foldstream verify digits.zarr --repair
    """
    from .cluster.api import conversion

    with listening() as listener:
        damages = conversion.verify(dataset, repair=repair, listener=listener)
    for damage in damages:
        rows = f"rows {damage.first_row:,} to {damage.last_row:,} of {damage.array}"
        console.print(f"{damage.path}: {damage.reason} ({rows})", highlight=False, soft_wrap=True)
    print_json({"result": {"damaged": [str(damage.path) for damage in damages], "repaired": repair}})
    if damages and not repair:
        raise DamagedError(f"{len(damages)} damaged files in {dataset}; mend them with --repair, or restore a copy")
    console.print(f"{len(damages)} files repaired" if damages else f"{dataset} is whole")


@app.command()
def info(
    path: Annotated[str, typer.Argument(metavar="DATASET|RUN", help="A dataset or a run.")],
    preview: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="Draw some rows of a dataset of pictures, with their labels.")
    ] = None,
) -> None:
    """Show what a dataset holds, or how a run ended.

    Example: foldstream info photos.zarr --preview photos.png
    """
    if (locate(path) / "run.json").exists():
        from .cluster.runs.run import read_run

        if preview:
            raise UsageError(f"--preview draws rows of a dataset, and {path} is a run")
        summary = read_run(locate(path))[1]
        print_result(summary, lambda: show_summary(summary))
        return
    from .storage.dataset import open_dataset

    dataset = open_dataset(path)
    print_result(dataset.facts(), lambda: show_dataset(dataset))
    if preview:
        from .pipeline.images.preview import draw_preview

        console.print(f"{draw_preview(dataset, Path(preview))} rows: {preview}", highlight=False, soft_wrap=True)


def main() -> NoReturn:
    """The entry point: errors that we raise on purpose are shown without a traceback."""
    run: Callable[[], None] = app
    use_token()
    try:
        run()
    except FoldstreamError as error:
        errors.print(f"[red]error:[/] {escape_markup(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    sys.exit(0)


def escape_markup(text: str) -> str:
    """Square brackets as they stand."""
    return text.replace("[", r"\[")


if __name__ == "__main__":
    main()
