# Everything happens in .venv; `make setup` builds it, the other targets do so by themselves.
#
# A GPU wants another build of torch than the pinned one:  make setup TORCH="torch==2.13.0+cu130"
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= torch==2.13.0
NEXTFRAME = .venv/bin/nextframe

.PHONY: setup demo test slow-tests clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	grep -v '^torch==' constraints.txt > .venv/constraints.txt
	.venv/bin/pip install --quiet --disable-pip-version-check "$(TORCH)" --constraint .venv/constraints.txt
	.venv/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint .venv/constraints.txt
	touch $@

demo: setup
	$(NEXTFRAME) demo

test: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses 2

slow-tests: setup
	.venv/bin/python -m pytest -m slow

clean:
	rm -rf .venv runs
