# Everything runs in .venv, made from nothing but python3 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help install check test demo gpu-check clean

help:
	@echo "make install    everything into .venv"
	@echo "make demo       the whole chain on real weights and a real video (about 5 minutes)"
	@echo "make check      ruff (lint, format) and mypy strict"
	@echo "make test       the tests, with coverage"
	@echo "make gpu-check  the tests that need an NVIDIA GPU; fails if one is skipped"

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --editable '.[dev]'
	@touch $@

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: install
	$(BIN)/pytest --cov=stdeploy --cov-report=term:skip-covered

demo: install
	$(BIN)/python docs/demo.py

gpu-check: install
	STDEPLOY_REQUIRE_GPU=1 $(BIN)/pytest tests/gpu

clean:
	rm -rf $(VENV) demo build *.egg-info .mypy_cache .pytest_cache .ruff_cache .coverage
