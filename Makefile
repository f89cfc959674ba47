# Each target installs what it needs. Figures of `make bench-NAME` go to build/bench-NAME.json.

PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: install demo test test-all check bench clean

install: .venv/installed

# torch comes first, and pinned: a looser range may select another build, of several gigabytes.
.venv/installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found; choose another: make PYTHON=python3"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@# Through this link, editors and mypy find the root folder under the name of the package.
	mkdir -p .venv/typecheck && ln -sfn ../.. .venv/typecheck/foldstream
	@# The reference is built from these alone: a walk of the whole checkout would recurse into .venv.
	mkdir -p .venv/reference/foldstream
	cd .venv/reference/foldstream && ln -sfn ../../../__init__.py ../../../cli.py ../../../cluster ../../../pipeline ../../../storage ../../../training .
	touch $@

demo: install
	rm -rf build/demo
	$(BIN)/foldstream run examples/digits/job.toml
	cp build/demo/submission.csv submission.csv
	@echo "submission.csv: $$(head -n 1 submission.csv), $$(($$(wc -l < submission.csv) - 1)) rows"

# Tests that need no cluster run in parallel, each process with one thread: on two cores, oversubscribed threads make
# some of them twenty times slower. Of the long ones, the kills and the clusters, each run takes an eighth, by the time
# of day; PART=1790000000 repeats that of another run. `make test-all` runs all of them.
ALONE := tests/contracts tests/property tests/unit
PART ?= $(shell date +%s)
test: CHOSEN = --part $(PART)
test test-all: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal $(ALONE) $(CHOSEN) $(PYTEST)
	$(BIN)/pytest $(addprefix --ignore=,$(ALONE)) $(CHOSEN) $(PYTEST)

# Jobs across hosts, which are network namespaces, and on Slurm. Skipped without root, `ip`, munge and Slurm. Part of
# `make test`.
.PHONY: test-cluster
test-cluster: install
	$(BIN)/pytest tests/cluster

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=.venv/typecheck $(BIN)/mypy -p foldstream
	$(MAKE) -s docs
	$(BIN)/pytest -q tests/unit/test_house.py tests/unit/test_deploy.py tests/unit/test_kubernetes.py

# The wheel and the source archive, in dist/.
.PHONY: dist
dist: install
	rm -rf dist
	$(BIN)/pyproject-build --no-isolation --quiet

# The documentation site, in build/site. A broken link fails the build.
.PHONY: docs
docs: install
	PATH="$(CURDIR)/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -q

# Pictures of the pages in light and dark, wide and narrow, in build/screenshots. They show the path of FOLDER.
FOLDER ?= $(shell mktemp -d)/foldstream
.PHONY: screenshots
screenshots: docs
	$(BIN)/python -m tests.screenshots build/screenshots $(FOLDER)

# Runs the notebooks of the documentation, and saves them with their outputs.
.PHONY: notebooks
notebooks: install
	$(BIN)/python -m tests.notebooks

bench: bench-digits bench-folds bench-convert bench-stream bench-memory bench-train

# The full digits: convert, train 5 folds for 10 epochs, predict. DIGITS is the folder of train.csv.gz and test.csv.gz.
DIGITS ?= ../shared/data/digits
.PHONY: bench-digits
bench-digits: install
	$(BIN)/python tests/benchmarks/digits.py $(DIGITS) build/bench-digits.json

# Five folds in each fold mode, against a plain PyTorch loop with the data in memory.
.PHONY: bench-folds
bench-folds: install
	$(BIN)/python -m tests.benchmarks.folds $(DIGITS) build/bench-folds.json $(CASES)

# Shuffled batches from disk, against other libraries, which are installed in their own environment.
PEERS := build/peers
.PHONY: bench-stream bench-memory bench-train
bench-stream: install $(PEERS)/installed
	$(BIN)/python -m tests.benchmarks.stream $(PEERS)/bin/python build/bench-stream.json $(KINDS)

# Shuffled batches from arrays in place and from copies of them. CASES selects some.
.PHONY: bench-adopt
bench-adopt: install
	$(BIN)/pip download -q --no-deps -d build/adopt iris-sample-data==2.5.2 scanpy==1.11.5
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.adopt build/adopt build/bench-adopt.json $(CASES)

# Images stored as files, against images stored as pixels.
.PHONY: bench-encoded
bench-encoded: install
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.encoded_images build/bench-encoded.json

# Shuffled batches from an object store behind a slow link, against other libraries. CASES selects links, or the others
# beside Foldstream: CASES='"30 ms, 100 MB/s" LitData'. ROUNDS=1 is quicker.
.PHONY: bench-remote
bench-remote: install $(PEERS)/installed
	$(BIN)/python -m tests.benchmarks.remote $(PEERS)/bin/python build/bench-remote.json $(CASES)

$(PEERS)/installed: tests/benchmarks/peers.txt constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install -q -c constraints.txt torch==2.13.0
	$(PEERS)/bin/pip install -q --no-deps -r tests/benchmarks/peers.txt
	touch $@

# On a machine with a GPU, OUT=folder tests/gpu/run.sh runs what needs one. The bundle holds what such a machine may lack:
# carry build/gpu-bundle to it along with the checkout. The rehearsal has tiny sizes and runs on the CPU.
GPU_PYTHON ?= 3.12
GPU_PLATFORMS := $(foreach number,28 27 17,--platform manylinux_2_$(number)_x86_64) --platform manylinux2014_x86_64
.PHONY: gpu-bundle gpu-rehearsal bench-gpu
gpu-bundle: install
	rm -rf build/gpu-bundle
	$(BIN)/pip download -q --no-deps --only-binary=:all: --python-version $(GPU_PYTHON) --implementation cp \
		$(GPU_PLATFORMS) -c constraints.txt -r tests/gpu/wheels.txt -d build/gpu-bundle
	du -sh build/gpu-bundle

