# make demo | make test need nothing but Python >= 3.11 and make. PYTHON= chooses the interpreter.
PYTHON ?= python3
comma := ,
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
KERNELS := musicgen/model/decoder/kernels

# Compiled once, where a process first meets it, torch, Ray and Prefect are imported twice as fast as when each compiles them.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test test-slow lint bench gpu chaos clean

setup: $(STAMP)

define install
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "musicgen-batch needs Python 3.11 or newer; this is $$($(PYTHON) --version). Say which: make PYTHON=python3.12" >&2; exit 2; }
@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
@echo "Installing musicgen-batch into $(VENV) (once; two to four minutes) ..."
@$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.$(1)'
endef

$(STAMP): pyproject.toml constraints.txt
	$(call install,[datasets$(comma)listen])
	@touch $(STAMP)

# What tests and linters need on top; the demo does without.
$(DEV): pyproject.toml constraints.txt
	$(call install,[test$(comma)lint])
	@touch $(STAMP) $(DEV)

demo: $(STAMP)
	@$(BIN)/musicgen run configs/jobs/demo.yaml
	@$(BIN)/musicgen listen out/demo

test: $(DEV)
	@$(BIN)/python -m pytest

test-slow: $(DEV)
	@$(BIN)/python -m pytest -n 0 -m slow

lint: $(DEV)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/clang-format --dry-run --Werror --style=file:$(KERNELS)/.clang-format \
	  $(KERNELS)/*.h $(KERNELS)/*.cpp tests/musicgen/model/*.cpp
	@$(BIN)/hadolint infra/Dockerfile
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(DEV)
	@$(BIN)/python -m tests.benchmarks --out out/bench.json

# Checks and measures the CUDA path on this machine's GPU; it takes minutes and no network. GPU= passes options on, such as
# GPU='--device cpu --tiny', a rehearsal.
gpu: $(DEV)
	@$(BIN)/python -m tests.gpu --out out/gpu.json $(GPU)

# Schedules of faults (tests/faults): make chaos SEEDS=1..100, SEED=7 replays one, FRESH=1 runs again what has a result
# in out/chaos, SOAK=3600 is one run of an hour with a fault a minute.
SEEDS ?= 1..100
chaos: $(DEV)
	@$(BIN)/python -m tests.faults --seeds $(or $(SEED),$(SEEDS)) $(if $(or $(FRESH),$(SEED)),--fresh) \
	  $(if $(SOAK),--soak $(SOAK))

clean:
	rm -rf $(VENV) out build *.egg-info
