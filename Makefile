# `make demo` and `make test` do all set-up on a fresh machine with Python 3.11, a C library and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# In the order of the folders: the long files, of the agent and with daemons, come first.
SPREAD := -n logical --dist loadscope --no-loadscope-reorder

.PHONY: setup demo test quick check bench bench-gossipy bench-byzfl fuzz losses crash cuts floods soak mutants pins clean

setup: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/candor testbed --agents 8 --topology ring --task digits --rounds 60 --strategy a3=scale:3

# Everything, on all cores. A file stays with one worker, so that what its tests share is made once.
test: setup
	$(BIN)/python -m pytest $(SPREAD)

# All but what starts daemons.
quick: setup
	$(BIN)/python -m pytest $(SPREAD) -m "not e2e"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint deploy/Dockerfile

bench: setup
	$(BIN)/candor bench round --agents 8 --topology ring --parameters 1000000 --rounds 30
	$(BIN)/candor bench topologies

# Candor's simulator and gossipy in turns: a quarter of an hour, in an environment of its own.
bench-gossipy: benchmarks/gossipy/.venv/installed
	benchmarks/gossipy/.venv/bin/python benchmarks/gossipy/compare.py

benchmarks/gossipy/.venv/installed: pyproject.toml constraints.txt benchmarks/gossipy/requirements.txt
	$(PYTHON) -m venv benchmarks/gossipy/.venv
	benchmarks/gossipy/.venv/bin/python -m pip install --quiet --disable-pip-version-check \
	  -r benchmarks/gossipy/requirements.txt -e .
	@touch $@

# Candor's aggregators and ByzFL's in turns: a quarter of an hour, most of it ByzFL's SMEA, in an environment of its own.
bench-byzfl: benchmarks/byzfl/.venv/installed
	benchmarks/byzfl/.venv/bin/python benchmarks/byzfl/compare.py

benchmarks/byzfl/.venv/installed: pyproject.toml constraints.txt benchmarks/byzfl/requirements.txt
	$(PYTHON) -m venv benchmarks/byzfl/.venv
	benchmarks/byzfl/.venv/bin/python -m pip install --quiet --disable-pip-version-check \
	  -r benchmarks/byzfl/requirements.txt -e .
	benchmarks/byzfl/.venv/bin/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps byzfl==0.0.11
	@touch $@

# Three minutes: a neighbour that sends a million changed messages, then one that attacks a daemon.
fuzz: setup
	$(BIN)/python -m tests.campaigns.fuzz_peer --frames 1000000
	$(BIN)/python -m tests.campaigns.fuzz_peer --socket --frames 50000

# What daemons have on disk is taken from them, 16 times: a quarter of an hour.
losses: setup
	$(BIN)/python -m tests.campaigns.losses --loss copy --times 10
	$(BIN)/python -m tests.campaigns.losses --loss ledger --times 3 --away-s 25 --agents 6
	$(BIN)/python -m tests.campaigns.losses --loss both --times 3 --away-s 25 --agents 6

# Some 320 deaths of real daemons: a quarter of an hour on two cores.
crash: setup
	$(BIN)/python -m tests.campaigns.crashes --kills 200 --each-failpoint 20

# Links between real daemons cut and healed at random, 20 seeds: 25 minutes on two cores.
cuts: setup
	$(BIN)/python -m tests.campaigns.cuts --seeds 20

# One daemon flooded by silent connections, unknown keys and messages without an end: three minutes.
floods: setup
	$(BIN)/python -m tests.campaigns.floods

# 10,000 rounds of eight daemons, each started again five times: 17 minutes on two idle cores.
soak: setup
	$(BIN)/python -m tests.campaigns.soak --rounds 10000 --restarts 5 --seconds 1200

# Small changes of the pure modules that no test of theirs notices: an hour, and more where many are.
mutants: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,mutants]'
	$(BIN)/python -m tests.campaigns.mutants --count 30

# What the image is made of, each file by its hash; run where CPython 3.11 and Linux on x86-64 are.
pins: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --dry-run --ignore-installed \
	  --report - -c constraints.txt . hatchling > deploy/report.json
	$(BIN)/python deploy/pins.py < deploy/report.json > deploy/requirements.txt
	rm deploy/report.json

clean:
	rm -rf $(VENV) benchmarks/gossipy/.venv benchmarks/byzfl/.venv
