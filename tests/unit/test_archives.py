"""Tables in archives: the rows of the unpacked files, and clear errors for archives that cannot be read."""

import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import foldstream as fs
import numpy as np
import pandas as pd
import pytest
from foldstream.pipeline import sample as sampling
from foldstream.pipeline.csv.options import CsvOptions
from foldstream.pipeline.sample import sample_texts
from foldstream.pipeline.tables.convert import convert
from foldstream.pipeline.tables.sources import find_sources
from foldstream.pipeline.tables.spec.request import ConvertRequest
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import RowError, SourceError, UsageError
from foldstream.storage.tasks import SerialExecutor

from ..conftest import contents, table
from .test_csv import read_all
from .test_sources import COMPRESS

Files = dict[str, bytes]
Write = Callable[[Path, Files], None]


def write_zip(path: Path, files: Files) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def write_tar(path: Path, files: Files) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    compress = COMPRESS.get(path.suffix.replace(".tgz", ".gz"), bytes)
    path.write_bytes(compress(data.getvalue()))


ARCHIVES: dict[str, Write] = {
    ".zip": write_zip,
    ".csv.zip": write_zip,
    ".tar": write_tar,
    ".tar.gz": write_tar,
    ".tgz": write_tar,
    ".tar.bz2": write_tar,
    ".tar.xz": write_tar,
    ".tar.zst": write_tar,
}


def convert_one(path: Path, out: Path, **options: object) -> Dataset:
    request = ConvertRequest(find_sources([str(path)]), labels=("label",), **options)  # type: ignore[arg-type]
    return convert(request, out, SerialExecutor())


@pytest.mark.parametrize("suffix", ARCHIVES)
def test_an_archive_gives_what_its_unpacked_files_do(suffix: str, tmp_path: Path) -> None:
    header, _, rows = table(300).encode().partition(b"\n")
    lines = rows.splitlines(keepends=True)
    parts = {"b/2.csv": b"".join([header, b"\n", *lines[200:]]), "a.csv": b"".join([header, b"\n", *lines[:200]])}
    junk = {"__MACOSX/._a.csv": b"\0\1", ".DS_Store": b"\0", "read.me": b"text", "b/.hidden.csv": b"x\ny\n"}
    ARCHIVES[suffix](tmp_path / f"t{suffix}", {**junk, **parts})
    (tmp_path / "plain.csv").write_bytes(header + b"\n" + rows)
    archive = convert_one(tmp_path / f"t{suffix}", tmp_path / "out")
    assert contents(archive) == contents(convert_one(tmp_path / "plain.csv", tmp_path / "plain"))
    assert not (archive.root / ".work").exists()


def test_members_may_be_compressed_parquet_or_of_any_name(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.5, 2.5], "label": ["u", "v"]})
    frame.to_parquet(tmp_path / "a.parquet", index=False)
    text = frame.to_csv(index=False).encode()
    parts = {"x.parquet": (tmp_path / "a.parquet").read_bytes(), "y.csv.gz": COMPRESS[".gz"](text), "z.csv": text}
    write_zip(tmp_path / "t.zip", parts)
    assert read_all(convert_one(tmp_path / "t.zip", tmp_path / "out"))["x"].ravel().tolist() == [1.5, 2.5] * 3
    for name, write in {"one.csv.zip": write_zip, "one.tgz": write_tar}.items():
        write(tmp_path / name, {"data": text})
        assert len(convert_one(tmp_path / name, tmp_path / f"{name}.zarr")) == 2


def test_folders_in_an_archive_give_columns(tmp_path: Path) -> None:
    write_tar(tmp_path / "t.tar", {f"all=1/day={day}/p.csv": b"a,label\n1,x\n2,y\n" for day in ("mon", "tue")})
    dataset = convert_one(tmp_path / "t.tar", tmp_path / "out")
    assert dataset.schema.features == ("a", "day")
    assert read_all(dataset)["x"][:, 1].tolist() == [0, 0, 1, 1]


def test_faults_are_named_by_the_file_in_the_archive(tmp_path: Path) -> None:
    write_zip(tmp_path / "t.zip", {"a.csv": b"a,label\n1,x\n2,y\n", "b.csv": b"a,label\n1,x\nz,y\n"})
    with pytest.raises(RowError, match=r"t\.zip/b\.csv, line 3, column 'a': 'z' is not a number"):
        convert_one(tmp_path / "t.zip", tmp_path / "out")
    write_zip(tmp_path / "t.zip", {"a.csv": b"a,label\n1,x\n", "b.csv": b"b,label\n1,x\n"})
    with pytest.raises(UsageError, match=r"t\.zip/b\.csv does not have the expected columns: missing: 'a'"):
        convert_one(tmp_path / "t.zip", tmp_path / "out")


def encrypt(data: bytes) -> bytes:
    """The flag of an encrypted file in both headers of a zip archive with one file."""
    at = data.index(b"PK\x01\x02") + 8
    return data[:6] + bytes([data[6] | 1]) + data[7:at] + bytes([data[at] | 1]) + data[at + 1 :]


