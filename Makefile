# The environment is made in .venv, from the versions in constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := mettle_cache pipelines cli tests

# two test processes share the cores: more threads in each would only make them wait for one another
TEST := OMP_NUM_THREADS=1 $(BIN)/pytest

.PHONY: install demo gpu-check test test-browser test-slow test-real study test-interop test-loggers docs test-docs check format constraints clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "mettle-cache needs Python 3.11 or newer: make PYTHON=python3.11 install" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install
	$(BIN)/mettle demo

# worksteal: a module's tests stay in one process, so that what they share is made once
test: install
	$(TEST) -n 2 --dist worksteal -m "not slow and not realdata and not interop and not loggers and not browser and not docs"

# pages in a headless Chromium from the PATH; skips, and says so, where there is none
test-browser: install
	$(TEST) -m browser

test-slow: install
	$(TEST) -m slow --timeout 1800
	$(TEST) -m "hypothesis and not slow and not realdata and not interop and not loggers and not docs" --hypothesis-profile thorough --timeout 1800

# on a machine with a GPU and without a network: any Python that has PyTorch, and nothing is installed
# make gpu-check PARTS="kernels step" PYTHON=python3.12
PARTS ?=
gpu-check:
	PYTHONPATH=$(CURDIR) $(PYTHON) -m mettle_cache.pipelines.benchmark.gpu_check $(PARTS)

test-real: install
	$(TEST) -m "realdata and not study" --timeout 7200 -o faulthandler_timeout=0 -s

# hours: what each codec costs heads on composed sets; what is finished stays in build/study, and is taken again
study: install
	$(TEST) -m study --timeout 40000 -o faulthandler_timeout=0 -s

# in an environment of its own: Lightning and accelerate are nobody's dependency here
INTEROP := build/interop
test-interop: $(INTEROP)/.installed
	OMP_NUM_THREADS=1 $(INTEROP)/bin/pytest -m interop tests/interop

$(INTEROP)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,interop]'
	@touch $@

# another: MLflow wants an older importlib_metadata than the one that is locked
LOGGERS := build/loggers
test-loggers: $(LOGGERS)/.installed
	OMP_NUM_THREADS=1 $(LOGGERS)/bin/pytest -m loggers tests/pipelines/train/loggers

$(LOGGERS)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(LOGGERS)
	grep -v importlib constraints.txt > $(LOGGERS)/constraints.txt
	$(LOGGERS)/bin/python -m pip install --quiet --constraint $(LOGGERS)/constraints.txt --editable '.[dev,wandb,mlflow]'
	@touch $@

# the site; every warning is an error
DOCS := $(VENV)/.docs-installed
docs: $(DOCS)
	$(BIN)/sphinx-build -q -W --keep-going -b html -d build/doctrees docs build/docs
	@echo "open build/docs/index.html"

# builds it, and runs the notebooks
test-docs: $(DOCS)
	$(TEST) -m docs --timeout 1200

$(DOCS): $(STAMP)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

check: install
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy

format: install
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

# run after changing pyproject.toml: the versions of a fresh environment become the lock
constraints:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet '.[dev,docs]'
	build/lock/bin/python -m pip freeze --exclude mettle-cache > constraints.txt

clean:
	rm -rf $(VENV) build *.egg-info
