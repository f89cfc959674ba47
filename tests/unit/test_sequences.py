"""Token ids from lists, texts and the user's tokenizer, stored padded, and streamed without most of the padding."""

import json
from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pyarrow as pa
import pytest
import torch
import zarr
from foldstream.cluster.api.job_file import load_job_file
from foldstream.cluster.listener import Listener
from foldstream.cluster.submit.submission import pack_job
from foldstream.pipeline.sequences.ids import lists_as_text, lists_of, parse_ids
from foldstream.storage.dataset import Dataset, open_dataset
from foldstream.storage.errors import ConflictError, RowError, UsageError
from foldstream.storage.format.sequences import LENGTH, TOKENIZER
from foldstream.training.stream.sequences.padding import widths_of
from pyarrow import parquet

ROWS = [[3, 1, 4], [1], [], [5, 9, 2, 6, 5], [0, 7, 0, 0]]
STORED = [[3, 1, 4], [1], [], [5, 9, 2, 6, 5], [0, 7]]

TOKENIZER_CODE = '''
from pathlib import Path

WORDS = (Path(__file__).parent / "words.txt").read_text().split()


def tokenize(texts):
    """1 for a word that is not in the list."""
    return [[WORDS.index(word) + 2 if word in WORDS else 1 for word in text.lower().split()] for text in texts]
'''


def stored(dataset: Dataset) -> list[list[int]]:
    """The ids of each row. What follows them is padding."""
    group = zarr.open_group(dataset.place.zarr_store(), mode="r")
    x, lengths = np.asarray(group["x"]), np.asarray(group[LENGTH])
    assert not any(row[length:].any() for row, length in zip(x, lengths, strict=True))
    return [row[:length].tolist() for row, length in zip(x, lengths, strict=True)]


