# make sweep   the demo study, end to end, in a virtual environment of its own
# make test    the test suite            make lint   format, lint, types, import arrows
# make test-long   ray up for real, and a sweep that is disturbed all the time: minutes each
# make bench   the speed tables of benchmarks/README.md

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
ARGS ?=

.PHONY: sweep test test-long lint bench install clean

sweep: install
	$(RUN) -m raylab.sweep $(ARGS)

test: install
	$(RUN) -m pytest -n auto -m "not slow and not long" $(ARGS)
	$(RUN) -m pytest -m slow $(ARGS)

test-long: install
	$(RUN) -m pytest -m long $(ARGS)

lint: install
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: install
	$(RUN) -m benchmarks.training
	$(RUN) -m benchmarks.finetuning
	$(RUN) -m benchmarks.data
	$(RUN) -m benchmarks.orchestration
	$(RUN) -m benchmarks.analysis

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs
