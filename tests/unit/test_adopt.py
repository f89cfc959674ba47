"""Arrays of every format become a dataset without a copy, and a copy of them has the same bits."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import foldstream as fs
import h5py
import lance
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import xarray as xr
import zarr
from foldstream.pipeline.adopt.sources import tables
from foldstream.pipeline.verify import find_damage
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.dataset import Dataset, open_dataset
from foldstream.storage.errors import ConflictError, DamagedError, SourceError, UsageError
from foldstream.storage.foreign import groups
from foldstream.storage.foreign.parquet import footer_of, lists_of
from foldstream.storage.tasks import SerialExecutor
from pyarrow import parquet

ROWS = 700
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 3, 8)).astype(np.float32)
FLAT = X.reshape(ROWS, 24)
Y = np.arange(ROWS) % 3
NAMES = np.array(["ant", "bee", "cat"])


def rows_of(dataset: Dataset) -> dict[str, np.ndarray]:
    return BlockReader(dataset, [spec.name for spec in dataset.manifest.arrays]).read(range(dataset.layout.blocks))


def adopted(place: Path, **options: Any) -> Dataset:
    """The adopted dataset, after its rows were compared with those of a copy of the same layout."""
    beside = place.parent
    here = fs.adopt(place, beside / "here.zarr", progress=False, overwrite=True, **options)
    copy = fs.adopt(place, beside / "copy.zarr", progress=False, overwrite=True, copy=True, **options)
    assert here.foreign
    assert copy.foreign is None
    assert not (here.root / "x").exists()
    one, other = rows_of(here), rows_of(copy)
    assert {name: array.tobytes() for name, array in one.items()} == {k: v.tobytes() for k, v in other.items()}
    assert (here.layout, here.schema, here.statistics) == (copy.layout, copy.schema, copy.statistics)
    return here


def write_zarr(path: Path, version: Literal[2, 3], **options: Any) -> None:
    group = zarr.open_group(path, mode="w", zarr_format=version)
    array = group.create_array("deep/x", shape=X.shape, dtype=X.dtype, **options)
    array[...] = X
    group.create_array("y", shape=Y.shape, dtype=Y.dtype, chunks=(100,))[...] = Y


def zarr_of(version: Literal[2, 3], **options: Any) -> Callable[[Path], tuple[Path, dict[str, Any]]]:
    def write(folder: Path) -> tuple[Path, dict[str, Any]]:
        write_zarr(folder / "store.zarr", version, **options)
        return folder / "store.zarr", {"x": "deep/x", "y": "y"}

    return write


def hdf5_of(**options: Any) -> Callable[[Path], tuple[Path, dict[str, Any]]]:
    def write(folder: Path) -> tuple[Path, dict[str, Any]]:
        with h5py.File(folder / "file.h5", "w") as file:
            file.create_dataset("deep/x", data=X, **options)
            file["y"] = Y
        return folder / "file.h5", {"x": "deep/x", "y": "y"}

    return write


def npy(folder: Path, x: np.ndarray = X) -> tuple[Path, dict[str, Any]]:
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", Y)
    return folder / "x.npy", {"y": folder / "y.npy"}


def npz(folder: Path, save: Callable[..., None] = np.savez) -> tuple[Path, dict[str, Any]]:
    save(folder / "all.npz", x=X, y=Y)
    return folder / "all.npz", {"y": "y"}


def lists(x: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x[0].size)


def table_of(kind: str) -> pa.Table:
    columns: Mapping[str, Any] = {f"c{number}": column for number, column in enumerate(FLAT.T)}
    if kind == "lists":
        columns = {"x": pa.array(list(FLAT))}
    if kind == "fixed lists":
        columns = {"x": lists(FLAT)}
    return pa.table({**columns, "y": NAMES[Y]})


def parquet_of(kind: str, group: int = 90) -> Callable[[Path], tuple[Path, dict[str, Any]]]:
    def write(folder: Path) -> tuple[Path, dict[str, Any]]:
        (folder / "parts").mkdir()
        for number, start in enumerate(range(0, ROWS, 300)):
            file = folder / "parts" / f"{number}.parquet"
            parquet.write_table(table_of(kind).slice(start, 300), file, row_group_size=group)
        return folder / "parts", {"y": "y"}

    return write


def arrow_of(kind: str, compression: str | None = None) -> Callable[[Path], tuple[Path, dict[str, Any]]]:
    def write(folder: Path) -> tuple[Path, dict[str, Any]]:
        options, table = pa.ipc.IpcWriteOptions(compression=compression), table_of(kind)
        with (
            pa.OSFile(str(folder / "t.arrow"), "wb") as file,
            pa.ipc.new_file(file, table.schema, options=options) as to,
        ):
            to.write_table(table, max_chunksize=110)
        return folder / "t.arrow", {"y": "y"}

    return write


def hugging_face(folder: Path) -> tuple[Path, dict[str, Any]]:
    """What `datasets.Dataset.save_to_disk` writes."""
    saved, files = folder / "saved", ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    saved.mkdir()
    table = pa.table({"x": pa.array(list(FLAT)), "label": Y})
    for start, name in zip((0, 400), files, strict=True):
        part = table.slice(start, 400)
        with pa.OSFile(str(saved / name), "wb") as file, pa.ipc.new_stream(file, part.schema) as to:
            to.write_table(part, max_chunksize=128)
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in files]}))
    features = {"label": {"names": NAMES.tolist(), "_type": "ClassLabel"}, "x": {"_type": "List"}}
    (saved / "dataset_info.json").write_text(json.dumps({"features": features}))
    return saved, {"y": "label"}


def lance_of(kind: str) -> Callable[[Path], tuple[Path, dict[str, Any]]]:
    """Several fragments, one of them without rows that were deleted, and a later version with other rows."""

    def write(folder: Path) -> tuple[Path, dict[str, Any]]:
        place, table = folder / "t.lance", table_of(kind)
        more = table.slice(0, 150).set_column(table.num_columns - 1, "y", pa.array(["gone"] * 150))
        lance.write_dataset(
            pa.concat_tables([table.slice(0, 260), more, table.slice(260)]), place, max_rows_per_file=220
        )
        lance.dataset(place).delete("y = 'gone'")
        return place, {"y": "y"}

    return write


FORMATS: dict[str, Callable[[Path], tuple[Path, dict[str, Any]]]] = {
    "npy": npy,
    "npy, the first axis fastest": lambda folder: npy(folder, np.asfortranarray(X)),
    "npy, the other byte order": lambda folder: npy(folder, X.astype(">f4")),
    "npz": npz,
    "npz, compressed": lambda folder: npz(folder, np.savez_compressed),
    "zarr 2": zarr_of(2, chunks=(64, 3, 5)),
    "zarr 2, order F": zarr_of(2, chunks=(64, 3, 8), order="F"),
    "zarr 3": zarr_of(3, chunks=(50, 3, 8)),
    "zarr 3, shards": zarr_of(3, chunks=(10, 3, 4), shards=(80, 3, 8)),
    "zarr 3, gzip": zarr_of(3, chunks=(50, 3, 8), compressors=zarr.codecs.GzipCodec()),
    "zarr 3, blosc": zarr_of(3, chunks=(50, 3, 8), compressors=zarr.codecs.BloscCodec()),
    "zarr 3, uncompressed": zarr_of(3, chunks=(130, 2, 8), compressors=None),
    "zarr 3, transposed": zarr_of(3, chunks=(50, 3, 8), filters=zarr.codecs.TransposeCodec(order=(2, 0, 1))),
    "hdf5": hdf5_of(),
    "hdf5, chunks": hdf5_of(chunks=(20, 3, 8)),
    "hdf5, gzip": hdf5_of(chunks=(64, 2, 8), compression="gzip", shuffle=True, fletcher32=True),
    "parquet": parquet_of("columns"),
    "parquet, lists": parquet_of("lists"),
    "parquet, fixed lists": parquet_of("fixed lists", group=1000),
    "arrow": arrow_of("columns"),
    "arrow, lists": arrow_of("lists"),
    "arrow, fixed lists, lz4": arrow_of("fixed lists", "lz4"),
    "hugging face": hugging_face,
    "lance": lance_of("columns"),
    "lance, fixed lists": lance_of("fixed lists"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_rows_in_place_are_those_of_a_copy(name: str, tmp_path: Path) -> None:
    place, options = FORMATS[name](tmp_path)
    rows = rows_of(dataset := adopted(place, **options))
    assert rows["x"].reshape(X.shape).tobytes() == X.tobytes()
    assert rows["y"].tolist() == Y.tolist()
    assert rows["id"].tolist() == list(range(ROWS))
    assert dataset.schema.task == "classification"
    assert dataset.class_totals == (234, 233, 233)


def test_columns_have_the_roles_that_options_give_them(tmp_path: Path) -> None:
    days = np.datetime64("2024-01-01") + np.arange(ROWS)
    names = np.array([f"row {number}" for number in range(ROWS)])
    np.savez(tmp_path / "all.npz", images=X, label=NAMES[Y], group=Y + 10, weight=Y / 2, day=days, name=names)
    place = tmp_path / "all.npz"
    dataset = adopted(place, x="images", y="label", group="group", weight="weight", time="day", id="name")
    assert dataset.schema.classes == ("ant", "bee", "cat")
    table = fs.open(dataset).rows(4)
    assert table["name"].tolist() == ["row 0", "row 1", "row 2", "row 3"]
    assert table["group"].tolist() == [10, 11, 12, 10]
    assert table["weight"].tolist() == [0.0, 0.5, 1.0, 0.0]
    assert table["day"].astype(str).tolist()[1] == "2024-01-02"


def test_labels_may_be_numbers_several_columns_or_in_another_file(tmp_path: Path) -> None:
    targets = RNG.normal(size=(ROWS, 2)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=X)
    np.savez(tmp_path / "other.npz", a=targets, b=Y)
    dataset = adopted(tmp_path / "x.npz", y=f"{tmp_path / 'other.npz'}:a")
    assert (dataset.schema.task, dataset.schema.labels) == ("regression", ("a_0", "a_1"))
    assert rows_of(dataset)["y"].tobytes() == targets.astype(np.float64).tobytes()
    with pytest.raises(UsageError, match=r"has several arrays; name one as .*other.npz:a"):
        fs.adopt(tmp_path / "x.npz", tmp_path / "out.zarr", y=tmp_path / "other.npz")


def test_a_sample_may_have_another_shape(tmp_path: Path) -> None:
    place, options = npy(tmp_path, FLAT)
    dataset = adopted(place, shape=(2, 3, 4), **options)
    assert dataset.schema.sample_shape == (2, 3, 4)
    assert rows_of(dataset)["x"].tobytes() == FLAT.tobytes()
    with pytest.raises(UsageError, match="choose a shape with as many"):
        fs.adopt(place, tmp_path / "out.zarr", shape=(5, 5))


@pytest.mark.parametrize("version", [2, 3])
def test_packed_variables_have_the_values_that_xarray_shows(version: Literal[2, 3], tmp_path: Path) -> None:
    stored = RNG.integers(-99, 99, (4, ROWS, 6)).astype(np.int16)
    values = xr.DataArray(np.where(stored == 7, np.nan, stored * 0.25 + 3), dims=("level", "time", "lat"))
    encoding: dict[str, Any] = {"dtype": "int16", "scale_factor": 0.25, "add_offset": 3.0, "_FillValue": -32768}
    data = xr.Dataset({"t": values, "other": values.isel(level=0)})
    encoding["chunks"] = (2, 50, 6)
    data.to_zarr(tmp_path / "s.zarr", zarr_format=version, encoding={"t": encoding}, consolidated=False)
    dataset = adopted(tmp_path / "s.zarr", x="t", sample_dim="time")
    shown = xr.open_zarr(tmp_path / "s.zarr", consolidated=False)["t"].transpose("time", "level", "lat")
    assert dataset.schema.x_dtype == shown.dtype.name
    assert rows_of(dataset)["x"].tobytes() == np.ascontiguousarray(shown.values).tobytes()
    assert sum(dataset.statistics.missing) == int(np.isnan(shown.values).sum()) > 0
    with pytest.raises(UsageError, match="its dimensions are level, time, lat"):
        fs.adopt(tmp_path / "s.zarr", tmp_path / "out.zarr", x="t", sample_dim="day")


TIMES: dict[str, tuple[Any, dict[str, str]]] = {
    "hours": (np.arange(ROWS), {"units": "hours since 2020-01-01"}),
    "fractions of days": (np.arange(ROWS) / 8, {"units": "days since 2020-1-1 06:00:00", "calendar": "gregorian"}),
    "seconds with a zone": (np.arange(ROWS, dtype=np.int32) * 100_000, {"units": "seconds since 1970-01-01T00:00:00Z"}),
    "a gap": (np.where(np.arange(ROWS) == 3, np.nan, np.arange(ROWS)), {"units": "minutes since 2000-02-29"}),
}


@pytest.mark.parametrize("name", TIMES)
def test_times_are_those_that_xarray_shows(name: str, tmp_path: Path) -> None:
    numbers, attributes = TIMES[name]
    data = xr.Dataset({"x": (("time", "lat"), FLAT), "when": (("time",), numbers, attributes)})
    data.to_zarr(tmp_path / "s.zarr", consolidated=False)
    with h5py.File(tmp_path / "f.nc", "w") as file:
        file["x"], file["when"] = FLAT, numbers
        file["when"].attrs.update({name: np.bytes_(text) for name, text in attributes.items()})
    shown = xr.open_zarr(tmp_path / "s.zarr", consolidated=False)["when"].values
    for place in (tmp_path / "s.zarr", tmp_path / "f.nc"):
        dataset = adopted(place, x="x", keep="when")
        found = pd.to_datetime(fs.open(dataset).rows(ROWS)["when"])
        assert found.astype("datetime64[ns]").equals(pd.Series(shown, name="when").astype("datetime64[ns]"))


def test_times_of_another_calendar_stay_numbers(tmp_path: Path) -> None:
    attributes = {"units": "days since 2020-01-01", "calendar": "noleap"}
    data = xr.Dataset({"x": (("time", "lat"), FLAT), "when": (("time",), np.arange(ROWS), attributes)})
    data.to_zarr(tmp_path / "s.zarr", consolidated=False)
    assert fs.open(adopted(tmp_path / "s.zarr", x="x", keep="when")).rows(3)["when"].tolist() == [0, 1, 2]


def test_fractions_with_gaps_have_the_values_that_xarray_shows(tmp_path: Path) -> None:
    values = xr.DataArray(np.where(X > 2, np.nan, X), dims=("time", "level", "lat"))
    values.to_dataset(name="t").to_zarr(tmp_path / "s.zarr", encoding={"t": {"chunks": (90, 3, 8)}}, consolidated=False)
    rows = rows_of(adopted(tmp_path / "s.zarr", sample_dim="time"))
    assert rows["x"].tobytes() == values.values.tobytes()


def test_pickled_objects_are_never_read(tmp_path: Path) -> None:
    place, _ = zarr_of(2, chunks=(50, 3, 8))(tmp_path)
    metadata = json.loads((place / "y" / ".zarray").read_text())
    (place / "y" / ".zarray").write_text(json.dumps({**metadata, "dtype": "|O", "filters": [{"id": "pickle"}]}))
    with pytest.raises(UsageError, match="has pickled objects, which are not read"):
        fs.adopt(place, tmp_path / "out.zarr", x="deep/x", y="y", progress=False)
    np.save(tmp_path / "o.npy", np.array([{}, 1], object))
    with pytest.raises(UsageError, match="has Python objects, which are not read"):
        fs.adopt(tmp_path / "o.npy", tmp_path / "out.zarr", progress=False)


def test_a_netcdf_variable_has_the_values_that_xarray_shows(tmp_path: Path) -> None:
    stored = RNG.integers(-99, 99, (5, ROWS)).astype(np.int16)
    attributes = {"scale_factor": np.float32(0.01), "_FillValue": np.int16(7)}
    with h5py.File(tmp_path / "f.nc", "w") as file:
        variable = file.create_dataset("t", data=stored, chunks=(5, 100), compression="gzip", shuffle=True)
        variable.attrs.update(attributes)
        for axis, name in enumerate(("lat", "time")):
            file[name] = np.arange(stored.shape[axis])
            file[name].make_scale(name)
            variable.dims[axis].attach_scale(file[name])
    shown = xr.decode_cf(xr.Dataset({"t": (("lat", "time"), stored, attributes)}))["t"].transpose("time", "lat")
    dataset = adopted(tmp_path / "f.nc", x="t", sample_dim="time")
    assert dataset.schema.x_dtype == shown.dtype.name == "float32"
    assert rows_of(dataset)["x"].tobytes() == np.ascontiguousarray(shown.values).tobytes()


def test_chunks_that_were_never_written_have_the_fill_value(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "s.zarr", mode="w")
    array = group.create_array("x", shape=(ROWS, 4), chunks=(50, 4), shards=(200, 4), dtype="float32", fill_value=2.5)
    array[60:220] = 1
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_dataset("x", (ROWS, 4), "f4", chunks=(50, 4), fillvalue=2.5)[60:220] = 1
    expected = np.full((ROWS, 4), 2.5, np.float32)
    expected[60:220] = 1
    for place in (tmp_path / "s.zarr", tmp_path / "f.h5"):
        assert rows_of(adopted(place))["x"].tobytes() == expected.tobytes()


def write_h5ad(path: Path, sparse: bool) -> np.ndarray:
    """An h5ad file with a categorical observation, as AnnData writes it. Returns the matrix."""
    matrix = np.where(RNG.random((ROWS, 30)) < 0.1, RNG.integers(1, 9, (ROWS, 30)), 0).astype(np.float32)
    with h5py.File(path, "w") as file:
        file.attrs["encoding-type"] = "anndata"
        if sparse:
            rows, columns = np.nonzero(matrix)
            group = file.create_group("X")
            group.attrs.update({"encoding-type": "csr_matrix", "shape": matrix.shape})
            group.create_dataset("data", data=matrix[rows, columns], chunks=(100,), compression="gzip")
            group.create_dataset("indices", data=columns.astype("i4"), chunks=(90,), compression="gzip")
            group.create_dataset("indptr", data=np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=ROWS))]))
        else:
            file.create_dataset("X", data=matrix, chunks=(64, 30), compression="gzip")
        file["obs/kind/codes"], file["obs/kind/categories"] = Y.astype("i1"), NAMES.astype(object)
        file["obs/kind"].attrs["encoding-type"] = "categorical"
        file["obs/depth"] = matrix.sum(axis=1)
        file["var/_index"] = np.array([f"gene{number}" for number in range(30)], object)
        file["var"].attrs["_index"] = "_index"
        file["obsm/pca"] = matrix[:, :4]
        file["obs/stage/values"], file["obs/stage/mask"] = Y, np.arange(ROWS) == 5
        file["obs/stage"].attrs["encoding-type"] = "nullable-integer"
    return matrix


@pytest.mark.parametrize("sparse", [False, True])
def test_cells_of_an_h5ad_file_are_samples(sparse: bool, tmp_path: Path) -> None:
    matrix = write_h5ad(tmp_path / "cells.h5ad", sparse)
    dataset = adopted(tmp_path / "cells.h5ad", y="obs/kind", keep=["obs/depth", "obs/stage"])
    assert rows_of(dataset)["x"].tobytes() == matrix.tobytes()
    assert dataset.schema.classes == ("ant", "bee", "cat")
    assert dataset.schema.features[:2] == ("gene0", "gene1")
    assert np.isnan(fs.open(dataset).rows(6)["stage"].to_numpy()).tolist() == [False] * 5 + [True]
    pca = adopted(tmp_path / "cells.h5ad", x="obsm/pca")
    assert rows_of(pca)["x"].tobytes() == np.ascontiguousarray(matrix[:, :4]).tobytes()


@pytest.mark.parametrize("version", [2, 3])
def test_cells_of_a_zarr_store_are_samples(version: Literal[2, 3], tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "cells.zarr", mode="w", zarr_format=version)
    group.create_array("X", shape=FLAT.shape, chunks=(50, 24), dtype="float32")[...] = FLAT
    group.create_array("obs/kind/codes", shape=Y.shape, chunks=Y.shape, dtype="int8")[...] = Y
    group.create_array("obs/kind/categories", shape=(3,), chunks=(3,), dtype="str")[...] = NAMES
    dataset = adopted(tmp_path / "cells.zarr", y="obs/kind")
    assert dataset.schema.classes == ("ant", "bee", "cat")
    assert rows_of(dataset)["x"].tobytes() == FLAT.tobytes()


def test_an_ome_image_is_adopted_at_full_resolution(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "image.zarr", mode="w", zarr_format=2)
    for level, step in (("0", 1), ("1", 2)):
        pixels = (X[:, :, ::step] * 99).astype(np.uint16)
        group.create_array(level, shape=pixels.shape, chunks=(50, 1, 8 // step), dtype="uint16")[...] = pixels
    group.attrs["multiscales"] = [{"axes": ["t", "c", "x"], "datasets": [{"path": "0"}, {"path": "1"}]}]
    dataset = adopted(tmp_path / "image.zarr")
    assert dataset.schema.sample_shape == (3, 8)
    assert rows_of(dataset)["x"].tobytes() == (X * 99).astype(np.uint16).tobytes()


def test_columns_are_chosen_by_pattern_and_gaps_become_nan(tmp_path: Path) -> None:
    gaps = pa.array([None if number % 7 == 0 else number for number in range(ROWS)], pa.int32())
    table = pa.table({"a1": FLAT[:, 0], "a2": FLAT[:, 1], "b": gaps, "name": NAMES[Y], "y": Y})
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=100)
    assert adopted(tmp_path / "t.parquet", x="a*", y="y").schema.features == ("a1", "a2")
    dataset = adopted(tmp_path / "t.parquet", y="y", keep="name")
    assert dataset.schema.features == ("a1", "a2", "b")
    assert dataset.statistics.missing == (0, 0, 100)


def test_a_lance_dataset_is_read_in_the_version_that_was_adopted(tmp_path: Path) -> None:
    place, options = lance_of("fixed lists")(tmp_path)
    dataset = fs.adopt(place, tmp_path / "first.zarr", progress=False, **options)
    lance.dataset(place).delete("y = 'ant'")
    lance.write_dataset(table_of("fixed lists"), place, mode="append")
    assert rows_of(dataset)["x"].tobytes() == X.tobytes()
    assert find_damage(dataset, SerialExecutor()) == []
    assert len(adopted(place, **options)) == ROWS + int((Y != 0).sum())
    lance.dataset(place).optimize.compact_files()
    lance.dataset(place).cleanup_old_versions(timedelta(0), delete_unverified=True)
    with pytest.raises(DamagedError, match=r"\.lance: the file is missing; restore it, or adopt what is there now"):
        rows_of(open_dataset(dataset.root))


def test_without_lance_an_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, options = lance_of("fixed lists")(tmp_path)
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(UsageError, match=r"pip install foldstream\[lance\]"):
        fs.adopt(place, tmp_path / "out.zarr", progress=False, **options)


def write_arrow(path: Path, table: pa.Table, compression: str | None = None) -> None:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema, options=options) as to:
        to.write_table(table, max_chunksize=20)


FAULTY_LISTS: dict[str, tuple[pa.DataType, dict[int, Any], str]] = {
    "an empty list first": (pa.list_(pa.float32()), {0: []}, "row 0 has a missing or empty list"),
    "a missing list first": (pa.list_(pa.float32()), {0: None}, "row 0 has a missing or empty list"),
    "a missing list": (pa.list_(pa.float32()), {33: None}, "row 33 has a missing list"),
    "a short list": (pa.list_(pa.float32()), {33: [1]}, "row 33 has a list of length 1, but others of 2"),
    "as many values in total": (pa.list_(pa.float32()), {33: [1], 34: [1, 2, 3]}, "row 33 has a list of length 1"),
    "a missing integer": (pa.list_(pa.int32()), {33: [1, None]}, "row 33 has a missing value"),
}
PAIRS = pa.list_(pa.list_(pa.float32()))
FAULTY_PAIRS: dict[str, tuple[dict[int, Any], str]] = {
    "inner lengths first": ({0: [[1], [1, 2]]}, "row 0 has lists of 2 lengths"),
    "inner lengths": ({33: [[1, 2, 3], [1]]}, "row 33 has a list of length 3, but others of 2"),
    "an inner list missing first": ({0: [None, [1, 2]]}, "row 0 has a missing or empty list"),
    "an inner list missing": ({33: [[1, 2], None]}, "row 33 has a missing list"),
}
FAULTY_LISTS |= {name: (PAIRS, rows, message) for name, (rows, message) in FAULTY_PAIRS.items()}


@pytest.mark.parametrize("name", FAULTY_LISTS)
def test_lists_of_several_shapes_are_refused_by_row_before_anything_is_written(name: str, tmp_path: Path) -> None:
    kind, faulty, message = FAULTY_LISTS[name]
    sample = [[1, 2], [3, 4]] if kind == PAIRS else [1, 2]
    table = pa.table({"x": pa.array([faulty.get(number, sample) for number in range(50)], kind), "y": Y[:50]})
    parquet.write_table(table, tmp_path / "t.parquet", row_group_size=20)
    write_arrow(tmp_path / "plain.arrow", table)
    write_arrow(tmp_path / "compressed.arrow", table, "lz4")
    for file in ("t.parquet", "plain.arrow", "compressed.arrow"):
        with pytest.raises(UsageError, match=f"{message}.*; samples need one shape"):
            fs.adopt(tmp_path / file, tmp_path / "out.zarr", y="y", progress=False)
        assert not (tmp_path / "out.zarr").exists()


def test_large_columns_of_lists_are_checked_by_the_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "DECODED_BYTES", 0)
    rows = [[[1.0, 2.0]]] * 33 + [[[1.0], [2.0], [3.0]]] + [[[1.0, 2.0]]] * 16
    parquet.write_table(pa.table({"x": rows}), tmp_path / "t.parquet", row_group_size=40)
    with pytest.raises(UsageError, match="row 33 has a list of length 3, but others of 1; samples need one shape"):
        fs.adopt(tmp_path / "t.parquet", tmp_path / "out.zarr", progress=False)
    assert not (tmp_path / "out.zarr").exists()
    balanced = [[1.0, 2.0], [1.0], [1.0, 2.0, 3.0]]
    parquet.write_table(pa.table({"x": balanced}), tmp_path / "t.parquet")
    with pytest.raises(DamagedError, match="row 1 has a list of length 1, but others of 2"):
        fs.adopt(tmp_path / "t.parquet", tmp_path / "out.zarr", progress=False)


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_tensors_have_the_shape_that_their_type_names(ending: str, tmp_path: Path) -> None:
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(X)
    table = pa.table({"x": tensors, "y": Y})
    if ending == "arrow":
        write_arrow(tmp_path / "t.arrow", table)
    else:
        parquet.write_table(table, tmp_path / "t.parquet", row_group_size=100)
    dataset = adopted(tmp_path / f"t.{ending}", y="y")
    assert dataset.schema.sample_shape == X.shape[1:]
    assert rows_of(dataset)["x"].tobytes() == X.tobytes()


def test_only_lists_with_gaps_are_read_by_arrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pa.array(
        [*FLAT[:150].tolist(), [None, *FLAT[150, 1:].tolist()], *FLAT[151:].tolist()], pa.list_(pa.float32())
    )
    parquet.write_table(pa.table({"x": rows, "y": Y}), tmp_path / "t.parquet", row_group_size=100)
    dataset, by_arrow = adopted(tmp_path / "t.parquet", y="y"), list[int]()
    values, read_group = FLAT.copy(), groups.read_group
    values[150, 0] = np.nan

    def counted(*of: Any) -> Any:
        by_arrow.append(of[2])
        return read_group(*of)

    monkeypatch.setattr(groups, "read_group", counted)
    np.testing.assert_array_equal(rows_of(dataset)["x"], values)
    assert set(by_arrow) == {1}


def test_a_footer_that_was_damaged_without_a_trace_is_named(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"x": lists(FLAT), "y": Y}), file)
    dataset = adopted(file, y="y")
    before = file.stat()
    with file.open("r+b") as opened:
        opened.seek(-200, 2)
        opened.write(bytes(100))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    footer_of.cache_clear()
    lists_of.cache_clear()
    with pytest.raises(DamagedError, match=r"t.parquet: its rows cannot be read .*; fix or restore the file"):
        rows_of(dataset)


def test_single_values_are_neither_features_nor_columns(tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", x=X, one=np.float32(1))
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["x"], file["one"], file["text"], file["empty"] = X, 1.5, "text", h5py.Empty("f4")
        file["no text"] = h5py.Empty(h5py.string_dtype())
    places = {tmp_path / "all.npz": ["one"], tmp_path / "f.h5": ["one", "text", "empty", "no text"]}
    for version in (2, 3):
        store = zarr.open_group(tmp_path / f"{version}.zarr", mode="w", zarr_format=version)
        store.create_array("x", data=X)
        store.create_array("one", data=np.array(1, np.int32))
        places[tmp_path / f"{version}.zarr"] = ["one"]
    for place, names in places.items():
        for name in names:
            with pytest.raises(UsageError, match=f"'{name}' is a single value; name an array of samples with x="):
                fs.adopt(place, tmp_path / "out.zarr", x=name, progress=False)
            with pytest.raises(UsageError, match="is a single value, but the features have 700 rows"):
                fs.adopt(place, tmp_path / "out.zarr", x="x", y=name, progress=False)
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize("unit", ["D", "h", "M", "ns"])
def test_dates_may_be_labels_and_ids(unit: Literal["D", "h", "M", "ns"], tmp_path: Path) -> None:
    times = np.datetime64("2024-01", unit) + Y
    np.savez(tmp_path / "all.npz", x=X, when=times, day=np.datetime64("2024-01-01", "D") + np.arange(ROWS))
    dataset = adopted(tmp_path / "all.npz", x="x", y="when", id="day")
    expected = {
        "D": ("2024-01-01", "2024-01-02", "2024-01-03"),
        "h": ("2024-01-01 00:00:00", "2024-01-01 01:00:00", "2024-01-01 02:00:00"),
        "M": ("2024-01-01", "2024-02-01", "2024-03-01"),
        "ns": tuple(f"2024-01-01 00:00:00.00000000{number}" for number in range(3)),
    }
    assert dataset.schema.classes == expected[unit]
    assert fs.open(dataset).rows(2)["day"].tolist() == ["2024-01-01", "2024-01-02"]


def test_columns_of_other_types_are_refused_by_name(tmp_path: Path) -> None:
    latin = np.array(["é".encode("latin-1"), b"a"] * (ROWS // 2))
    pairs = np.zeros(ROWS, [("a", "i4"), ("b", "f4")])
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["x"], file["complex"], file["pairs"], file["latin"] = X, Y + 1j, pairs, latin
        file["latin of any length"] = latin.astype(object)
        lengths = file.create_dataset("lengths", (ROWS,), h5py.vlen_dtype("i4"))
        lengths[0], lengths[1] = [1, 2], [3]
        references = file.create_dataset("references", (ROWS,), h5py.ref_dtype)
        references[0] = file["x"].ref
    parquet.write_table(
        pa.table({"f": FLAT[:, 0], "struct": pa.array([{"a": 1}] * ROWS), "bytes": latin}), tmp_path / "t.parquet"
    )
    for place, x, names in (
        (tmp_path / "f.h5", "x", ["complex", "pairs", "lengths", "references"]),
        (tmp_path / "t.parquet", "f", ["struct", "bytes"]),
    ):
        for name, option in ((name, option) for name in names for option in ("y", "keep", "id")):
            options: dict[str, Any] = {option: name}
            with pytest.raises(UsageError, match=f'{option}="{name}" has values of type .*; name another column'):
                fs.adopt(place, tmp_path / "out.zarr", x=x, progress=False, **options)
    for name in ("latin", "latin of any length"):
        with pytest.raises(SourceError, match="write the text as UTF-8"):
            fs.adopt(tmp_path / "f.h5", tmp_path / "out.zarr", x="x", y=name, progress=False)
    assert not (tmp_path / "out.zarr").exists()


def test_an_enumeration_of_hdf5_gives_the_names_of_classes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["x"] = X
        file.create_dataset("y", data=Y.astype("i1"), dtype=h5py.enum_dtype({"ant": 0, "bee": 1, "cat": 2}, "i1"))
    assert adopted(tmp_path / "f.h5", x="x", y="y").schema.classes == ("ant", "bee", "cat")


def test_columns_in_the_names_of_folders_are_labels(tmp_path: Path) -> None:
    frame = pd.DataFrame({"f1": FLAT[:90, 0], "f2": FLAT[:90, 1], "kind": NAMES[Y[:90]], "site": ["a b", "c"] * 45})
    frame.to_parquet(tmp_path / "parts", partition_cols=["kind", "site"])
    (tmp_path / "parts" / "kind=ant" / "_metadata.parquet").write_bytes(b"")
    (tmp_path / "parts" / "_SUCCESS").touch()
    dataset = adopted(tmp_path / "parts", y="kind", group="site")
    ordered = frame.sort_values(["kind", "site"], kind="stable")
    assert dataset.schema.features == ("f1", "f2")
    assert dataset.schema.classes == ("ant", "bee", "cat")
    rows = rows_of(dataset)
    assert rows["x"].tobytes() == ordered[["f1", "f2"]].to_numpy().tobytes()
    assert fs.open(dataset).rows(90)[["kind", "site"]].equals(ordered[["kind", "site"]].reset_index(drop=True))
    with pytest.raises(UsageError, match="has no column 'site'"):
        fs.adopt(tmp_path / "parts", tmp_path / "out.zarr", x="site", progress=False)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (pa.table({"a": [1.5], "b": [2]}), "'a' is double, not int64"),
        (pa.table({"a": [1]}), "it lacks 'b'"),
        (pa.table({"a": [1], "b": [2], "c": [3]}), "it also has 'c'"),
        (pa.table({"b": [1], "a": [2]}), "they have another order"),
    ],
    ids=["type", "fewer", "more", "order"],
)
def test_files_with_other_columns_say_which(other: pa.Table, message: str, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "1.parquet")
    parquet.write_table(other, tmp_path / "2.parquet")
    with pytest.raises(SourceError, match=f"2.parquet has other columns than .*1.parquet: {message}; write files"):
        fs.adopt(tmp_path, tmp_path / "out.zarr", progress=False)


def test_only_a_column_of_several_with_one_name_is_refused(tmp_path: Path) -> None:
    columns = [pa.array(FLAT[:, 0]), pa.array(FLAT[:, 1]), pa.array(FLAT[:, 2]), pa.array(Y)]
    parquet.write_table(pa.Table.from_arrays(columns, ["a", "a", "b", "y"]), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match="has 2 columns called 'a'; rename them"):
        fs.adopt(tmp_path / "t.parquet", tmp_path / "out.zarr", y="y", progress=False)
    assert adopted(tmp_path / "t.parquet", x="b", y="y").schema.features == ("b",)


def test_what_cannot_be_read_in_place_is_refused_by_name_and_copied(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_dataset("x", data=X, chunks=(50, 3, 8), compression="lzf")
    with pytest.raises(UsageError, match=r"filter 'lzf' cannot be read in place; copy them with copy=True"):
        fs.adopt(tmp_path / "f.h5", tmp_path / "out.zarr", progress=False)
    assert not (tmp_path / "out.zarr").exists()
    copy = fs.adopt(tmp_path / "f.h5", tmp_path / "out.zarr", copy=True, progress=False)
    assert rows_of(copy)["x"].tobytes() == X.tobytes()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown array": ({"x": "pictrues"}, "did you mean 'pictures'"),
    "several arrays": ({}, "several arrays; name that of the features with x: 'pictures', 'label', 'short', 'words'"),
    "labels of another length": ({"x": "pictures", "y": "short"}, 'y="short" has 5 values, but .* 700 rows'),
    "text as features": ({"x": "words"}, "not numbers to train on"),
    "several arrays as features": ({"x": ["pictures", "label"]}, "name a single one"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_impossible_requests_are_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", pictures=X, label=Y, short=Y[:5], words=NAMES[Y])
    options, message = REFUSED[name]
    with pytest.raises(UsageError, match=message):
        fs.adopt(tmp_path / "all.npz", tmp_path / "out.zarr", progress=False, **options)
    assert not (tmp_path / "out.zarr").exists()


def test_places_without_arrays_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("no arrays")
    (tmp_path / "old.nc").write_bytes(b"CDF\x01" + bytes(60))
    (tmp_path / "table.lance" / "_versions").mkdir(parents=True)
    (tmp_path / "table.lance" / "_versions" / "1.manifest").write_bytes(b"damaged")
    for name, message in (
        ("text.txt", "not in a format"),
        ("old.nc", "NetCDF4"),
        ("table.lance", "Lance cannot open it"),
        ("no", "does not exist"),
    ):
        with pytest.raises(SourceError, match=message):
            fs.adopt(tmp_path / name, tmp_path / "out.zarr", progress=False)


def test_the_same_command_is_done_and_another_one_says_what_differs(tmp_path: Path) -> None:
    place, options = npz(tmp_path)
    first = fs.adopt(place, tmp_path / "out.zarr", progress=False, **options)
    assert fs.adopt(place, tmp_path / "out.zarr", progress=False, **options).identity == first.identity
    with pytest.raises(ConflictError, match="overwrite=True"):
        fs.adopt(place, tmp_path / "out.zarr", progress=False)
    np.savez(place, x=X * 2, y=Y)
    with pytest.raises(ConflictError, match="files of the features have changed"):
        fs.adopt(place, tmp_path / "out.zarr", progress=False, **options)


def test_neither_the_label_nor_the_index_of_a_frame_becomes_a_feature(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(draw.normal(size=(300, 3)), columns=["f1", "f2", "f3"])
    frame["fraud"] = draw.integers(0, 2, 300)
    frame.sort_values("fraud").to_parquet(tmp_path / "sorted.parquet")
    dataset = fs.adopt(tmp_path / "sorted.parquet", tmp_path / "sorted.zarr", y="fraud")
    assert dataset.schema.features == ("f1", "f2", "f3")
    numbered = frame.set_index(pd.Index(frame["fraud"] * 1000, name="number"))
    parquet.write_table(pa.Table.from_pandas(numbered), tmp_path / "named.parquet")
    dataset = fs.adopt(tmp_path / "named.parquet", tmp_path / "named.zarr", y="fraud")
    assert dataset.schema.features == ("f1", "f2", "f3")
    dataset = fs.adopt(tmp_path / "sorted.parquet", tmp_path / "pattern.zarr", x="f*", y="fraud", group="f3")
    assert dataset.schema.features == ("f1", "f2")
    with pytest.raises(UsageError, match=r"this is the label \(y=\), from which a model would read the answer off"):
        fs.adopt(tmp_path / "sorted.parquet", tmp_path / "leak.zarr", x=["f1", "fraud"], y="fraud")
    with pytest.raises(UsageError, match="selects only 'fraud', named by other options"):
        fs.adopt(tmp_path / "sorted.parquet", tmp_path / "leak.zarr", x="fr*", y="fraud")
    assert not (tmp_path / "leak.zarr").exists()
