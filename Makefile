# Every target sets up what it needs; see README.md.
PYTHON ?= python3
BIN := .venv/bin
VERSIONS ?= 1.7.35 2.4.2
export PYTHON

.PHONY: demo test test-versions check bench bench-dataplane chaos format protos clean

demo: ## three nodes on this machine, one image, one node killed in mid-pull
	.ci/setup run
	$(BIN)/spegel-py demo $(ARGS)

test: ## all tests; those on real daemons need root
	.ci/setup test
	$(BIN)/python -m pytest $(ARGS)

test-versions: ## the tests that touch containerd, on each of VERSIONS instead of the installed one, all at once
	.ci/setup test
	$(MAKE) --jobs --output-sync=target $(VERSIONS:%=test-containerd-%)

test-containerd-%:
	.ci/test-containerd $*

check: ## linters, types, layers
	.ci/setup test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	shellcheck .ci/*

bench: ## measure what the README states
	.ci/setup test
	$(BIN)/python -m tests.benchmarks $(ARGS)

bench-dataplane: ## blobs beside Spegel (SPEGEL_BIN), Go, nginx and aiohttp, those of them that are here
	.ci/setup test
	$(BIN)/python -m tests.benchmarks.dataplane $(ARGS)

chaos: ## break things in the middle of real pulls, and say what became of those; needs root
	.ci/setup test
	$(BIN)/python -m tests.chaos $(ARGS)

format: ## rewrite to the house's format
	.ci/setup test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

protos: ## regenerate the protobuf messages (libp2p wants protobuf < 7, hence an environment of its own)
	$(PYTHON) -m venv build/protoc
	build/protoc/bin/python -m pip install --quiet 'grpcio-tools==1.75.1' 'protobuf<7' 'setuptools<81'
	build/protoc/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. spegel_py/store/containerd/api/*.proto tests/cri/*.proto

clean: ## remove what the other targets made
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