def without_tail(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    return data[:3_000] + bytes([data[3_000] ^ 1]) + data[3_001:]


@pytest.mark.parametrize(
    ("suffix", "damage", "message"),
    [
        (".zip", encrypt, r"t\.csv is encrypted; unpack the archive"),
        (".zip", without_tail, "is not a complete archive"),
        (".zip", flipped, "is not a complete archive"),
        (".zip", lambda _: b"no archive at all", r"is not a complete archive \(File is not a zip file"),
        (".tar", without_tail, "is not a complete archive"),
        (".tar", lambda data: data[:-10_240] if len(data) > 10_240 else b"x", "is not a complete archive"),
        (".tar.gz", without_tail, "is not a complete archive"),
        (".tar.xz", without_tail, "is not a complete archive"),
        (".tar.gz", lambda _: b"no archive at all", "is not a complete archive"),
    ],
)
def test_a_damaged_archive_is_an_error(
    suffix: str, damage: Callable[[bytes], bytes], message: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    ARCHIVES[suffix](path, {"t.csv": table(5000).encode()})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SourceError, match=message):
        convert_one(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def as_feather(frame: pd.DataFrame) -> bytes:
    frame.to_feather(out := io.BytesIO(), compression="uncompressed")
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("t.csv", lambda frame: frame.to_csv(index=False).encode()),
        ("t.csv.gz", lambda frame: gzip.compress(frame.to_csv(index=False).encode())),
        ("t.csv.xz", lambda frame: lzma.compress(frame.to_csv(index=False).encode()) + b"more".ljust(100_000)),
        ("t.parquet", lambda frame: frame.to_parquet(index=False, compression=None)),
        ("t.feather", as_feather),
        ("t.jsonl", lambda frame: frame.to_json(orient="records", lines=True).encode()),
    ],
)
def test_a_damaged_member_of_a_zip_archive_is_an_error(
    name: str, pack: Callable[[pd.DataFrame], bytes], tmp_path: Path
) -> None:
    data = pack(pd.DataFrame({"a": np.arange(4321, 4421), "label": ["x", "y"] * 50}))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(name, data)
    assert len(convert_one(tmp_path / "a.zip", tmp_path / "sound")) == 100
    packed = (tmp_path / "a.zip").read_bytes()
    places = [packed.find(b"4401"), packed.find(np.int64(4401).tobytes()), packed.index(data) + len(data) - 1]
    at = next(place for place in places if place >= 0)
    (tmp_path / "a.zip").write_bytes(packed[:at] + bytes([packed[at] ^ 1]) + packed[at + 1 :])
    with pytest.raises(SourceError, match=rf"a\.zip is not a complete archive \(Bad CRC-32 for file '{name}'\)"):
        convert_one(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_links_in_an_archive_stand_for_what_they_lead_to(
    suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = b"a,label\n1,x\n2,y\n"
    links = {"0.csv": "day/b.csv", "day/hard.csv": "day/b.csv", "day/c.csv": "../.store/c", "linked": ".store/in",
             "read.me": "day/b.csv", "out.csv": "../day/b.csv", "round.csv": "round.csv", "day/up": "."}  # fmt: skip
    files = {"day/b.csv": text, ".store/c": text.replace(b"1", b"3"), ".store/in/d.csv": text.replace(b"1", b"4")}
    packed = tmp_path / f"t{suffix}"

    def write(links: dict[str, str]) -> None:
        with tarfile.open(packed, "w:gz" if suffix == ".tar.gz" else "w") as archive:
            for name, target in links.items():
                member = tarfile.TarInfo(f"./{name}")
                member.type = tarfile.LNKTYPE if "hard" in name else tarfile.SYMTYPE
                member.linkname = f"./{target}" if "hard" in name else target
                archive.addfile(member)
            for name, data in files.items():
                (member := tarfile.TarInfo(f"./{name}")).size = len(data)
                archive.addfile(member, io.BytesIO(data))

    write(links)
    with caplog.at_level("WARNING", "foldstream.pipeline.csv"):
        dataset = convert_one(packed, tmp_path / "out")
    # in the order of 0.csv, day/b.csv, day/c.csv, day/hard.csv, linked/d.csv
    assert read_all(dataset)["x"].ravel().tolist() == [1, 2, 1, 2, 3, 2, 1, 2, 4, 2]
    assert [message.partition(": ")[0] for message in caplog.messages] == [f"{packed}/out.csv", f"{packed}/round.csv"]
    write({"again": "day"})
    with pytest.raises(SourceError, match="again is a link to a folder whose files are part of the archive twice"):
        convert_one(packed, tmp_path / "again")


def test_an_archive_without_tables_is_refused(tmp_path: Path) -> None:
    for files in ({}, {"a.png": b"1", "b.png": b"2"}):
        write_zip(tmp_path / "t.zip", files)
        with pytest.raises(SourceError, match=r"t\.zip contains no tables \(\*\.csv"):
            convert_one(tmp_path / "t.zip", tmp_path / "out")


def test_a_folder_takes_zipped_tables_but_no_other_archives(tmp_path: Path) -> None:
    for name in ("a.csv.zip", "b.zip", "c.tar.gz"):
        (tmp_path / name).write_bytes(b"x")
    assert [Path(source.path).name for source in find_sources([str(tmp_path)])] == ["a.csv.zip"]


def test_an_archive_is_sampled_and_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zip(tmp_path / "t.zip", {"t.csv": table(3000).encode()})
    dataset = convert_one(tmp_path / "t.zip", tmp_path / "out")
    shard = next((dataset.root / "y" / "c").iterdir())
    shard.write_bytes(b"damaged")
    assert fs.verify(dataset.root, repair=True)
    for most in (100, 1 << 20):
        monkeypatch.setattr(sampling, "PACKED_BYTES", most)
        (copies := tmp_path / str(most)).mkdir()
        sample = sample_texts(find_sources([str(tmp_path / "t.zip")]), CsvOptions(), copies)
        assert 0 < sample.bytes <= (sample.total or 0)
        assert len(convert_one(Path(sample.places[0]), tmp_path / f"{most}.zarr")) > 1_000
