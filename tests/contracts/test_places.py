"""What every kind of `Place` promises, on a local disk and in a bucket of a real S3 server."""

import fcntl
import glob
import os
import pickle
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zarr
from foldstream.pipeline.tables.sources import find_sources
from foldstream.storage.errors import ConflictError, DamagedError, UsageError
from foldstream.storage.places.json_files import create_json, read_json, write_json
from foldstream.storage.places.local import LOCK
from foldstream.storage.places.locate import locate, matching
from foldstream.storage.places.locks import lock_file
from foldstream.storage.places.place import Place
from foldstream.storage.places.requests import open_store

from ..object_store import object_server

ODD_NAMES = (
    "plain",
    "with space",
    "a#b",
    "a?b",
    "a%20b",
    "100%",
    "a+b&c=d",
    "ünï — 数据",
    "folder #1?/a%2Fb",
    "'quoted' \"twice\"",
    "[x]*",
)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of a bucket; a server is started for the tests that need one."""
    with object_server():
        open_store.cache_clear()
        yield "s3://bucket"
    open_store.cache_clear()


@pytest.fixture(params=["local", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A folder without anything in it."""
    if request.param == "local":
        return locate(tmp_path)
    return locate(f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}")


def below(root: Place) -> list[str]:
    return sorted(file.name for file in root.walk())


def fail_after(file: Any) -> None:
    file.write(b"x" * (6 << 20))
    raise ZeroDivisionError


