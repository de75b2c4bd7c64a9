.PHONY: help demo test check fmt bench clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HEADLESS = $(shell sed -n 's/.*"opencv-python-headless==\([0-9.]*\)".*/\1/p' pyproject.toml | head -n 1)

help:  ## Show this
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Each stamp is one set of extras. Where both OpenCV builds end up installed, the headless one is written last:
# they share a folder, and the other needs a display library that servers do not have.
$(VENV)/demo.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/pip install -q -e '.[demo,model]'
	touch $@

$(VENV)/dev.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/pip install -q -e '.[all]'
	$(BIN)/pip install -q --force-reinstall --no-deps opencv-python-headless==$(HEADLESS)
	touch $@

$(VENV)/lint.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/pip install -q -e '.[dev,demo]'
	touch $@

demo: $(VENV)/demo.stamp  ## Filter real photos into verified shards and pairs, with a report
	$(BIN)/lucidflux demo

test: $(VENV)/dev.stamp  ## Run the tests
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not alone"
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -m alone

check: $(VENV)/lint.stamp  ## Lint, format check, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

fmt: $(VENV)/lint.stamp  ## Format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/dev.stamp  ## Measure throughput (see docs/performance.md)
	$(BIN)/python -m benchmarks.throughput.main filter --images $(IMAGES)

clean:
	rm -rf $(VENV) demo