def write(folder: Path, kind: str, column: list[Any]) -> Path:
    """A table of a column `tokens` and a label."""
    labels = [f"c{row % 2}" for row in range(len(column))]
    path = folder / f"data.{kind}"
    if kind == "parquet":
        parquet.write_table(pa.table({"tokens": column, "label": labels}), path)
    elif kind == "jsonl":
        lines = (json.dumps({"tokens": ids, "label": label}) for ids, label in zip(column, labels, strict=True))
        path.write_text("\n".join(lines) + "\n")
    else:
        lines = (f'"{ids}",{label}' for ids, label in zip(column, labels, strict=True))
        path.write_text("tokens,label\n" + "\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_lists_of_ids_are_stored_with_their_lengths(kind: str, tmp_path: Path) -> None:
    dataset = fs.convert_csv(write(tmp_path, kind, ROWS), tmp_path / "t.zarr", tokens="tokens", label="label")
    assert stored(dataset) == STORED
    assert (dataset.schema.x_dtype, dataset.schema.sample_shape) == ("uint8", (5,))
    assert dataset.schema.tokens is not None
    assert dataset.schema.tokens.vocabulary == 10
    assert (dataset.statistics.minimum, dataset.statistics.maximum) == ((0.0,), (5.0,))  # of the lengths


def test_long_sequences_are_truncated_and_counted(tmp_path: Path) -> None:
    said = dict[str, str]()

    def heard(stage: str, done: int, total: int, remark: str = "") -> None:
        said[stage] = remark

    source, listener = write(tmp_path, "parquet", [*ROWS, [70_000]]), fs.Listener(heard)
    options: Any = {"tokens": "tokens", "label": "label", "length": 2}
    dataset = fs.convert_csv(source, tmp_path / "t.zarr", **options, listener=listener)
    assert stored(dataset) == [[3, 1], [1], [], [5, 9], [0, 7], [70_000]]
    assert dataset.schema.x_dtype == "uint32"
    assert dataset.schema.tokens is not None
    assert dataset.schema.tokens.truncated == 2
    assert said["tokens"].startswith("sequences of up to 2 token ids, 2 longer ones are truncated")


def test_rows_without_token_ids_are_invalid_and_can_be_skipped(tmp_path: Path) -> None:
    source = write(tmp_path, "csv", ["1 2", "one two", "3", "-4", "5", "6"])
    with pytest.raises(RowError, match=r"'one two' is not a list of token ids.*tokenizer=") as caught:
        fs.convert_csv(source, tmp_path / "t.zarr", tokens="tokens", label="label")
    assert (caught.value.line, caught.value.column) == (3, "tokens")
    dataset = fs.convert_csv(source, tmp_path / "t.zarr", tokens="tokens", label="label", on_error="skip")
    assert stored(dataset) == [[1, 2], [3], [5], [6]]
    assert '5,tokens,"the token id -4 is not between 0' in (tmp_path / "t.zarr/left_out.csv").read_text()


def test_labels_keys_and_roles_stand_beside_sequences(tmp_path: Path) -> None:
    rows = ["r1,1 2,$7.50,a,0.5,north", "r2,3,$1200,b,1,south", "r3,4,$2,a,2,north"]
    (tmp_path / "data.csv").write_text("\n".join(["id,tokens,price,who,weight,region", *rows]) + "\n")
    options: Any = {"label": "price", "number": "price", "id": "id", "group": "who", "weight": "weight"}
    dataset = fs.convert_csv(tmp_path / "data.csv", tmp_path / "t.zarr", tokens="tokens", keep="region", **options)
    assert stored(dataset) == [[1, 2], [3], [4]]
    table = dataset.rows()
    assert table["price"].tolist() == [7.5, 1200, 2]
    assert table["id"].tolist() == ["r1", "r2", "r3"]
    assert table["region"].tolist() == ["north", "south", "north"]
    assert table["tokens"].tolist() == [[1, 2], [3], [4]]
    roles = {column.name: column.role for column in dataset.columns()}
    assert (roles["tokens"], roles["who"], roles["weight"], roles["region"]) == ("feature", "group", "weight", "keep")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": "tokens", "shape": (2, 2)}, "remove"),
        ({"tokens": "label", "label": "label"}, "is also a label"),
        ({"tokens": "toknes"}, "has no column 'toknes'; did you mean 'tokens'"),
        ({"tokens": "tokens", "category": "label"}, "cannot be a feature beside sequences"),
        ({"length": 4}, "name their column"),
        ({"tokens": "tokens", "asset": "words.txt"}, "no tokenizer reads it"),
        ({"tokens": "tokens", "tokenizer": "nowhere.py:tokenize"}, "nowhere"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        fs.convert_csv(write(tmp_path, "parquet", ROWS), tmp_path / "t.zarr", **options)


@pytest.mark.parametrize("value", [[1.5, 2.5], [1.0, 2.0], ["a", "b"], [[1], [2]]])
def test_lists_of_anything_but_whole_numbers_are_refused(value: list[Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'tokens="tokens": in .*, the column has the type .*store them as integers'):
        fs.convert_csv(write(tmp_path, "parquet", [value] * 6), tmp_path / "t.zarr", tokens="tokens", label="label")


@pytest.mark.parametrize("large", [2**32 - 1, 2**40, -7])
def test_hashes_and_negative_numbers_as_ids_are_refused_with_a_remedy(large: int, tmp_path: Path) -> None:
    source, told = write(tmp_path, "parquet", [[1, large], [2, 3], [4], [5], [6], [7]]), dict[str, str]()
    listener = Listener(progress=lambda stage, done, total, remark="": told.update({stage: remark}))
    if 0 < large < 2**32:
        dataset = fs.convert_csv(source, tmp_path / "t.zarr", tokens="tokens", label="label", listener=listener)
        assert "if the ids are hashes, take them modulo e.g. 100,000" in told["tokens"]
        with pytest.raises(UsageError, match=r"token ids go up to 4,294,967,295, .* take them modulo e.g. 100,000"):
            fs.train(dataset, tmp_path / "run", folds=2, epochs=1)
        assert not (tmp_path / "run").exists()
        return
    with pytest.raises(RowError, match=r"number the ids from 1, or take hashes modulo e.g. 100,000; or skip such rows"):
        fs.convert_csv(source, tmp_path / "t.zarr", tokens="tokens", label="label")


def test_a_sequence_that_would_make_all_rows_long_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path, "parquet", [[1], [1] * 5000])
    with pytest.raises(UsageError, match=r"5,000 ids.*length="):
        fs.convert_csv(source, tmp_path / "t.zarr", tokens="tokens", label="label")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Texts, and a tokenizer with its list of words."""
    (tmp_path / "tok.py").write_text(TOKENIZER_CODE)
    (tmp_path / "words.txt").write_text("good bad film")
    lines = ["a good film,yes", "bad,no", "a BAD film,no", ",no"]
    (tmp_path / "texts.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    return tmp_path


def convert_texts(folder: Path, **options: Any) -> Dataset:
    return fs.convert_csv(
        folder / "texts.csv",
        folder / "t.zarr",
        tokens="text",
        tokenizer=f"{folder}/tok.py:tokenize",
        asset=folder / "words.txt",
        **options,
    )


def test_a_tokenizer_makes_ids_of_texts_and_stays_with_the_dataset(texts: Path) -> None:
    dataset = convert_texts(texts, label="label")
    assert stored(dataset) == [[1, 2, 4], [3], [1, 3, 4], []]
    assert sorted((texts / "t.zarr" / TOKENIZER).iterdir()) == [
        texts / "t.zarr" / TOKENIZER / name for name in ("tok.py", "words.txt")
    ]
    (texts / "words.txt").write_text("other words")
    (texts / "new.csv").write_text("text\nA film\nnew\n")
    new = fs.convert_csv(texts / "new.csv", texts / "new.zarr", like=texts / "t.zarr")
    assert stored(new) == [[1, 4], [1]]
    assert new.schema.tokens == dataset.schema.tokens
    with pytest.raises(ConflictError, match="the files of the tokenizer have changed"):
        convert_texts(texts, label="label")


def test_a_damaged_shard_is_tokenized_again(texts: Path) -> None:
    dataset = convert_texts(texts, label="label")
    (texts / "tok.py").unlink()
    shard = next(path for path in (texts / "t.zarr/x").rglob("*") if path.is_file() and path.name != "zarr.json")
    before = shard.read_bytes()
    shard.write_bytes(before[:-1] + b"?")
    assert len(fs.verify(dataset, repair=True)) == 1
    assert shard.read_bytes() == before


def test_a_job_takes_its_tokenizer_along(texts: Path, tmp_path: Path) -> None:
    lines = ["sources = 'texts.csv'", "out = 't.zarr'", "tokens = 'text'", "label = 'label'"]
    lines += ["tokenizer = 'tok.py:tokenize'", "asset = 'words.txt'", "overwrite = true"]
    (texts / "job.toml").write_text("\n".join(["[convert.csv]", *lines]) + "\n")
    (tmp_path / "sent").mkdir()
    pack_job(load_job_file(texts / "job.toml"), tmp_path / "sent")
    assert {path.name for path in (tmp_path / "sent").iterdir()} == {"job.toml", "tok.py", "words.txt"}
    (texts / "tok.py").rename(texts / "elsewhere.py")
    fs.run_job(tmp_path / "sent" / "job.toml")
    assert stored(open_dataset(texts / "t.zarr")) == [[1, 2, 4], [3], [1, 3, 4], []]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [[1.5] for text in texts]", "dtype float64"),
        ("return [[1]]", "it returned 1 lists of token ids for 4 texts"),
        ("return texts[0].nowhere", "tok.py, line 2: AttributeError"),
    ],
)
def test_a_tokenizer_that_fails_is_named(body: str, message: str, texts: Path) -> None:
    (texts / "tok.py").write_text(f"def tokenize(texts):\n    {body}\n")
    with pytest.raises(UsageError, match=message):
        convert_texts(texts, label="label")


def test_ids_beyond_the_vocabulary_are_wrong_or_padding(tmp_path: Path) -> None:
    fs.convert_csv(write(tmp_path, "parquet", ROWS), tmp_path / "t.zarr", tokens="tokens", label="label")
    (tmp_path / "new.csv").write_text("tokens\n1 9\n10 3\n")
    with pytest.raises(RowError, match="the token id 10 does not occur in the training data, whose largest is 9"):
        fs.convert_csv(tmp_path / "new.csv", tmp_path / "new.zarr", like=tmp_path / "t.zarr")
    new = fs.convert_csv(tmp_path / "new.csv", tmp_path / "new.zarr", like=tmp_path / "t.zarr", unknown="code")
    assert stored(new) == [[1, 9], [0, 3]]


@pytest.mark.parametrize("shuffle", [None, 1])
def test_shuffled_or_not_a_conversion_stores_the_same_sequences(shuffle: int | None, tmp_path: Path) -> None:
    rows = [list(range(1, row % 30 + 2)) for row in range(500)]
    source = write(tmp_path, "parquet", rows)
    dataset = fs.convert_csv(source, tmp_path / "t.zarr", tokens="tokens", label="label", shuffle=shuffle)
    ids = np.asarray(zarr.open_group(dataset.place.zarr_store(), mode="r")["id"])
    assert [rows[place] for place in ids] == stored(dataset)
    assert (shuffle is None) == (ids.tolist() == list(range(500)))


def log_normal(folder: Path, rows: int, sigma: float = 0.5) -> Dataset:
    """Sequences of log-normal lengths around 40."""
    generator = np.random.default_rng(0)
    lengths = np.clip(np.round(generator.lognormal(np.log(40), sigma, rows)), 1, 500).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(generator.integers(1, 1000, offsets[-1])))
    parquet.write_table(pa.table({"tokens": ids, "label": lengths % 2}), folder / "data.parquet")
    return fs.convert_csv(folder / "data.parquet", folder / "t.zarr", tokens="tokens", label="label")


def test_less_than_five_percent_of_batches_is_padding(tmp_path: Path) -> None:
    dataset = log_normal(tmp_path, 30_000)
    assert open_dataset(tmp_path / "t.zarr").identity == dataset.identity
    for epoch in (0, 1):
        elements = used = 0
        seen = list[int]()
        for x, _, id in fs.stream(dataset, batch_size=128, fold=0, epoch=epoch):
            lengths = (x.to(torch.int64) != 0).sum(dim=1)
            assert x.shape[1] == lengths.max()
            elements, used = elements + x.numel(), used + int(lengths.sum())
            seen += id.tolist()
        assert 1 - used / elements < 0.05
        assert len({*seen}) == len(seen) == 24_000
    whole = int(dataset.statistics.maximum[0])
    assert 1 - used / (len(seen) * whole) > 0.8  # as stored


def test_a_stream_resumes_in_the_midst_of_an_epoch_and_ranks_share_its_batches(tmp_path: Path) -> None:
    dataset = log_normal(tmp_path, 3000)
    batches = [(x.clone(), id.clone()) for x, _, id in fs.stream(dataset, batch_size=64, seed=4)]
    stream = fs.stream(dataset, batch_size=64, seed=4)
    stream.load_state_dict({**stream.state_dict(), "step": 17})
    rest = [(x.clone(), id.clone()) for x, _, id in stream]
    assert len(rest) == len(batches) - 17
    for one, other in zip(rest, batches[17:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    ranks = [fs.stream(dataset, batch_size=64, seed=4, rank=rank, world_size=2) for rank in range(2)]
    for (x, ids), *parts in zip(batches, *ranks, strict=True):
        assert [sorted(ids[rank::2].tolist()) for rank in range(2)] == [sorted(part.id.tolist()) for part in parts]
        assert max(part.x.shape[1] for part in parts) == x.shape[1]


def test_widths_are_those_of_the_longest_rows() -> None:
    x = torch.tensor([[1, 0, 0], [5, 0, 7], [0, 0, 0]]).to(torch.uint16)
    assert widths_of([x[:1], x[:2], x[2:], x[:0]]) == [1, 3, 1, 1]
    assert widths_of([]) == []


def test_lists_as_texts_and_back() -> None:
    lists = pa.array([[3, 1, 4], [], None, [2**31]])
    assert lists_as_text(lists).to_pylist() == ["3 1 4", "", None, "2147483648"]
    back = parse_ids(lists_as_text(lists))
    assert (back.ids.tolist(), back.lengths.tolist()) == ([3, 1, 4, 2**31], [3, 0, 0, 1])
    same = lists_of([[3, 1, 4], (), [], np.array([2**31])])
    assert (same.ids.tolist(), same.lengths.tolist()) == (back.ids.tolist(), back.lengths.tolist())
