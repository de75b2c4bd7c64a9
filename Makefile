.PHONY: help demo demo-full test coverage faults check docs fmt bench lock clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
COMMA := ,
HEADLESS = $(shell sed -n 's/.*"opencv-python-headless==\([0-9.]*\)".*/\1/p' pyproject.toml | head -n 1)
# The locks in requirements/ hold for one Python and platform: equal bytes are promised on the same versions only.
LOCK = $(shell $(PYTHON) -c "import platform as p; print('py311' if (p.python_version()[:5], p.system(), p.machine()) == ('3.11.', 'Linux', 'x86_64') else '')")

# $(call install,LOCK,EXTRAS,OPTIONS): the exact versions of requirements/LOCK-py311.txt, or what pyproject.toml admits.
# EXTRAS may be empty.
define install
	@if [ -n "$(LOCK)" ]; then \
		$(BIN)/pip install -q $(3) --require-hashes -r requirements/$(1)-$(LOCK).txt && \
		$(BIN)/pip install -q $(3) --no-deps --no-build-isolation -e .; \
	else \
		echo "No lock for this Python and platform: the newest versions that pyproject.toml admits are installed."; \
		echo "The bytes of outputs are promised to be equal on the versions of requirements/ only."; \
		$(BIN)/pip install -q $(3) -e '.$(if $(2),[$(2)])'; \
	fi
endef

help:  ## Show this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The demo's packages are compiled when they are imported: it needs a quarter of their modules. Each stamp is one set of
# packages. Where both OpenCV builds end up installed, the headless one is written last:
# they share a folder, and the other needs a display library that servers do not have.
$(VENV)/demo.stamp: pyproject.toml requirements/demo-py311.txt | $(BIN)/python
	$(call install,demo,,--no-compile)
	touch $@

$(VENV)/demo-full.stamp: pyproject.toml requirements/demo-full-py311.txt | $(BIN)/python
	$(call install,demo-full,model$(COMMA)realesrgan)
	$(BIN)/pip install -q --force-reinstall --no-deps opencv-python-headless==$(HEADLESS)
	touch $@

$(VENV)/dev.stamp: pyproject.toml requirements/dev-py311.txt | $(BIN)/python
	$(call install,dev,all)
	$(BIN)/pip install -q --force-reinstall --no-deps opencv-python-headless==$(HEADLESS)
	touch $@

$(VENV)/docs.stamp: pyproject.toml requirements/docs-py311.txt | $(BIN)/python
	$(call install,docs,docs)
	touch $@

# `make check` needs no more than the tests do: the environment is the same.
$(VENV)/lint.stamp: $(VENV)/dev.stamp
	touch $@

demo: $(VENV)/demo.stamp  ## Filter real photos into verified shards and pairs, with a report
	$(BIN)/lucidflux demo

demo-full: $(VENV)/demo-full.stamp  ## The demo with Real-ESRGAN ranked, then train and restore with a tiny model (installs torch)
	$(BIN)/lucidflux demo --full

test: $(VENV)/dev.stamp  ## Run the tests
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

coverage: $(VENV)/dev.stamp  ## Run the tests and hold the share of lines that they reach (half as slow again as `test`)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow" --cov --cov-report=term

faults: $(VENV)/dev.stamp  ## Run every fault scenario and the slow tests, of which `test` runs a part
	LUCIDFLUX_FAULTS=all HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q tests/faults
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -m slow --ignore=tests/faults

check: $(VENV)/lint.stamp  ## Lint, format check, spelling, types, the layout's figures
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/python -m tests.support.layout

docs: $(VENV)/docs.stamp  ## Build the pages of docs/ into site/, as they are read in a browser; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "open site/index.html; with search: $(BIN)/python -m http.server -d site"

fmt: $(VENV)/lint.stamp  ## Format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/dev.stamp  ## Measure throughput (see docs/performance.md)
	$(BIN)/python -m benchmarks.throughput.main filter --images $(IMAGES)

lock:  ## Make the locks of requirements/ again: the newest versions, for the demo the smallest
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python requirements/make_lock.py "" requirements/demo-small.txt > requirements/demo-py311.txt
	$(VENV)-lock/bin/python requirements/make_lock.py model,realesrgan > requirements/demo-full-py311.txt
	$(VENV)-lock/bin/python requirements/make_lock.py cluster,s3,gcs,formats,hub > requirements/cluster-py311.txt
	$(VENV)-lock/bin/python requirements/make_lock.py cluster,s3,gcs,formats,hub,clip,model,networks > requirements/cuda-py311.txt
	$(VENV)-lock/bin/python requirements/make_lock.py docs > requirements/docs-py311.txt
	$(VENV)-lock/bin/python requirements/make_lock.py all > requirements/dev-py311.txt
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) $(VENV)-lock demo site
