# Everything runs in virtual environments inside this folder. The first run of a target downloads what it needs; later
# runs need no network. Choose the interpreter with `make test PYTHON=python3.12`; `make distclean` before changing it.

PYTHON ?= python3
# Each pytest worker loads TensorFlow: about 1 GB of memory.
WORKERS ?= 2
# Options of `make bench`, such as BENCH="--only ratios" or BENCH="--compare innvestigate zennit".
BENCH ?=

# Settings of the user's own pip and Python must not redirect what is installed here.
export PIP_USER = 0
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PYTHONNOUSERSITE = 1
unexport PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX

READY = .venv/.ready
READY_DOCS = .venv/.ready-docs
READY_OLDEST = .venv-oldest/.ready
READY_NIGHTLY = .venv-nightly/.ready
READY_BEAM = .venv-beam/.ready

.DEFAULT_GOAL = help
.PHONY: help demo test coverage lint docs format test-slow test-applications test-kerashub test-oldest test-nightly test-beam bench evaluate clean distclean

help:
	@echo "make demo               train a small network on handwritten digits and explain it: build/demo/digits.png"
	@echo "make test               ruff, mypy and the test suite"
	@echo "make coverage           the test suite, and which lines of the package it does not run: build/coverage/index.html"
	@echo "make test-oldest        the test suite on the lowest versions that pyproject.toml declares"
	@echo "make test-nightly       the test suite on last night's Keras, over the same TensorFlow"
	@echo "make test-beam          the tests of the page about TensorFlow Serving and Apache Beam"
	@echo "make test-slow          the tests that take longer"
	@echo "make test-applications  the tests on the networks of keras.applications"
	@echo "make test-kerashub      the tests on every family of KerasHub; writes docs/kerashub-families.md"
	@echo "make bench              measure what explaining costs, half an hour: benchmarks/results (BENCH=--help for more)"
	@echo "make evaluate           measure every analyzer on problems whose answer is known: docs/evaluation_results.md"
	@echo "make docs               build the documentation: build/docs/index.html"
	@echo "make lint               ruff and mypy;  make format  applies what ruff can mend"
	@echo "make clean              remove what was built;  make distclean  the virtual environments too"

# TensorFlow writes about the machine's hardware to stderr before any setting can stop it. What the demo itself has to
# say there is shown: everything when it fails, otherwise its warnings.
demo: $(READY)
	@mkdir -p build/demo
	@TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python -m revgraph.demo --out build/demo 2>build/demo/stderr.log \
		|| { cat build/demo/stderr.log >&2; exit 1; }
	@grep 'Warning: ' build/demo/stderr.log >&2 || true

test: lint
	.venv/bin/python -m pytest -n $(WORKERS)

coverage: $(READY)
	.venv/bin/python -m pytest -n $(WORKERS) --cov --cov-report=html

test-slow: $(READY)
	.venv/bin/python -m pytest -n $(WORKERS) -m slow

test-applications: $(READY)
	.venv/bin/python -m pytest -m applications

# What the tests find is written to the page of the documentation that lists the families.
test-kerashub: $(READY)
	.venv/bin/python -m pytest -n $(WORKERS) --dist loadgroup -m "kerashub or not kerashub" -p tests.kerashub_table \
		--families docs/kerashub-families.md tests/test_kerashub.py

test-oldest: $(READY_OLDEST)
	.venv-oldest/bin/python -m pytest -n $(WORKERS)

# Last night's Keras changes from day to day, so this needs the network each time, and no CI runs it.
test-nightly: $(READY_NIGHTLY)
	.venv-nightly/bin/python -m pip install --quiet --pre --upgrade keras-nightly
	.venv-nightly/bin/python -m pytest -n $(WORKERS)

test-beam: $(READY_BEAM)
	.venv-beam/bin/python -m pytest -n $(WORKERS) -m "slow or not slow" tests/test_beam_and_serving.py \
		"tests/test_docs.py::test_the_page_runs[docs/beam-and-serving.md]"

docs: $(READY_DOCS)
	@NO_MKDOCS_2_WARNING=1 TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python -m mkdocs build --strict --clean

bench: $(READY)
	.venv/bin/python -m benchmarks $(BENCH)

evaluate: $(READY)
	TF_CPP_MIN_LOG_LEVEL=3 .venv/bin/python -m benchmarks.evaluation --out docs

lint: $(READY)
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m mypy

format: $(READY)
	.venv/bin/python -m ruff check --fix .
	.venv/bin/python -m ruff format .

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-oldest .venv-nightly .venv-beam

# The build backend is installed first and used without isolation, so that a newer pyproject.toml whose requirements
# are already there needs no network either.
define install
	@echo "Setting up $(1): this downloads TensorFlow once and takes a minute or two."
	@$(1)/bin/python -m pip install --quiet "pip>=23" "hatchling>=1.27" \
		&& $(1)/bin/python -m pip install --quiet --no-build-isolation $(2) --editable ".[$(3)]" \
		|| { echo "Installing into $(1) failed. The first set-up needs the network. If pip found no TensorFlow for"; \
		     echo "$$($(1)/bin/python --version), use another one: make distclean, then make PYTHON=python3.12 ..."; exit 1; } >&2
	@touch $(1)/.ready
endef

define venv
	@command -v "$(PYTHON)" >/dev/null \
		|| { echo "No '$(PYTHON)' found. Install Python 3.10 or newer, or name one: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "revgraph needs Python 3.10 or newer, '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1). Name a newer one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "'$(PYTHON)' has no venv module. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	@"$(PYTHON)" -m venv $(1)
endef

$(READY): pyproject.toml
	$(call venv,.venv)
	$(call install,.venv,,dev)

# keras-nightly is the package `keras` by another name, so Keras makes room for it; `make test-nightly` installs it.
$(READY_NIGHTLY): pyproject.toml
	$(call venv,.venv-nightly)
	$(call install,.venv-nightly,,dev)
	@.venv-nightly/bin/python -m pip uninstall --quiet --yes keras keras-nightly

# Apache Beam needs a protobuf that is older than the one that TensorFlow takes, so it has an environment of its own.
$(READY_BEAM): pyproject.toml
	$(call venv,.venv-beam)
	$(call install,.venv-beam,"apache-beam>=2.77" "tensorflow-serving-api>=2.21",test)

$(READY_DOCS): $(READY)
	@.venv/bin/python -m pip install --quiet --no-build-isolation --editable ".[docs]"
	@touch $@

# The first interpreter that TensorFlow 2.18 has a release for.
$(READY_OLDEST): pyproject.toml constraints-oldest.txt
	@for python in "$(PYTHON)" python3.12 python3.11 python3.10; do \
		"$$python" -c 'import sys, ensurepip, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null \
			&& exec "$$python" -m venv .venv-oldest; \
	done; \
	echo "TensorFlow 2.18, the lowest version revgraph supports, runs on Python 3.10 to 3.12 only, and none of them was" >&2; \
	echo "found with its venv module ('$(PYTHON)' is $$("$(PYTHON)" --version 2>&1)). Name one: make test-oldest PYTHON=/path/to/python3.12" >&2; \
	exit 1
	$(call install,.venv-oldest,--constraint constraints-oldest.txt,test)