class TestAnyPlace:
    """The contract that both implementations keep."""

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_any_name_is_written_read_listed_and_removed(self, name: str, root: Place) -> None:
        place = root / name
        assert not place.exists()
        place.write(name.encode())
        assert place.exists()
        assert place.is_file()
        assert not place.is_dir()
        assert place.read_bytes() == name.encode()
        assert place.read_range(1, 3) == name.encode()[1:4]
        assert place.describe().size == len(name.encode())
        with place.open_stream() as stream:
            assert stream.read() == name.encode()
        assert root.names() == [name.partition("/")[0]]
        assert root.subfolders() == ([name.partition("/")[0]] if "/" in name else [])
        assert below(root) == [name]
        assert locate(str(place)) == place
        assert (place.name, place.parent / place.name) == (name.rpartition("/")[2], place)
        place.remove()
        assert below(root) == []
        place.remove()

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_zarr_and_sources_find_the_folder_of_any_name(self, name: str, root: Place) -> None:
        folder = root / name
        array = zarr.create_array(folder.zarr_store(), shape=(4,), chunks=(2,), dtype="int64")
        array[...] = np.arange(4)
        assert below(folder) == ["c/0", "c/1", "zarr.json"]
        assert np.asarray(zarr.open_array(folder.zarr_store(), mode="r")[...]).tolist() == [0, 1, 2, 3]
        (folder / "b.csv").write(b"1")
        (folder / "a/x.csv").write(b"1")
        assert [source.path for source in find_sources([str(folder)])] == [f"{folder}/a/x.csv", f"{folder}/b.csv"]
        assert [source.path for source in find_sources([str(folder / "b.csv")])] == [f"{folder}/b.csv"]
        (folder / "day=a%20b/c.csv").write(b"1")
        assert [source.partitions for source in find_sources([str(folder)])] == [{}, {}, {"day": "a b"}]
        folder.remove_tree()
        assert not folder.is_dir()

    def test_it_is_a_small_value(self, root: Place) -> None:
        place = root / "a" / "b.csv"
        assert pickle.loads(pickle.dumps(place)) == place  # noqa: S301 - our own
        assert {place: 1}[root / "a/b.csv"] == 1
        assert (place.suffix, root.suffix, str(place)) == (".csv", "", f"{root}/a/b.csv")
        places = [root / name for name in ("b", "a/z", "c", "a")]
        assert [str(one) for one in sorted(places)] == [f"{root}/{name}" for name in ("a", "a/z", "b", "c")]

    def test_reading_past_the_end_gives_what_exists(self, root: Place) -> None:
        place, memory = root / "ten", np.zeros(6, np.uint8)
        place.write(bytes(range(10)))
        assert [place.read_range(*span) for span in ((0, 99), (8, 5), (10, 5), (99, 5), (3, 0))] == [
            bytes(range(10)),
            b"\x08\x09",
            b"",
            b"",
            b"",
        ]
        assert [place.read_into(start, memory) for start in (0, 7, 10, 99)] == [6, 3, 0, 0]
        assert memory.tolist() == [7, 8, 9, 3, 4, 5]
        assert bytes(place.open_ranges(10).read(8, memory)) == b"\x08\x09"
        (root / "empty").write(b"")
        assert (root / "empty").read_bytes() == b""
        assert (root / "empty").read_range(0, 5) == b""
        assert (root / "empty").describe().size == 0

    def test_a_stream_can_seek(self, root: Place) -> None:
        place = root / "large"
        data = np.random.default_rng(0).bytes(9 << 20)
        place.write(data)
        with place.open_stream() as stream:
            assert stream.read(5) == data[:5]
            stream.seek(-7, os.SEEK_END)
            assert stream.tell() == len(data) - 7
            assert stream.read() == data[-7:]
            stream.seek(0)
            assert stream.read() == data

    def test_what_does_not_exist_is_an_error_or_nothing(self, root: Place) -> None:
        missing = root / "missing"
        for read in (
            missing.read_bytes,
            missing.describe,
            lambda: missing.read_range(0, 1),
            lambda: missing.read_into(0, np.zeros(1, np.uint8)),
            lambda: missing.open_stream().read(),
            lambda: missing.open_ranges(1).read(0, np.zeros(1, np.uint8)),
            lambda: read_json(missing),
        ):
            with pytest.raises(FileNotFoundError):
                read()
        assert (missing.exists(), missing.is_file(), missing.is_dir()) == (False, False, False)
        assert (missing.names(), missing.subfolders(), list(missing.walk())) == ([], [], [])
        for remove in (missing.remove, missing.remove_tree, missing.remove_if_empty, missing.clean_temporaries):
            remove()

    def test_of_several_writers_exactly_one_creates(self, root: Place) -> None:
        writers, place = 8, root / "plan.json"
        ready = threading.Barrier(writers)

        def create(number: int) -> bool:
            ready.wait()
            return create_json(place, number)

        with ThreadPoolExecutor(writers) as threads:
            won = list(threads.map(create, range(writers)))
        assert won.count(True) == 1
        assert read_json(place) == won.index(True)
        assert not create_json(place, "late")
        assert below(root) == ["plan.json"]

    def test_a_writer_that_fails_leaves_the_old_file(self, root: Place) -> None:
        place = root / "file"
        for before in (None, b"old"):
            if before:
                place.write(before)
            with pytest.raises(ZeroDivisionError), place.whole_file() as file:
                fail_after(file)
            assert below(root) == (["file"] if before else [])
        assert place.read_bytes() == b"old"
        with place.whole_file() as file:
            file.write(b"new, ")
            file.write(memoryview(b"in parts"))
        assert place.read_bytes() == b"new, in parts"
        assert below(root) == ["file"]

    def test_several_files_are_written_and_replaced(self, root: Place) -> None:
        files = {f"{number % 3}/{number}": bytes([number]) for number in range(8)}
        root.write_files(dict.fromkeys(files, b"old"))
        root.write_files(files)
        root.sync_folders()
        assert below(root) == sorted(files)
        assert {name: (root / name).read_bytes() for name in files} == files

    def test_parts_are_hashed_as_they_are_written(self, root: Place) -> None:
        length, digest = (root / "deep/er").write_parts([b"ab", memoryview(b"c")])
        assert (length, digest) == (3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        assert (root / "deep/er").read_bytes() == b"abc"

    def test_names_are_sorted_and_without_what_has_become_empty(self, root: Place) -> None:
        for name in ("b/2", "b/1", "a", "c/d/e", "b-1/x"):
            (root / name).write(b"1")
        assert root.names() == ["a", "b", "b-1", "c"]
        assert root.subfolders() == ["b", "b-1", "c"]
        assert below(root) == ["a", "b-1/x", "b/1", "b/2", "c/d/e"]
        assert [file.name for file in root.walk()] == [file.name for file in root.walk()]
        assert {file.size for file in root.walk()} == {1}
        assert (root / "b").is_dir()
        (root / "b").remove_tree()
        assert not (root / "b").is_dir()
        assert root.names() == ["a", "b-1", "c"]

    def test_removing_a_tree_spares_its_neighbours(self, root: Place) -> None:
        for name in ("run/a", "run/b/c", "run-2/a", "running"):
            (root / name).write(b"1")
        (root / "run").remove_tree()
        assert below(root) == ["run-2/a", "running"]

    def test_contents_are_removed_except_one_folder(self, root: Place) -> None:
        for name in (".work/plan.json", ".workshop/x", "x/c/0", "zarr.json"):
            (root / name).write(b"1")
        root.remove_contents(keep=".work")
        assert below(root) == [".work/plan.json"]
        root.remove_if_empty()
        assert below(root) == [".work/plan.json"]

    def test_lines_are_appended(self, root: Place) -> None:
        place = root / "journal.jsonl"
        for line in (b"one\n", b"two\n", b"three\n"):
            place.append_line(line)
        assert place.read_bytes() == b"one\ntwo\nthree\n"

    def test_patterns_match(self, root: Place) -> None:
        for name in ("part-1.csv", "part-2.csv", "other.csv", "sub/part-3.csv"):
            (root / name).write(b"1")
        base, places = matching(f"{root}/part-[0-9].csv")
        assert (base, [place.name for place in places]) == (root, ["part-1.csv", "part-2.csv"])
        base, places = matching(f"{root}/*/part-*.csv")
        assert (base, [place.name for place in places]) == (root, ["part-3.csv"])

    def test_a_pattern_matches_the_same_files_as_pythons_glob(self, root: Place, tmp_path: Path) -> None:
        names = ("x1.csv", "x2.csv", "y1.csv.gz", ".h.csv", "{x1,x2}.csv", "[x].csv", "a/x1.csv", "a/b/z1.csv",
                 "a/b/c/x1.csv", "a/b/.g.csv", "a/.h/x1.csv", ".a/x1.csv", "a1/b/y1.csv")  # fmt: skip
        for name in names:
            (root / "tree" / name).write(b"1")
            (locate(tmp_path) / "reference" / name).write(b"1")
        for pattern in ("*", "*.csv", "*/*.csv", "**/*.csv", "**", "a/**", "**/b/*", "**/x?.csv", "**/.*", ".*/**",
                        "a/**/**/*.csv", "**/[x-z]1.csv", "**/[!x]*", "{x1,x2}*", "**/*[[]*", "a/b/*.CSV", "*/", "**/",
                        "a/*1.csv", "a*", "a/.h/*", "a*/b/**"):  # fmt: skip
            found = glob.glob(f"{tmp_path}/reference/{pattern}", recursive=True)
            wanted = sorted({path.removeprefix(f"{tmp_path}/reference/") for path in found if os.path.isfile(path)})
            places = matching(f"{root}/tree/{pattern}")[1]
            assert [str(place).removeprefix(f"{root}/tree/") for place in places] == wanted, pattern

    def test_a_new_folder_beside_is_unique_and_has_nothing_in_it(self, root: Place) -> None:
        folders = {(root / "out.csv").new_folder_beside() for _ in range(3)}
        assert len(folders) == 3
        assert all(folder.parent == root and not folder.names() for folder in folders)

    def test_json_is_written_in_one_form(self, root: Place) -> None:
        write_json(root / "x.json", {"b": [1, 2.5], "a": "ü"})
        assert (root / "x.json").read_bytes() == b'{"a":"\\u00fc","b":[1,2.5]}\n'
        (root / "x.json").write(b"{")
        with pytest.raises(DamagedError, match=r"x\.json is not valid JSON"):
            read_json(root / "x.json")


def test_a_local_place_is_a_path_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = locate("a/../b")
    assert Path(place) == tmp_path / "a/../b", "links are not followed, so '..' stays"
    assert locate(".") == locate(tmp_path) == locate(f"{tmp_path}/") == locate(f"{tmp_path}/.")
    assert locate(f"{tmp_path}//x/./y") == locate("x/y") == locate(tmp_path) / "x" / "y"
    locate("file").write(b"1")
    with open(locate("file"), "rb") as file:
        assert file.read() == b"1"


def test_a_place_in_a_bucket_is_no_path() -> None:
    with pytest.raises(UsageError, match="use a local copy"):
        Path(locate("s3://bucket/x"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket", "name a bucket and an object"),
        ("s3://", "is not a valid bucket name"),
        ("s3://bucket?version=1/x", "is not a valid bucket name"),
        ("s3://buck#et/x", "is not a valid bucket name"),
        ("s3://bucket/a//b", "empty folders"),
        ("s3://bucket/a/../b", "empty folders"),
        ("ftp://bucket/a", "choose from s3, gs, az"),
        ("https://host/a", "download the file"),
    ],
)
def test_urls_that_name_no_object_are_refused(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        locate(url)


def test_a_local_folder_is_locked_by_one_holder_at_a_time(tmp_path: Path) -> None:
    folder = locate(tmp_path / "run")
    with folder.lock("busy"), pytest.raises(ConflictError, match="busy"), folder.lock("busy"):
        pass
    with folder.lock("busy"):
        pass
    (folder / "file").write(b"")
    with pytest.raises(ConflictError, match="is a file"), (folder / "file").lock("busy"):
        pass


def test_a_lock_is_a_file_that_belongs_to_nobody_else_and_is_not_seen(tmp_path: Path) -> None:
    """NFS knows only locks of regular files that are open for writing."""
    folder = locate(tmp_path / "run")
    with folder.lock("busy"):
        with pytest.raises(BlockingIOError):
            lock_file(tmp_path / "run" / LOCK, wait=False)
        assert (folder.names(), list(folder.walk())) == ([], [])
        folder.remove_contents(keep="")
        with pytest.raises(ConflictError, match="busy"), folder.lock("busy"):
            pass
        folder.remove_if_empty()
        assert not folder.exists()
        with folder.lock("busy"):
            (tmp_path / "run" / LOCK).touch()
            assert lock_is_held(tmp_path / "run")
    with folder.lock("busy"):
        (folder / "result").write(b"")
    assert os.listdir(tmp_path / "run") == ["result"]


def test_a_lock_is_open_for_writing(tmp_path: Path) -> None:
    """Over NFS, a file that is open for reading only cannot be locked against others."""
    descriptor = lock_file(tmp_path / LOCK)
    assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    os.close(descriptor)


def lock_is_held(folder: Path) -> bool:
    try:
        os.close(lock_file(folder / LOCK, wait=False))
    except BlockingIOError:
        return True
    return False


def test_the_lock_of_a_folder_that_another_process_removed_is_left_to_its_new_holder(tmp_path: Path) -> None:
    folder = locate(tmp_path / "work")
    with ExitStack() as newer:
        with folder.lock("busy"):
            folder.remove_tree()
            newer.enter_context(folder.lock("busy"))
        assert lock_is_held(tmp_path / "work")


def test_who_waits_for_a_file_that_is_replaced_gets_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    old = lock_file(path)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(lock_file, path)
        while not waiting.done() and [file.path for file in psutil.Process().open_files()].count(str(path)) < 2:
            pass  # only what is open can be replaced
        path.unlink()
        new = lock_file(path)
        os.close(old)
        os.close(new)
        descriptor = waiting.result(10)
    assert os.path.samestat(os.fstat(descriptor), path.stat())
    os.close(descriptor)


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    program = "import sys; from foldstream.storage.places.locks import lock_file; lock_file(sys.argv[1]); "
    command = [sys.executable, "-c", f"{program} print(flush=True); sys.stdin.read()", str(tmp_path / LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        assert lock_is_held(tmp_path)
        holder.kill()
    with locate(tmp_path).lock("busy"):
        pass


def test_what_killed_writers_left_is_cleaned(tmp_path: Path) -> None:
    for name in ("a/.x.123.tmp", "b.partial", "kept.tmp", "a/kept"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    locate(tmp_path).clean_temporaries()
    assert below(locate(tmp_path)) == ["a/kept", "kept.tmp"]


def test_a_local_file_of_another_size_is_damaged(tmp_path: Path) -> None:
    locate(tmp_path / "x").write(b"12345")
    with pytest.raises(DamagedError, match="has 5 bytes, but 6 were written"):
        locate(tmp_path / "x").open_ranges(6)


def test_a_line_that_a_crash_has_cut_short_is_replaced(tmp_path: Path) -> None:
    place = locate(tmp_path / "journal")
    place.write(b"one\ntw")
    place.append_line(b"three\n")
    assert place.read_bytes() == b"one\nthree\n"


def test_a_link_that_leads_nowhere_is_skipped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "broken.csv").symlink_to(tmp_path / "nowhere")
    assert list(locate(tmp_path).walk()) == []
    assert "broken.csv: skipped" in caplog.text
