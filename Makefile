# Everything a person or CI runs. Needs Python 3.11 or newer and make; the rest sets itself up in .venv on first use.
#
# .venv is rebuilt when what it was made from changes: the stamp's name is a checksum of those files.

SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.ONESHELL:
.SUFFIXES:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN  := .venv/bin
FROM := $(shell cat pyproject.toml constraints.txt scripts/* | cksum | cut -d' ' -f1)
RUN  := .venv/stamp-run-$(FROM)
DEV  := .venv/stamp-dev-$(FROM)

# -qq: silent but for errors.
PIP := $(BIN)/python -m pip install -qq --no-input --disable-pip-version-check --root-user-action=ignore -c constraints.txt

N ?=
SEED ?=
ONLY ?=
DRIVER ?=
ARCHIVE ?=
T ?=

.PHONY: help demo test check lint format bench bench-disk clean

help:  ## this list
	@sed -n 's/^\([a-z%-]*\):.*##  *\(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do
		printf '  make %-12s %s\n' "$$name" "$$text"
	done

demo: $(RUN)  ## import, mount, change and export one root file system (ARCHIVE=rootfs.tar.gz for one of yours)
	@$(BIN)/python examples/demo.py $(if $(ARCHIVE),"$(ARCHIVE)")

test: $(DEV)  ## the whole quick suite (T="tests/unit -k name" for a part)
	@$(BIN)/pytest -n 2 --dist worksteal -rfEs $(T)

check: $(DEV) lint  ## what a change must pass, and what CI runs: format, lint, types, import rule, tests
	@$(BIN)/mypy --no-error-summary
	@$(MAKE) test

lint: $(DEV)  ## the quick part of check: format, lint, import rule
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/pytest -p no:xdist --no-header --no-summary -qq tests/unit/test_imports.py

format: $(DEV)  ## put the source into its format, mend what can be mended
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

bench: $(RUN)  ## orlop beside containers-storage, most of an hour (N=repeats, ONLY="words of rows", DRIVER=overlay)
	@$(BIN)/python bench/run.py $(if $(N),--repeats $(N)) $(if $(ONLY),--only "$(ONLY)") $(if $(DRIVER),--driver $(DRIVER))
	$(if $(ONLY)$(DRIVER),,$(BIN)/python bench/disk.py)

bench-disk: $(RUN)  ## the end of that: check, usage, garbage and deduplication of large stores, a few minutes and 3 GB
	@$(BIN)/python bench/disk.py

deep-%: $(DEV)  ## a long suite by name, for example deep-crash (N=amount, SEED=where it begins)
	@files=$$(grep -ls 'mark\.deep' tests/*/*$*.py tests/*/*$*_*.py tests/$*/*.py 2>/dev/null | sort -u)
	if [ -z "$$files" ]; then
		echo "make deep-$*: no file of tests marked deep has \"$*\" in its name; those that there are:" >&2
		grep -ls 'mark\.deep' tests/*/*.py >&2 || echo "(none)" >&2
		exit 2
	fi
	N='$(N)' SEED='$(SEED)' $(BIN)/pytest -p no:xdist -m deep -rfEs $$files

clean:  ## remove .venv, caches and benchmark archives
	@rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN): | .venv/bin/python
	@$(PIP) -e .
	rm -f .venv/stamp-run-* && touch $@

$(DEV): | .venv/bin/python
	@$(PIP) -e '.[dev]'
	rm -f .venv/stamp-* && touch $@ $(RUN)

# The interpreter: PYTHON=... if given, else the first of these that is new enough. A shim is asked for the real one.
.venv/bin/python:
	@for python in $${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3}; do
		real=$$("$$python" -c 'import sys; print(sys.executable) if sys.version_info >= (3, 11) else sys.exit(1)' 2>/dev/null) && break
		real=
	done
	if [ -z "$$real" ]; then
		echo "orlop needs Python 3.11 or newer, and $${PYTHON:-python3} is $$("$${PYTHON:-python3}" -V 2>&1 || true)." >&2
		echo "Install one, or name it:  make PYTHON=/path/to/python3.12 ..." >&2
		exit 1
	fi
	if ! "$$real" -c 'import ensurepip, venv' 2>/dev/null; then
		echo "$$real cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2
		exit 1
	fi
	echo "setting up .venv with $$("$$real" -V) (first use)" >&2
	rm -rf .venv
	"$$real" -m venv .venv
