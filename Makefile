# make study | report | test | test-slow | figures | bench | setup | lab | lock    PRESET=smoke|laptop|cfp|real-faces|paper  FACES=folder  IMAGENET=file
# FACES: a folder with one folder of images per subject; results go to results/PRESET-NAME.
PRESET ?= laptop
FACES ?=
IMAGENET ?=
PYTHON ?= python3

# An activated virtual or conda environment is used (conda's base does not count); else .venv is made.
ifneq ($(VIRTUAL_ENV),)
  ENVIRONMENT := $(VIRTUAL_ENV)
  INSTALL := -r requirements.lock
else ifneq ($(filter-out base,$(CONDA_DEFAULT_ENV)),)
  ENVIRONMENT := $(CONDA_PREFIX)
  INSTALL := .[test]
else
  ENVIRONMENT := .venv
  INSTALL := -r requirements.lock
endif
BIN := $(ENVIRONMENT)/bin
RECENT := 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"facelib needs Python 3.11 or newer, found {sys.version.split()[0]}; name one with make PYTHON=...")'
STAMP := $(ENVIRONMENT)/.facelib-is-set-up

# As many as torch takes by itself, which is what the notebooks take in JupyterLab.
THREADS = $$($(BIN)/python -c 'import torch; print(torch.get_num_threads())')

.PHONY: study report test test-slow figures setup lab lock bench
.DELETE_ON_ERROR:

# Two parts are computed at once, with half of the processors each: one part gains less from the other half than another part does.
study: setup
	threads=$(THREADS); each=$$(( (threads + 1) / 2 )); \
	$(BIN)/python -m snakemake --cores $$threads --set-threads baseline=$$each pruning=$$each retraining=$$each arm=$$each network=$$each --config preset='$(PRESET)' $(if $(FACES),faces='$(FACES)') $(if $(IMAGENET),imagenet='$(IMAGENET)')
	@echo "Tables and figures: results/; to read: build/report/index.html"

report: setup
	$(BIN)/python -m facelib.report

test: setup
	$(BIN)/python -m pytest

test-slow: setup
	$(BIN)/python -m pytest -m "slow or not slow"

bench: setup
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done
	$(BIN)/python benchmarks/pruning.py throughput --threads 1

figures: setup
	$(BIN)/python -m facelib.figures results

lab: setup
	$(BIN)/jupyter lab notebooks

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml | $(BIN)/python
	@$(BIN)/python -c $(RECENT)
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip install --quiet $(INSTALL)
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c $(RECENT)
	$(PYTHON) -m venv $(ENVIRONMENT)

# Pins every package of pyproject.toml's ranges. What torch itself pins (CUDA libraries) is left to torch, so that its
# CPU-only build can be put in its place.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --extra test --no-header --no-annotate pyproject.toml \
	  | grep -vE '^(nvidia|cuda|triton)' > requirements.lock
