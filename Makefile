# fusetune: make setup | run | test | test-full | lint | format | clean
# PYTHON=/path/to/python3.12 chooses the interpreter; `make run ARGS="--once --seconds 60"` hands these to `fusetune serve`.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := setup

PYTHON ?=
ARGS ?=
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check -qq
MODEL := build/resnet50.onnx
SOURCES := service tuner cost_model db bench tests

# A check that any interpreter can run, however old: it prints what is missing and fails.
define CHECK_PYTHON
import sys
version = ".".join(str(n) for n in sys.version_info[:2])
if not (3, 11) <= sys.version_info[:2] < (3, 14):
    sys.exit("fusetune needs Python 3.11, 3.12 or 3.13, and this is " + version + ": " + sys.executable)
try:
    import ensurepip, venv
except ImportError:
    sys.exit("Python " + version + " lacks its venv module; install it with: apt-get install python" + version + "-venv")
endef
export CHECK_PYTHON

.PHONY: setup run test test-full test-setup check-linker lint format clean

setup: check-linker $(VENV)/.installed

check-linker:
	@for tool in cc gcc clang ld; do command -v $$tool >/dev/null && exit 0; done; \
	echo "fusetune needs a linker (cc, gcc, clang or ld) to write kernels; install one with: apt-get install binutils" >&2; exit 1

# The first interpreter that passes wins; if none does, the last complaint is what the user reads.
$(VENV)/bin/python:
	@complaint="no python3 found; install Python 3.11, 3.12 or 3.13, or name one with PYTHON="; chosen=; \
	for python in $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3.13 python3); do \
	  command -v "$$python" >/dev/null || { $(if $(PYTHON),complaint="PYTHON=$(PYTHON) is not a command";) continue; }; \
	  if answer=$$("$$python" -c "$$CHECK_PYTHON" 2>&1); then chosen=$$python; break; fi; complaint=$$answer; \
	done; \
	if [ -z "$$chosen" ]; then echo "$$complaint" >&2; exit 1; fi; \
	"$$chosen" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing fusetune into $(VENV) (about a minute) ..."
	@$(PIP) install -c constraints.txt setuptools
	@$(PIP) install -c constraints.txt --no-build-isolation -e .
	@touch $@
	@echo "Ready: $(VENV)/bin/fusetune"

test-setup: setup $(VENV)/.installed-test

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "Installing what the tests need ..."
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[bench,cluster,test]'
	@touch $@

run: setup $(MODEL)
	@$(VENV)/bin/fusetune serve --demo $(MODEL) --data out --seconds 150 $(ARGS)

# No prerequisite on the installation's stamp: an existing model stays as it is.
$(MODEL): | setup
	@mkdir -p $(@D)
	@$(VENV)/bin/fusetune zoo resnet50 --out $(@D) >/dev/null

lint: test-setup
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/ruff format --check --quiet . || { echo "some files are not formatted: make format" >&2; exit 1; }
	@$(VENV)/bin/mypy --no-error-summary

# Most tests share the cores, a thread each: two that train trees on all cores wait for each other. What measures, and
# what is killed, runs alone. Both run, whatever the first comes to.
define TEST
@status=0; \
OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -m "$(1)not alone" -n 2 || status=$$?; \
$(VENV)/bin/python -m pytest -q -m "$(1)alone" || status=$$?; \
exit $$status
endef

test: lint
	$(call TEST,not slow and )

test-full: lint
	$(call TEST,)

format: test-setup
	@$(VENV)/bin/ruff check --quiet --fix . || true
	@$(VENV)/bin/ruff format --quiet .

clean:
	@rm -rf $(VENV) build out dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
