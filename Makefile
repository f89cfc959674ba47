# Each target sets up what it needs. Figures of `make bench-NAME` go to build/bench-NAME.json.

PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: install demo test check bench clean

install: .venv/installed

# torch first, and pinned: a looser range may bring another build, of several gigabytes.
.venv/installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not here; give another: make PYTHON=python3"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@# Editors and mypy find the root folder by the package's name through this link.
	mkdir -p .venv/typecheck && ln -sfn ../.. .venv/typecheck/foldstream
	@# The reference is made of these alone: that walk would enter .venv again and again.
	mkdir -p .venv/reference/foldstream
	cd .venv/reference/foldstream && ln -sfn ../../../__init__.py ../../../cli.py ../../../cluster ../../../pipeline ../../../storage ../../../training .
	touch $@

demo: install
	rm -rf build/demo
	$(BIN)/foldstream run examples/digits/job.toml
	cp build/demo/submission.csv submission.csv
	@echo "submission.csv: $$(head -n 1 submission.csv), $$(($$(wc -l < submission.csv) - 1)) rows"

# Tests that need no cluster run side by side, each process with one thread: on two cores, threads that wait for each
# other's turn make some of them twenty times slower. PYTEST="--budget 3300": after so many seconds no long test is begun.
ALONE := tests/contracts tests/property tests/unit
test: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal $(ALONE) $(PYTEST)
	$(BIN)/pytest $(addprefix --ignore=,$(ALONE)) $(PYTEST)

# Jobs between hosts that are network namespaces, and on Slurm; needs root, `ip`, munge and Slurm, and is skipped without.
# A part of `make test`.
.PHONY: test-cluster
test-cluster: install
	$(BIN)/pytest tests/cluster

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=.venv/typecheck $(BIN)/mypy -p foldstream
	$(MAKE) -s docs
	$(BIN)/pytest -q tests/unit/test_house.py tests/unit/test_deploy.py tests/unit/test_kubernetes.py

# The documentation as a site, in build/site; a link that leads nowhere fails it.
.PHONY: docs
docs: install
	PATH="$(CURDIR)/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -q

bench: bench-digits bench-folds bench-convert bench-stream bench-memory bench-train

# The full digits: convert, train 5 folds for 10 epochs, predict; DIGITS is the folder of train.csv.gz and test.csv.gz.
DIGITS ?= ../shared/data/digits
.PHONY: bench-digits
bench-digits: install
	$(BIN)/python tests/benchmarks/digits.py $(DIGITS) build/bench-digits.json

# Five folds in each mode, and a plain PyTorch loop over them with the data in memory.
.PHONY: bench-folds
bench-folds: install
	$(BIN)/python -m tests.benchmarks.folds $(DIGITS) build/bench-folds.json $(CASES)

# Random batches out of core against other libraries, which live in an environment of their own.
PEERS := build/peers
.PHONY: bench-stream bench-memory bench-train
bench-stream: install $(PEERS)/installed
	$(BIN)/python -m tests.benchmarks.stream $(PEERS)/bin/python build/bench-stream.json $(KINDS)

$(PEERS)/installed: tests/benchmarks/peers.txt constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install -q -c constraints.txt torch==2.13.0
	$(PEERS)/bin/pip install -q --no-deps -r tests/benchmarks/peers.txt
	touch $@

# Blocks read in random order by us, zarr-python, zarrs and tensorstore; codecs on each kind of rows.
.PHONY: bench-readers bench-codecs
bench-readers: install $(PEERS)/installed
	$(BIN)/python -m tests.benchmarks.readers $(PEERS)/bin/python build/bench-readers.json

bench-codecs: install
	$(BIN)/python -m tests.benchmarks.codecs build/bench-codecs.json

.PHONY: bench-order
bench-order: install
	$(BIN)/python -m tests.benchmarks.order build/bench-order.json

# The demo run here, and submitted to a local cluster that is started and stopped for it.
.PHONY: bench-submit
bench-submit: install
	$(BIN)/python -m tests.benchmarks.submit build/bench-submit.json

# What it costs the training that somebody looks at its page; needs chromium.
.PHONY: bench-watch
bench-watch: install
	$(BIN)/python -m tests.benchmarks.watch $(DIGITS) build/bench-watch.json

# Simulated: 20 folds on 64 nodes that fail.
.PHONY: bench-schedule
bench-schedule: install
	$(BIN)/python -m tests.benchmarks.schedule build/bench-schedule.json

# The planner, the order and the coordinator over the metadata of 1 TB; and what 1 TB takes on 1, 4 and 16 nodes.
.PHONY: bench-terabyte bench-plan
bench-terabyte: install
	$(BIN)/python -m tests.benchmarks.simulated_terabyte build/bench-terabyte.json

bench-plan: install
	$(BIN)/python -m tests.benchmarks.plan

# Needs root, for a control group with a limit of memory.
bench-memory: install
	$(BIN)/python -m tests.benchmarks.memory build/bench-memory.json

# Peak memory of converting 1 GB and 10 GB of CSV, and 10 GB within 2 GB of memory, which needs root, and of 10,000 and
# 100,000 images; 12 GB of disk. KINDS=csv or KINDS=images for one of both.
.PHONY: bench-convert-memory
bench-convert-memory: install
	$(BIN)/python -m tests.benchmarks.convert_memory build/bench-convert-memory.json $(KINDS)

# CSV to Zarr against dask.dataframe, pyarrow and pandas; CASES narrows it to some: CASES='"digits, 1 GB"'.
.PHONY: bench-convert bench-convert-csv bench-convert-images
bench-convert: bench-convert-csv bench-convert-images

bench-convert-csv: install
	$(BIN)/python -m tests.benchmarks.convert $(DIGITS) build/bench-convert.json $(CASES)

# Images to samples against Pillow, torch, LitData and WebDataset.
bench-convert-images: install $(PEERS)/installed
	$(BIN)/python -m tests.benchmarks.convert_images $(PEERS)/bin/python $(DIGITS) build/bench-convert-images.json

# The digits as PNG files against their CSV: the same arrays, scores and predictions.
.PHONY: bench-digit-images
bench-digit-images: install
	$(BIN)/python -m tests.benchmarks.digit_images $(DIGITS)

bench-train: install
	$(BIN)/python -m tests.benchmarks.train build/bench-train.json

clean:
	rm -rf build .venv
