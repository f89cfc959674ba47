"""Runs one contender of the remote benchmark in its own process: shuffled batches of 256 rows from an object store.

python -m tests.benchmarks.remote_contenders NAME SOURCE LINK prints JSON: what opening and each epoch took, with the
requests and bytes that passed the link. SOURCE is an URL, LINK the address of the link. Each library has at most MEMORY
for rows: in memory, or in files on this machine if it keeps them there.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from importlib import import_module
from time import perf_counter
from typing import Any

from ..slow_link import requests_since
from .contenders import BATCH, peak_memory, timed_epoch

EPOCHS = 2
SECONDS = 4.0  # an epoch that takes longer is stopped, because the rate is known by then
MEMORY = 300 << 20


@dataclass(frozen=True)
class Contender:
    """A module of `loaders`, and the options with which it opens the rows."""

    loader: str
    options: dict[str, Any] = field(default_factory=dict)


CONTENDERS = {
    "Foldstream": Contender("foldstream", {"cache": 0, "memory": MEMORY}),
    "LitData": Contender("litdata", {"cache_bytes": MEMORY}),
    "MosaicML Streaming, 2 workers": Contender(
        "mosaicml", {"workers": 2, "cache_limit": MEMORY, "shuffle_block_size": 1 << 17}
    ),
    "WebDataset, 2 workers": Contender("webdataset", {"workers": 2}),
    "Lance": Contender("lance", {"clump": 64, "read": 1024}),
}
"""With a longer shuffle, MosaicML Streaming would evict shards that it still needs."""


def measure(contender: Contender, source: str, link: str) -> dict[str, Any]:
    """What opening and each epoch took. Importing the library is not counted."""
    loader = import_module(f".loaders.{contender.loader}", __package__)
    touch(2 * MEMORY)
    requests_since(link)  # those of others
    begun = perf_counter()
    epochs = loader.batches(source, BATCH, **contender.options)
    opened = {"seconds": perf_counter() - begun, **requests_since(link)}
    taken = [{**asdict(timed_epoch(epochs, number, SECONDS)), **requests_since(link)} for number in range(EPOCHS)]
    return {"opened": opened, "epochs": taken, "peak_bytes": peak_memory()}


def touch(size: int) -> None:
    """Use so many bytes of memory for a moment: a virtual machine may have returned them to its host, and getting them
    back takes longer than reading rows into them."""
    subprocess.run([sys.executable, "-c", f"b'1' * {size}"], check=True)


if __name__ == "__main__":
    name, source, link = sys.argv[1:]
    print("RESULT" + json.dumps(measure(CONTENDERS[name], source, link)), flush=True)
    os._exit(0)  # do not wait for threads and servers that the peers have started
