"""Streams epochs of a dataset, and prints JSON: seconds of each epoch, and the peak memory of the process in bytes.

python epoch.py DATASET EPOCHS MEMORY
"""

import json
import resource
import sys
from time import perf_counter

import foldstream as fs

stream = fs.stream(sys.argv[1], memory=sys.argv[3])
seconds = []
for _ in range(int(sys.argv[2])):
    started = perf_counter()
    for _batch in stream:
        pass
    seconds.append(perf_counter() - started)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": seconds, "peak_bytes": peak}))
