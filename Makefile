# Two commands do everything on a fresh Linux machine with Python 3.11 or 3.12 and pip: `make demo` and `make test`.
# They bring uv where it is missing, then every library in the versions of uv.lock; Java 17 is the system's or comes as a wheel.
# The tests build the jars as well, and bring Maven, a Java compiler and redis-server where they are missing and apt-get may be used.

.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
RUN := $(UV) run --no-sync
export PATH := $(CURDIR)/.tools/bin:$(PATH)

help: ## What there is to do
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

setup: .venv/.ready ## Install uv if missing, and everything that uv.lock names

demo: setup ## The whole product on MovieLens 100K, in a few minutes; the report is demo/report/report.html
	$(RUN) uic demo

jars: infra/jars/.ready ## The batched plan's jar, Kafka for Flink and a Kafka broker, by Maven

redis: ## redis-server for the tests, by apt-get where it is missing
	@infra/install_redis.sh

test: setup jars redis ## Everything that must hold: style, types, layers, tests
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target types style layers
	$(RUN) pytest -n 2 --dist loadfile --no-loadscope-reorder

types: setup
	$(RUN) mypy

style: setup
	$(RUN) ruff check .
	$(RUN) ruff format --check .

layers: setup
	$(RUN) lint-imports

quick: setup redis ## The tests that need no Flink and no network, for while you work
	$(RUN) pytest --ignore tests/scenarios --ignore tests/stream

clean: ## Remove what the commands above have made, but for the demo
	rm -rf .venv .tools infra/jars target .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/.ready: uv.lock pyproject.toml | $(if $(findstring .tools,$(UV)),.tools/bin/uv)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
		{ echo "$(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.11 or 3.12 is needed. Name one: make PYTHON=python3.11 ..." >&2; exit 1; }
	@free_kb=$$(df -Pk . | awk 'NR == 2 { print $$4 }'); if [ "$$free_kb" -lt 12000000 ]; then \
		echo "$(CURDIR): $$((free_kb / 1000000)) GB free; the libraries need 12 GB (PyTorch comes with CUDA on Linux)" >&2; exit 1; fi
	@$(UV) sync --locked --all-extras --python $(PYTHON) || \
		{ echo "The libraries could not be installed. Is PyPI reachable from here? Everything comes from there." >&2; exit 1; }
	@touch $@

# Folders too: a source that was removed changes nothing but its folder.
infra/jars/.ready: infra/pom.xml infra/broker/pom.xml operators/java/pom.xml infra/build_jars.sh $(shell find operators/java/src)
	@infra/build_jars.sh

.tools/bin/uv:
	@$(PYTHON) -m pip --version > /dev/null 2>&1 || \
		{ echo "$(PYTHON) has no pip, which brings everything else; on Debian: apt-get install python3-pip" >&2; exit 1; }
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --target .tools uv || \
		{ echo "uv could not be installed. Is PyPI reachable from here?" >&2; exit 1; }

.PHONY: help setup demo jars redis test types style layers quick clean
