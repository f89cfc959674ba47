"""Images that are stored as files: what is read of them is what a dataset of pixels has."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pytest
import zarr
from foldstream.cluster.planning.job import reblock
from foldstream.pipeline.images.convert import convert_images
from foldstream.pipeline.images.files import ImageFile, KeptFiles, hash_file
from foldstream.pipeline.images.spec import ImageRequest
from foldstream.pipeline.verify import find_damage, repair_shards
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.dataset import Dataset, open_dataset
from foldstream.storage.errors import DamagedError, DatasetError, SourceError, UsageError
from foldstream.storage.format.images import ImageForm
from foldstream.storage.tasks import SerialExecutor
from PIL import Image

from ..conftest import contents
from .test_csv import read_all
from .test_images import RGB, SOUND, convert_folder, encoded, keys_of, photo, write_tar

FORMS = [RGB, ImageForm((16, 16), "gray", "crop"), ImageForm((16, 24), dtype="uint16")]
SUFFIXES = {"JPEG": "jpg", "GIF": "gif", "BMP": "bmp", "TIFF": "tif", "WebP": "webp", "AVIF": "avif", "ICO": "ico"}


def write_photos(root: Path) -> dict[str, bytes]:
    """Files of all formats in two classes. Returns their bytes by their paths."""
    files = {}
    for number, (name, made) in enumerate(SOUND.items()):
        suffix = next((suffix for word, suffix in SUFFIXES.items() if word in name), "png")
        files[f"{'ab'[number % 2]}/{number:02d}.{suffix}"] = made()
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return files


def both(place: Path, out: Path, **options: object) -> tuple[Dataset, Dataset]:
    """Datasets of the same images: pixels, and files."""
    return tuple(  # type: ignore[return-value]
        convert_folder(place, out / f"{name}.zarr", encoded=kept, **options)
        for name, kept in {"pixels": False, "files": True}.items()
    )


@pytest.mark.parametrize("form", FORMS, ids=["rgb", "gray", "16 bits"])
def test_files_are_read_as_the_pixels_that_they_would_have_been_stored_as(form: ImageForm, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    pixels, files = both(tmp_path / "photos", tmp_path, form=form)
    assert (files.layout, files.statistics, files.class_totals) == (
        pixels.layout,
        pixels.statistics,
        pixels.class_totals,
    )
    expected, found = read_all(pixels), read_all(files)
    assert {name: values.tobytes() for name, values in found.items()} == {
        name: values.tobytes() for name, values in expected.items()
    }
    np.testing.assert_array_equal(files.block_table("class_counts"), pixels.block_table("class_counts"))


def test_zarr_reads_the_bytes_of_each_file(tmp_path: Path) -> None:
    sources = write_photos(tmp_path / "photos")
    _, files = both(tmp_path / "photos", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the dtype is not in the specification yet
        stored = zarr.open_group(str(files.root), mode="r")["x"]
        assert isinstance(stored, zarr.Array)
        assert [bytes(one) for one in np.asarray(stored[...])] == [sources[key] for key in keys_of(files)]
        assert stored.metadata.dimension_names == ("row",)  # type: ignore[union-attr]


def test_archives_give_what_their_folders_give(tmp_path: Path) -> None:
    sources = write_photos(tmp_path / "photos")
    write_tar(tmp_path / "photos.tar", sorted(sources.items()))
    _, loose = both(tmp_path / "photos", tmp_path)
    _, packed = both(tmp_path / "photos.tar", tmp_path / "packed")
    assert contents(packed) == contents(loose)


def test_what_differs_in_a_dataset_of_pixels_is_nothing(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    pixels, _ = both(tmp_path / "photos", tmp_path)
    assert b"encoded" not in (pixels.root / "manifest.json").read_bytes()


def test_training_gives_the_same_bits(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    form = ImageForm((12, 12), "gray")
    runs = list[dict[str, Any]]()
    options: dict[str, Any] = {"epochs": 2, "folds": 2, "batch_size": 8, "model": "mlp", "progress": False}
    for data in both(tmp_path / "photos", tmp_path, form=form):
        folder = tmp_path / f"{data.root.stem}-run"
        fs.train(data.root, folder, **options)
        weights = {path.parent.name: path.read_bytes() for path in folder.glob("folds/*/model.safetensors")}
        run = fs.Run(folder)
        tables = {"oof": run.oof(), "new": run.predict(tmp_path / "photos"), "stored": run.predict(data.root)}
        runs.append(weights | {name: table.to_csv() for name, table in tables.items()})
    assert len(runs[0]) == 5
    assert runs[0] == runs[1]


def test_a_damaged_byte_is_found_and_repaired_from_the_files(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    _, files = both(tmp_path / "photos", tmp_path)
    before = contents(files)
    shard = sorted(path for path in (files.root / "x" / "c").rglob("*") if path.is_file())[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamagedError, match="the block does not match its checksum"):
        read_all(open_dataset(files.root))
    damages = find_damage(files, SerialExecutor())
    assert [damage.path for damage in damages] == [str(shard)]
    repair_shards(files, damages, SerialExecutor())
    assert contents(files) == before
    assert find_damage(files, SerialExecutor()) == []


def test_a_file_that_changes_during_the_conversion_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(photo(), "PNG"))
    file = ImageFile(str(path), 0, path.stat().st_size)
    kept = KeptFiles([file], np.array([hash_file(path.read_bytes())], np.uint64))
    assert kept[0] == path.read_bytes()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(SourceError, match=r"a\.png has changed during the conversion; run the same command again"):
        kept[:]
    path.unlink()
    with pytest.raises(SourceError, match=r"a\.png has changed during the conversion"):
        kept[:]


def test_threads_that_decode_at_once_leave_the_filters_of_warnings_as_they_were(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    _, files = both(tmp_path / "photos", tmp_path)
    expected, filters = read_all(files), list(warnings.filters)
    reader, blocks = BlockReader(files, ["x"]), [*range(files.layout.blocks)] * 20
    with ThreadPoolExecutor(8) as threads:
        found = reader.read(blocks, threads)["x"]
    np.testing.assert_array_equal(found, np.tile(expected["x"], (20, 1, 1, 1)))
    assert list(warnings.filters) == filters


def test_a_file_that_cannot_be_decoded_on_another_machine_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path / "photos")
    _, files = both(tmp_path / "photos", tmp_path)
    monkeypatch.setattr(Image, "open", lambda *_, **__: (_ for _ in ()).throw(OSError("no such package")))
    with pytest.raises(
        DatasetError, match=r"x/c/0: the image [ab]/\d+\.\w+ \(row \d+\) cannot be decoded on this machine"
    ):
        read_all(files)
    assert find_damage(files, SerialExecutor()) == []  # its bytes are intact


def test_files_of_more_bytes_than_pixels_are_warned_of_and_very_large_ones_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path / "photos")
    told = list[tuple[str, str]]()
    request = ImageRequest((str(tmp_path / "photos"),), ImageForm((4, 4)), encoded=True)
    convert_images(request, tmp_path / "a.zarr", SerialExecutor(), tell=lambda *what: told.append(what))
    assert [what for name, what in told if name == "warning" and "without --encoded the dataset is smaller" in what]
    monkeypatch.setattr("foldstream.pipeline.images.size.LONGEST_BLOCK", 1000)
    with pytest.raises(UsageError, match=r"--encoded: a block of .* image files, which is read at once, has up to"):
        convert_images(request, tmp_path / "b.zarr", SerialExecutor())
    assert not (tmp_path / "b.zarr").exists()


def test_the_files_of_a_sample_are_tried_in_longer_blocks(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    _, files = both(tmp_path / "photos", tmp_path)
    tried = reblock(files, 2 * files.layout.block_rows, tmp_path / "tried")
    assert tried.layout.block_rows == 2 * files.layout.block_rows
    np.testing.assert_array_equal(read_all(tried)["x"][: len(files)], read_all(files)["x"][: len(tried)])


def test_a_stream_counts_the_files_of_a_block_in_each_thread(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    needed = [fs.stream(data.root, batch_size=8).memory_needed for data in both(tmp_path / "photos", tmp_path)]  # type: ignore[union-attr]
    longest = int(open_dataset(tmp_path / "files.zarr").index.lengths("x").max())
    assert needed[1] - needed[0] in {longest, 2 * longest}
