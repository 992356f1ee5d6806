# `make demo` and `make test` do the whole set-up first, in a virtual environment of their own.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/
STAMP := $(VENV)/.nngraph-stamp
PIP := $(RUN)python -m pip --disable-pip-version-check

# Small kernels on busy cores run many times slower when idle OpenMP threads spin.
export OMP_WAIT_POLICY ?= passive

# Workers take halves of the list in its order, and then from each other's end, so that what a file
# or a folder prepares is seldom prepared twice. Each holds up to 1 GiB.
WORKERS ?= -n logical --maxprocesses 8 --dist worksteal

.PHONY: help demo test check setup clean

help: ## Show the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup ## Fit 1,797 networks, train models that read them, and show what they do.
	$(RUN)nngraph demo

test: setup ## Run the tests.
	$(RUN)python -m pytest $(WORKERS)

check: setup ## Run the linters, the type checker and the import contracts.
	$(RUN)ruff check .
	$(RUN)mypy
	$(RUN)lint-imports

setup: $(STAMP) ## Make or update the virtual environment.

# torch comes first: torch-scatter is compiled against it, without build isolation, which would hide
# it. The wheel is not cached, since its name does not say which torch it was built for.
$(STAMP): pyproject.toml constraints.txt
	test -x $(RUN)python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt torch setuptools wheel ninja
	$(RUN)python -c "import torch_scatter" 2>/dev/null || \
	    $(PIP) install -q --no-build-isolation --no-cache-dir -c constraints.txt torch-scatter
	$(PIP) install -q -c constraints.txt -e ".[scatter,ogb,onnx,train,viz,demo,dev]"
	$(RUN)python -c "import torch_scatter, nngraph, converters"
	touch $@

clean: ## Remove the virtual environment and what the demo wrote.
	rm -rf $(VENV) out
