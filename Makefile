# Everything runs in .venv, made from nothing but python3 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Containers like to set this; torch, compiled anew, then takes twice as long to load, every time.
unexport PYTHONDONTWRITEBYTECODE
# What commands load, compiled once. All that is installed would take pip over a minute.
COMPILED := import torch.export, onnx, onnxruntime, openvino, cv2, av, fastapi, uvicorn, matplotlib.pyplot, fvcore.nn, stdeploy.cli.main

.PHONY: help install check test test-all coverage docs demo study gpu-check lock clean

help:
	@echo "make install    everything into .venv"
	@echo "make demo       the whole chain on real weights and a real video (5 to 8 minutes)"
	@echo "make study      train the starter model with and without temporal filters"
	@echo "make check      ruff (lint, format) and mypy strict"
	@echo "make test       the tests but for the slow ones"
	@echo "make test-all   all tests (make coverage: which lines they run)"
	@echo "make docs       the manual into site/ (open site/index.html); fails on a broken link"
	@echo "make lock       the packages of make install and of the images anew, the newest of each"
	@echo "make gpu-check  tests and benchmarks on a GPU, 8 minutes, into docs/benchmarks/gpu"

install: $(VENV)/installed

# The versions that were tested, for every Python and system (`make lock`). Where one of them is not
# to be had, the newest that fit will do.
LOCKED := requirements/dev.txt
$(VENV)/installed: pyproject.toml $(LOCKED)
	@echo "installing into $(VENV): some 2.5 GB, a few minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --constraint $(LOCKED) --editable '.[dev]' || { \
		echo "not with the versions of $(LOCKED); taking the newest that fit" && \
		$(BIN)/pip install --quiet --no-compile --editable '.[dev]'; }
	@$(BIN)/python -c "$(COMPILED)" 2>/dev/null || true  # doctor says what does not load, and why
	@touch $@
	@echo "installed; next: source $(BIN)/activate, then stdeploy doctor"

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two at a time, whole files, so that a file's artifacts are made once, and the longest first. One
# thread each: threads of torch that wait for each other starve where others work too. A test that
# hangs is stopped, and shows where. Apart: the backends, whose libraries (TensorRT-RTX, OpenVINO)
# stay loaded, from what starts many processes of its own. A process that has trained with workers,
# then run OpenVINO, dies of a segmentation fault when it starts the next process; so tests that
# open OpenVINO belong to these.
BACKENDS := tests/docs tests/bench tests/cli tests/backends tests/serve tests/install tests/export tests/test_front_door.py tests/analysis tests/gpu
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile \
	--no-loadscope-reorder --timeout 1200 --timeout-method thread
test: install
	$(PYTEST) -m 'not slow' $(BACKENDS)
	$(PYTEST) -m 'not slow' $(BACKENDS:%=--ignore=%)

test-all: install
	$(PYTEST) $(BACKENDS)
	$(PYTEST) $(BACKENDS:%=--ignore=%)

# Apart from `test`: tracing lines costs half as much again.
coverage: install
	$(BIN)/pytest --cov=stdeploy --cov-report=term:skip-covered

# The variable switches off a notice of the theme about other programs.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "the manual: site/index.html"

# The starter model beside the same network without temporal filters.
study: install
	mkdir -p demo
	cd demo && ../$(BIN)/stdeploy train --recipe starter
	cd demo && ../$(BIN)/stdeploy train --recipe starter --temporal-lengths 1,1,1,1,1

demo: install
	$(BIN)/python docs/demo.py

# Which packages `make install` takes, for any Python and system; and the images, by version and
# hash: for Python 3.12 on x86_64, as serve/Dockerfile.
COMPILE = $(BIN)/uv pip compile --quiet --upgrade --custom-compile-command 'make lock'
LOCK = $(COMPILE) --generate-hashes --only-binary :all: \
	--python-version 3.12 --python-platform x86_64-manylinux_2_28
lock: install
	$(BIN)/pip install --quiet uv
	$(COMPILE) --universal --python-version 3.11 --no-annotate --extra dev -o $(LOCKED) pyproject.toml
	$(LOCK) --extra cpu --extra openvino --extra serve --extra pyav -o serve/requirements/cpu.txt pyproject.toml
	$(LOCK) --extra gpu --extra serve --extra pyav -o serve/requirements/gpu.txt pyproject.toml
	echo 'setuptools>=77' | $(LOCK) -o serve/requirements/build.txt -

# Without `install`: a GPU host may have no network and its own Python with torch for CUDA.
# MINUTES=4 ends it in time, and the next call goes on; REHEARSAL=1 tries all of it on a CPU.
gpu-check:
	PYTHONPATH="$(CURDIR):$$PYTHONPATH" \
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu_check \
	$(if $(REHEARSAL),--rehearsal) $(if $(MINUTES),--minutes $(MINUTES))

clean:
	rm -rf $(VENV) demo site build *.egg-info .mypy_cache .pytest_cache .ruff_cache .coverage
