# `make demo` and `make test` do the whole set-up first, in a virtual environment of their own.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/
# What is done, step by step: the library and its demo, all that tests and linters need, torch-scatter,
# what builds the site.
DEMO := $(VENV)/.nngraph-stamp
TOOLS := $(VENV)/.tools-stamp
SCATTER := $(VENV)/.scatter-stamp
DOCS := $(VENV)/.docs-stamp
PIP := $(RUN)python -m pip --disable-pip-version-check

# Small kernels on busy cores run many times slower when idle OpenMP threads spin.
export OMP_WAIT_POLICY ?= passive

# Workers take halves of the list in its order, and then from each other's end, so that what a file
# or a folder prepares is seldom prepared twice. Each holds up to 1 GiB.
WORKERS ?= -n logical --maxprocesses 8 --dist worksteal

.PHONY: help demo test check docs setup scatter clean

help: ## Show the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(DEMO) ## Fit 1,797 networks, train models that read them, and show what they do.
	$(RUN)nngraph demo

test: $(TOOLS) $(SCATTER) ## Run the tests.
	$(RUN)python -m pytest $(WORKERS)

check: $(TOOLS) ## Run the linters, the type checker and the import contracts.
	$(RUN)ruff check .
	$(RUN)mypy
	$(RUN)lint-imports

# Afresh, since a page does not know that a name it describes has moved to another.
docs: $(DOCS) ## Build the site into build/docs; warnings are errors.
	$(RUN)python -m sphinx -q -E -W --keep-going docs build/docs
	@echo build/docs/index.html

setup: $(TOOLS) ## Make or update the virtual environment; no compiler is needed.

scatter: $(SCATTER) ## Build torch-scatter for it; minutes, with a C++ compiler.

$(DEMO): pyproject.toml constraints.txt
	test -x $(RUN)python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt torch -e ".[demo]"
	touch $@

$(TOOLS): $(DEMO)
	$(PIP) install -q -c constraints.txt -e ".[ogb,onnx,train,viz,demo,dev]"
	touch $@

# Compiled against the torch that is there, without build isolation, which would hide it. The wheel is
# not cached, since its name does not say which torch it was built for. It is stripped when it is
# linked: debugging information would only take a third of the compiler's time.
$(SCATTER): $(DEMO)
	$(RUN)python -c "import torch_scatter" 2>/dev/null || { \
	    $(PIP) install -q setuptools wheel ninja && \
	    CFLAGS=-g0 $(PIP) install -q --no-build-isolation --no-cache-dir -c constraints.txt torch-scatter; }
	$(RUN)python -c "import torch_scatter"
	touch $@

$(DOCS): $(DEMO)
	$(PIP) install -q -c constraints.txt -e ".[docs]"
	touch $@

clean: ## Remove the virtual environment, the site and what the demo wrote.
	rm -rf $(VENV) build/docs out