gpu-rehearsal: install
	mkdir -p build/gpu-rehearsal
	OUT=build/gpu-rehearsal PYTHON=$(BIN)/python tests/gpu/run.sh --rehearsal

bench-gpu: install
	$(BIN)/python -m tests.gpu.bench build/bench-gpu.json

# How many emulated accelerators one core keeps busy. CASES selects some loads: CASES='"ResNet-50"'.
.PHONY: bench-accelerators
bench-accelerators: install $(PEERS)/installed
	$(BIN)/python -m tests.benchmarks.accelerators $(PEERS)/bin/python build/bench-accelerators.json $(CASES)

# Blocks read in random order by Foldstream, zarr-python, zarrs and tensorstore; codecs on each kind of data.
.PHONY: bench-readers bench-codecs
bench-readers: install $(PEERS)/installed
	$(BIN)/python -m tests.benchmarks.readers $(PEERS)/bin/python build/bench-readers.json

bench-codecs: install
	$(BIN)/python -m tests.benchmarks.codecs build/bench-codecs.json

.PHONY: bench-order
bench-order: install
	$(BIN)/python -m tests.benchmarks.order build/bench-order.json

.PHONY: bench-sequences
bench-sequences: install
	$(BIN)/python -m tests.benchmarks.sequences

# CASES: the folds and the epochs, e.g. "3 4".
.PHONY: bench-ensemble
bench-ensemble: install
	$(BIN)/python -m tests.benchmarks.ensembles $(DIGITS)/train.csv.gz build/bench-ensemble.json $(CASES)

# A grid of 16 candidates on the digits, and searches over the same 16. ROWS=20000 is quicker.
.PHONY: bench-search
bench-search: install
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.search $(DIGITS) build/bench-search.json $(ROWS)

.PHONY: bench-metrics
bench-metrics: install
	$(BIN)/python -m tests.benchmarks.metrics build/bench-metrics.json

.PHONY: bench-sample
bench-sample: install
	$(BIN)/python -m tests.benchmarks.sample build/bench-sample.json

# The demo run directly, and submitted to a local cluster that is started and stopped for it.
.PHONY: bench-submit
bench-submit: install
	$(BIN)/python -m tests.benchmarks.submit build/bench-submit.json

# A signal in each phase of a training, at COUNT moments: checkpoints within ten seconds, then the same weights. KINDS
# selects some of here, helper, command and worker.
COUNT ?= 10
.PHONY: chaos-stops
chaos-stops: install
	$(BIN)/python -m tests.chaos.stops $(COUNT) 0 $(KINDS)

# Prediction by one worker and by two on Ray.
.PHONY: bench-predict
bench-predict: install
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.predict build/bench-predict.json

# The latency of single rows and the throughput of 'foldstream serve'.
.PHONY: bench-serve
bench-serve: install
	$(BIN)/python -m tests.benchmarks.serve

# How much an open run page slows the training down. Needs chromium.
.PHONY: bench-watch
bench-watch: install
	$(BIN)/python -m tests.benchmarks.watch $(DIGITS) build/bench-watch.json

# Small jobs from the command to its end, against the same work as a plain script.
.PHONY: bench-start
bench-start: install
	$(BIN)/python -m tests.benchmarks.start $(DIGITS) build/bench-start.json $(CASES)

# A simulation: 20 folds on 64 nodes that fail.
.PHONY: bench-schedule
bench-schedule: install
	$(BIN)/python -m tests.benchmarks.schedule build/bench-schedule.json

# The planner, the sample order and the coordinator on the metadata of 1 TB; estimates for 1 TB on 1, 4 and 16 nodes.
.PHONY: bench-terabyte bench-plan
bench-terabyte: install
	$(BIN)/python -m tests.benchmarks.simulated_terabyte build/bench-terabyte.json

bench-plan: install
	$(BIN)/python -m tests.benchmarks.plan

# Needs root, for a control group with a memory limit.
bench-memory: install
	$(BIN)/python -m tests.benchmarks.memory build/bench-memory.json

# Peak memory of converting 1 GB and 10 GB of CSV, 10 GB of CSV within 2 GB of memory (needs root), and 10,000 and
# 100,000 images. Uses 12 GB of disk. KINDS=csv or KINDS=images selects one of the two.
.PHONY: bench-convert-memory
bench-convert-memory: install
	$(BIN)/python -m tests.benchmarks.convert_memory build/bench-convert-memory.json $(KINDS)

# CSV to Zarr, against dask.dataframe, pyarrow and pandas. CASES selects some of them: CASES='"digits, 1 GB"'.
.PHONY: bench-convert bench-convert-csv bench-convert-images
bench-convert: bench-convert-csv bench-convert-images

bench-convert-csv: install
	$(BIN)/python -m tests.benchmarks.convert $(DIGITS) build/bench-convert.json $(CASES)

# Images to samples, against Pillow, torch, LitData and WebDataset.
bench-convert-images: install $(PEERS)/installed
	$(BIN)/python -m tests.benchmarks.convert_images $(PEERS)/bin/python $(DIGITS) build/bench-convert-images.json

# The digits as PNG files, against their CSV: the arrays, scores and predictions must be the same.
.PHONY: bench-digit-images
bench-digit-images: install
	$(BIN)/python -m tests.benchmarks.digit_images $(DIGITS)

bench-train: install
	$(BIN)/python -m tests.benchmarks.train build/bench-train.json

clean:
	rm -rf build .venv
