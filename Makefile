# Every target makes the environment first where it is missing.
PYTHON := .venv/bin/python
EXTRA ?= cpu
DEMO := runs/demo
# Tests that need no Ray run beside those that do (tests/conftest.py).
PARALLEL ?= -n 2 --no-loadscope-reorder
# Where `make submit JOB="jobs/pretrain.py run=s3://…"` goes, by default the end of `ray dashboard`.
ADDRESS ?= http://127.0.0.1:8265

.PHONY: demo test lint docs bench chaos cluster-test submit clean

demo: .venv/ready
	$(PYTHON) -m pipeline.synthetic $(DEMO)/world --files 600 --difficulty 0
	$(PYTHON) jobs/index.py $(DEMO)/world/cuts.csv $(DEMO)
	$(PYTHON) jobs/pretrain.py configs/demo.yaml run=$(DEMO)
	$(PYTHON) jobs/evaluate.py $(DEMO)
	$(PYTHON) jobs/report.py $(DEMO) $(DEMO)/report

test: .venv/ready
	$(PYTHON) -m pytest -m "not cluster and not chaos" --durations=15 $(PARALLEL)

cluster-test: .venv/ready
	$(PYTHON) -m pytest -m cluster

# Whole runs under kills, corruption and storage faults; each schedule is drawn from its seed.
chaos: .venv/ready
	$(PYTHON) -m pytest -m chaos

lint: .venv/ready
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	.venv/bin/lint-imports --no-cache
	$(PYTHON) docs/check.py

# The generated pages, then all pages as a site in build/site.
docs: .venv/docs-ready
	$(PYTHON) docs/reference.py
	$(PYTHON) docs/check.py
	$(PYTHON) -m mkdocs build --quiet --strict

bench: .venv/ready
	$(PYTHON) jobs/reproduce.py runs/study --preset quick

submit: .venv/ready
	$(PYTHON) -m pipeline.runtime.upload .
	RAY_AUTH_MODE=$${RAY_AUTH_MODE:-token} .venv/bin/ray job submit --address $(ADDRESS) --working-dir . -- python $(JOB)

clean:
	rm -rf .venv $(DEMO)

# uv installs the set in a minute; where there is none, a private one is fetched with pip. Compiled
# now, the packages spare every one of Ray's processes seconds (some systems never write bytecode).
.venv/ready: pyproject.toml
	@command -v uv >/dev/null || (python3 -m venv .venv-uv && .venv-uv/bin/pip install --quiet uv)
	PATH="$$PATH:$(CURDIR)/.venv-uv/bin" uv venv --quiet --allow-existing --python ">=3.11,<3.14" .venv
	PATH="$$PATH:$(CURDIR)/.venv-uv/bin" uv pip install --quiet --compile-bytecode --python $(PYTHON) --editable ".[$(EXTRA),test,lint]"
	$(PYTHON) -m compileall -q pipeline
	@touch $@

.venv/docs-ready: .venv/ready
	PATH="$$PATH:$(CURDIR)/.venv-uv/bin" uv pip install --quiet --python $(PYTHON) --editable ".[$(EXTRA),docs]"
	@touch $@
