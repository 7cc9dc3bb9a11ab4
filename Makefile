# The two commands: `make demo` and `make test`. Both set up all that they need.
.PHONY: demo test lint types imports docs wheels image cloudrun-live bench check clean
PYTHON ?= python3
export PYTHON
BIN := .venv/bin

demo:  ## three workers in a throw-away repository, one of them killed and taken up again
	@scripts/setup demo
	@$(BIN)/outpost demo

test:  ## the whole test suite
	@scripts/setup test
	@scripts/test $(ARGS)

lint:
	@scripts/setup test
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types:
	@scripts/setup test
	@$(BIN)/mypy

imports:
	@scripts/setup test
	@$(BIN)/lint-imports

docs:  ## regenerate the references, then build the site into site/
	@scripts/setup test
	@$(BIN)/python scripts/docs.py
	@$(BIN)/mkdocs build --strict

wheels:  ## build every wheel, install only them into an empty environment, run the demo there
	@scripts/setup test
	@scripts/wheels

AGENTS ?= claude codex
image:  ## build the container of workers with AGENTS in it, called TAG
	@scripts/setup demo
	@$(BIN)/outpost image build $(addprefix --agent ,$(AGENTS)) $(if $(TAG),--tag $(TAG))

cloudrun-live:  ## with an account of Google Cloud: prove what only stand-ins have shown
	@scripts/setup test
	@$(BIN)/python -m outpost_cloudrun.testing.live

bench:  ## measure, and write docs/benchmarks.md
	@scripts/setup bench
	@$(BIN)/python -m benchmarks

check: test lint types imports docs wheels

clean:
	rm -rf .venv .cache dist site build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
