# Every target sets up all that it needs; see CONTRIBUTING.md.
PYTHON ?= python3
BIN := .venv/bin
VERSIONS ?= 1.7.35 2.4.2
PYTHONS ?= 3.12 3.13
export PYTHON

.PHONY: demo test test-versions test-pythons test-kubernetes test-buildkit demo-kubernetes check bench bench-dataplane bench-flash bench-load bench-kubernetes bench-scale chaos crowd drill docs pictures format lock sbom audit protos clean fuzz

demo: ## three nodes on this machine, one image, one node killed in mid-pull, and an image that none has
	.ci/setup run
	$(BIN)/spegel-py demo $(ARGS)

test: ## all tests, three files at a time, since most of them wait; those on real daemons need root
	.ci/setup test
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-versions: ## the tests that touch containerd, on each of VERSIONS instead of the installed one, all at once
	.ci/setup test
	$(MAKE) --jobs --output-sync=target $(VERSIONS:%=test-containerd-%)

test-containerd-%:
	.ci/test-containerd $*

test-pythons: ## the unit and contract tests on each of PYTHONS
	set -e; for version in $(PYTHONS); do .ci/test-python $$version; done

test-kubernetes: ## the chart on a real Kubernetes with three nodes, built with Go; needs root
	.ci/setup test
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/kubernetes $(ARGS)

test-buildkit: ## a BuildKit that is built with Go, and has a node as its mirror; needs root
	.ci/setup test
	$(BIN)/python -m pytest -n 0 tests/buildkit $(ARGS)

demo-kubernetes: ## the demonstration on a real Kubernetes with three nodes, built with Go; needs root
	.ci/setup test
	$(BIN)/python -m tests.kubernetes.demo

check: ## linters, types, layers, prose
	.ci/setup test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.docs.prose
	shellcheck .ci/* deploy/*/*.sh tests/kubernetes/*.sh

bench: ## measure lookups, small requests, idle cost and dead peers: docs/benchmarks/README.md
	.ci/setup test
	$(BIN)/python -m tests.benchmarks $(ARGS)

bench-dataplane: ## blobs beside Spegel (SPEGEL_BIN), Go, nginx and aiohttp, those of them that are here
	.ci/setup test
	$(BIN)/python -m tests.benchmarks.dataplane $(ARGS)

bench-flash: ## crowds of nodes pull an image that nobody has; needs root
	.ci/setup test
	$(BIN)/python -m tests.benchmarks.flash $(ARGS)

bench-load: ## 2,000 clients of one node for ten minutes, beside Spegel (SPEGEL_BIN) if that is here; needs root
	.ci/setup test
	$(BIN)/python -m tests.benchmarks.load $(ARGS)

bench-kubernetes: ## first pulls and rolling restarts on a real Kubernetes, beside no mirror; needs root and Go
	.ci/setup test
	$(BIN)/python -m tests.benchmarks.kubernetes $(ARGS)

bench-scale: ## what a node weighs in clusters of several sizes, beside Spegel (SPEGEL_BIN) if that is here; needs root
	.ci/setup test
	$(BIN)/python -m tests.benchmarks.scale $(ARGS)

chaos: ## break things in the middle of real pulls, and show the results; needs root
	.ci/setup test
	$(BIN)/python -m tests.faults.chaos $(ARGS)

crowd: ## disturb nodes that share an image while they pull it; needs root
	.ci/setup test
	$(BIN)/python -m tests.faults.crowd $(ARGS)

drill: ## break a cluster of six nodes, and check how soon it detects and heals each fault; needs root
	.ci/setup test
	$(BIN)/python -m tests.faults.drill $(ARGS)

fuzz: ## give every parser of bytes from outside inputs that nobody would think of
	.ci/setup test
	$(BIN)/python -m tests.fuzz $(ARGS)

docs: ## write the pages that are made from the program
	.ci/setup test
	$(BIN)/python -m tests.docs.configuration
	$(BIN)/python -m tests.docs.commands
	$(BIN)/python -m tests.docs.metrics
	$(BIN)/python -m tests.docs.events
	$(BIN)/python -m tests.docs.bounds

pictures: ## draw the dashboard from a run of four nodes; needs a Prometheus (PROMETHEUS_BIN)
	.ci/setup test
	$(BIN)/python -m tests.docs.pictures

format: ## rewrite to the house's format
	.ci/setup test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## write requirements.lock and requirements-build.lock, the packages of the image with hashes
	.ci/lock

sbom: ## write build/sbom.cdx.json, the list of the image's packages (CycloneDX)
	.ci/sbom

audit: ## look for known vulnerabilities of the locked packages; asks an advisory service on the internet
	.ci/audit $(ARGS)

protos: ## regenerate the protobuf messages (libp2p wants protobuf < 7, hence an environment of its own)
	$(PYTHON) -m venv build/protoc
	build/protoc/bin/python -m pip install --quiet 'grpcio-tools==1.75.1' 'protobuf<7' 'setuptools<81'
	build/protoc/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. spegel_py/store/containerd/api/*.proto tests/support/cri/*.proto

clean: ## remove what the other targets made
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
