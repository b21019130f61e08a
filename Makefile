# Everything runs in .venv, but training in .venv-train; setup_env.py makes both, and PYTHON is only
# what starts it.
PYTHON ?= python3
BIN := .venv/bin
# The last place is optional data beside the checkout.
MODELS = $(wildcard models/*.onnx) $(wildcard models/zoo/*.onnx) $(wildcard ../shared/data/cryptofacenet4/*.onnx)
# Extra arguments of pytest: make test ARGS='-m "not full_size"'
ARGS ?=
# The tests that need torch are those that ask for it (-z: also across a line break).
ASKS_FOR_TORCH := (?m)^\s*(\w+ = )?pytest\.importorskip.\s*"torch\b
TORCH_TESTS = $(shell grep -rlzP --include='test_*.py' '$(ASKS_FOR_TORCH)' tests | sort)

.PHONY: help setup setup-train demo test test-train lint check clean

help:
	@echo "make demo    compile a small network and run it encrypted"
	@echo "make test    run the tests             (ARGS='-m \"not full_size\"' for the quick ones)"
	@echo "make test-train"
	@echo "             run the tests that need torch"
	@echo "make lint    ruff and mypy"
	@echo "make check   hold every model to its budget in models/budgets.toml"
	@echo "make clean   remove .venv, .venv-train and caches"

setup:
	@$(PYTHON) setup_env.py

setup-train:
	@$(PYTHON) setup_env.py --train

demo: setup
	@$(BIN)/python -m models.demo

test: setup
	$(BIN)/python -m pytest $(ARGS)

test-train: setup-train
	@if [ -z "$(TORCH_TESTS)" ]; then echo "test-train: no tests that need torch" >&2; exit 1; fi
	.venv-train/bin/python -m pytest $(TORCH_TESTS) $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: setup
	@if [ ! -e models/budgets.toml ]; then echo "check: models/budgets.toml is not there, nothing to hold models to"; exit 0; fi; \
	if [ -z "$(strip $(MODELS))" ]; then echo "check: no models to check" >&2; exit 1; fi; \
	failed=0; \
	for model in $(MODELS); do \
		$(BIN)/python -m fhecompile.cli check --budget models/budgets.toml "$$model" || failed=1; \
	done; \
	exit $$failed

clean:
	rm -rf .venv .venv-train build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
