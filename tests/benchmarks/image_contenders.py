"""Runs one contender of the image benchmark in its own process: a folder of class folders, with two workers.

python image_contenders.py NAME FOLDER OUT COLOR SIZE prints JSON: the number of processed images and the seconds.
The peers have their own venv, so each function imports what it needs.
"""

import json
import multiprocessing
import sys
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

WORKERS = 2


def files_of(folder: Path) -> list[tuple[str, int]]:
    """Every image with the index of its class."""
    classes = sorted(path.name for path in folder.iterdir())
    return sorted((str(path), classes.index(path.parent.name)) for path in folder.rglob("*.*"))


def decode(path: str, color: str, size: int, reduced: bool = False) -> np.ndarray:
    """Decode an image with Pillow: open it, convert the colors, resize to a square."""
    with Image.open(path) as image:
        if reduced:
            image.draft(None, (size, size))
        colored = image.convert("RGB" if color == "rgb" else "L")
        return np.asarray(colored.resize((size, size), Image.Resampling.BILINEAR))


def foldstream(folder: Path, out: Path, color: Any, size: int) -> tuple[int, float]:
    from foldstream import convert_images
    from foldstream.cluster.dask.local import dask_cluster

    with dask_cluster(WORKERS) as client:
        started = perf_counter()
        dataset = convert_images(folder, out, size=size, color=color, fit="stretch", client=client)
        return len(dataset), perf_counter() - started


def only_count(file: tuple[str, int], color: str, size: int, reduced: bool) -> int:
    return len(decode(file[0], color, size, reduced)) // size


def decode_alone(folder: Path, out: Path, color: str, size: int, reduced: bool = False) -> tuple[int, float]:
    """Decodes and resizes in worker processes; the results are discarded."""
    files = files_of(folder)
    with multiprocessing.Pool(WORKERS) as pool:
        started = perf_counter()
        task = partial(only_count, color=color, size=size, reduced=reduced)
        return sum(pool.imap_unordered(task, files, chunksize=32)), perf_counter() - started


class ImageFolder:
    """Like torchvision's ImageFolder, with its usual transforms."""

    def __init__(self, folder: Path, color: str, size: int) -> None:
        self.files, self.color, self.size = files_of(folder), color, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        import torch

        path, label = self.files[number]
        values = torch.from_numpy(np.array(decode(path, self.color, self.size)))
        return values.reshape(self.size, self.size, -1).permute(2, 0, 1).contiguous(), label


def image_folder(folder: Path, out: Path, color: str, size: int) -> tuple[int, float]:
    """Reads batches with a DataLoader, as torch users do; nothing is written."""
    from torch.utils.data import DataLoader

    started = perf_counter()
    files: Any = ImageFolder(folder, color, size)
    loader = DataLoader(files, batch_size=64, num_workers=WORKERS, shuffle=True)
    return sum(len(y) for _, y in loader), perf_counter() - started


def as_sample(file: tuple[str, int], color: str, size: int) -> dict[str, Any]:
    return {"x": decode(file[0], color, size), "y": file[1]}


def litdata(folder: Path, out: Path, color: str, size: int) -> tuple[int, float]:
    import litdata
    from litdata.streaming import StreamingDataset

    files = files_of(folder)
    started = perf_counter()
    litdata.optimize(
        fn=partial(as_sample, color=color, size=size),
        inputs=files,
        output_dir=str(out),
        num_workers=WORKERS,
        chunk_bytes="64MB",
        verbose=False,
        start_method="fork",
    )
    seconds = perf_counter() - started
    return len(StreamingDataset(str(out))), seconds


def write_shards(number: int, files: list[tuple[str, int]], out: Path, color: str, size: int) -> None:
    import webdataset

    with webdataset.ShardWriter(str(out / f"{number}-%06d.tar"), maxsize=64e6, verbose=0) as writer:
        for path, label in files:
            writer.write({"__key__": Path(path).stem, "x.npy": decode(path, color, size), "cls": label})


def web_dataset(folder: Path, out: Path, color: str, size: int) -> tuple[int, float]:
    files = files_of(folder)
    out.mkdir()
    started = perf_counter()
    writers = [
        multiprocessing.Process(target=write_shards, args=(number, files[number::WORKERS], out, color, size))
        for number in range(WORKERS)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    seconds = perf_counter() - started
    written = 0
    for shard in out.glob("*.tar"):
        with tarfile.open(shard) as archive:
            written += sum(name.endswith(".cls") for name in archive.getnames())
    return written, seconds


LITDATA, WEBDATASET = "LitData, optimize", "WebDataset, ShardWriter"
PEERS = (LITDATA, WEBDATASET)
CONTENDERS: dict[str, Callable[[Path, Path, str, int], tuple[int, float]]] = {
    "Foldstream": foldstream,
    "Pillow, nothing written": decode_alone,
    "Pillow at reduced scale, nothing written": partial(decode_alone, reduced=True),
    "ImageFolder and DataLoader, nothing written": image_folder,
    LITDATA: litdata,
    WEBDATASET: web_dataset,
}


if __name__ == "__main__":
    name, folder, out, color, size = sys.argv[1:]
    images, seconds = CONTENDERS[name](Path(folder), Path(out), color, int(size))
    print("RESULT" + json.dumps({"images": images, "seconds": seconds}), flush=True)
