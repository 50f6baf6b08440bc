# The list of commands; `make` alone prints it. Each sets up what it needs, says what it does, and can be repeated.
#
#   PYTHON=python3.12   the Python that .venv is made with (default: the first of 3.10 to 3.13 found);
#                       for `make wheel`, the only one to build for (default: every one found)
#   VENV=.venv-3.12     another virtual environment
#   TORCH=2.13          the torch that it is made with (default: the one in build_backend/torches.py)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

VENV := .venv
PYTHON :=
TORCH := $(shell sed -n 's/^DEFAULT = "\(.*\)"/\1/p' build_backend/torches.py)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
say := @printf '\n==> %s\n'

# The values that the build backend and maturin set too: so cargo's own commands share their compiled crates.
ABOUT_PYTHON = $(shell $(BIN)/python -c \
	'import sysconfig as s, sys; v = sys.version_info; \
	print(s.get_path("purelib") + "/torch", "cp%d%d" % v[:2], "cpython-%d.%d-64bit" % v[:2])')
CARGO_ENV = PATH="$(CURDIR)/$(BIN):$$PATH" VIRTUAL_ENV="$(CURDIR)/$(VENV)" PYO3_PYTHON="$(CURDIR)/$(BIN)/python" \
	LIBTORCH_USE_PYTORCH="$(firstword $(ABOUT_PYTHON))" PYO3_ENVIRONMENT_SIGNATURE="$(lastword $(ABOUT_PYTHON))"
CARGO = $(CARGO_ENV) cargo
BUILD = $(BIN)/python build_backend/make.py
DIST := dist
# What the build backend itself needs: maturin.
REQUIRED = $(shell sed -n '/^requires = /p' pyproject.toml | grep -o '"[^"]*"')
# What cargo is told where the torch of .venv is not the one that torch-sys is written for.
FITTING = $(shell $(BUILD) arguments)
# pip and uv would otherwise take the newest torchvision, and its torch with it.
TORCHVISION = torchvision "torch==$$($(BIN)/python -c 'import importlib.metadata as m; print(m.version("torch"))')"
# The newest wheel for the Python of .venv.
WHEEL = $$(ls -t $(DIST)/rust_diffusion-*-$(word 2,$(ABOUT_PYTHON))-*.whl | head -1)

# What the wheel is made of; a change in any of it builds and installs it anew.
PACKAGE := pyproject.toml Cargo.toml Cargo.lock README.md LICENSE NOTICE \
	$(shell find src python build_backend -type f -not -name '*.so' -not -path '*/__pycache__/*')

# The stamps: what has been done to the virtual environment.
BUILD_TOOLS := $(VENV)/.rust-diffusion-build-tools
INSTALLED := $(VENV)/.rust-diffusion-installed
TEST_TOOLS := $(VENV)/.rust-diffusion-test-tools

.PHONY: help
help:
	@echo 'rust_diffusion: make ...'
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' Makefile | expand -t 18

.PHONY: demo test lint bench bench-inverse bench-quality bench-steps fuzz reliability notebook docs wheel fat-wheel matrix new-torch develop cargo clean

demo: $(INSTALLED)  ## train a small denoiser on phantoms and draw slices, into demo-output/ (some minutes)
	$(say) 'Training on phantoms and sampling; the pictures go to demo-output/'
	$(BIN)/rust-diffusion demo --out demo-output

test: lint  ## lint, the Rust tests, the Python tests and notebooks on the installed wheel
	$(say) 'Rust tests'
	$(CARGO) test $(FITTING) --release --workspace --locked
	$(say) 'Python tests on the installed wheel; the notebooks are among them'
	$(BIN)/python -m pytest tests

lint: $(INSTALLED) $(TEST_TOOLS)  ## formatting, clippy, ruff, mypy, stubtest, cargo deny
	$(say) 'Formatting and lint: Rust'
	cargo fmt --all --check
	$(CARGO) clippy $(FITTING) --release --workspace --all-targets --locked -- -D warnings
	$(say) 'Formatting and lint: Python'
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(say) 'The stubs against the extension that was built'
	$(BIN)/stubtest rust_diffusion._native
	$(say) 'Licences and sources of the Rust dependencies'
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --locked check bans licenses sources; \
	else echo 'Skipped: cargo-deny is not installed (cargo install cargo-deny --locked).'; fi

bench: $(INSTALLED)  ## speed against the peers, into bench-output/
	$(say) 'Benchmark; the table and the plot go to bench-output/'
	$(BIN)/python -m benchmarks --out bench-output
	$(say) "A network of diffusers' beside its own"
	@if $(BIN)/python -c 'import diffusers' 2>/dev/null; then $(BIN)/python -m benchmarks.unet2d; \
	else echo 'Skipped: diffusers is not installed.'; fi
	$(say) "Beside processes that are never done"
	$(BIN)/python -m benchmarks.busy

bench-inverse: $(INSTALLED)  ## restoration: quality, calibration and speed of every method (hours)
	$(say) 'Restoration; the tables and the plot go to bench-output/inverse/'
	$(BIN)/python -m benchmarks.inverse --work speed
	$(BIN)/python -m benchmarks.inverse

bench-quality: $(INSTALLED)  ## what recipes draw after 3, 10, 30 and 60 minutes of training, into bench-output/quality/ (six hours)
	$(say) 'Quality for the minutes; table, numbers and pictures go to bench-output/quality/'
	$(BIN)/python -m benchmarks.quality --out bench-output/quality

bench-steps: $(INSTALLED)  ## every sampler with 5 to 100 calls of the network, into steps-output/ (trains the demonstration twice first)
	$(say) 'Steps against quality; model, table and plot go to steps-output/'
	$(BIN)/python -m benchmarks.steps --out steps-output

fuzz: $(INSTALLED) $(TEST_TOOLS)  ## the property-based tests with at least 20,000 cases (some minutes)
	FUZZ_CASES=3000 $(BIN)/python -m pytest tests/package/test_fuzz.py -o faulthandler_timeout=3600

reliability: $(INSTALLED) $(TEST_TOOLS)  ## kills, full disks, threads, damaged files: the tables, into test-output/ (an hour)
	PYTHONPATH=tests:. $(BIN)/python tests/programs/reliability.py --out test-output/reliability.md

notebook: $(INSTALLED)  ## open the course notebook in JupyterLab
	$(PIP) install --quiet "$(WHEEL)[notebook]" $(TORCHVISION)
	$(BIN)/jupyter lab notebooks/diffusion-models.ipynb

docs: $(INSTALLED)  ## the documentation, into docs/_build/html
	$(PIP) install --quiet "$(WHEEL)[docs]"
	$(BIN)/sphinx-build --fail-on-warning --builder html docs docs/_build/html

wheel: $(BUILD_TOOLS)  ## a wheel in dist/ for each Python found, or for PYTHON=python3.12 only
	@sh build_backend/pythons.sh $(PYTHON) | while read -r python; do \
		version=$$("$$python" -V); \
		if [ "$$version" = "$$($(BIN)/python -V)" ]; then \
			printf '\n==> Wheel for %s, in $(VENV)\n' "$$version"; \
			$(BUILD) wheel $(DIST); \
		else \
			printf '\n==> Wheel for %s, in an environment of its own (brings torch; some minutes)\n' "$$version"; \
			mkdir -p target && echo 'torch==$(TORCH).*' > target/torch.txt; \
			PIP_CONSTRAINT="$(CURDIR)/target/torch.txt" PIP_BUILD_CONSTRAINT="$(CURDIR)/target/torch.txt" \
			CARGO_TARGET_DIR=target/other-pythons "$$python" -m pip --disable-pip-version-check \
				wheel --no-deps --config-settings=maturin.build-args='--compatibility pypi' --wheel-dir $(DIST) .; \
		fi </dev/null; \
	done
	@ls -l $(DIST)/*.whl

fat-wheel: $(BUILD_TOOLS)  ## one wheel for every torch in range, in dist/fat/ (downloads each torch; half an hour)
	$(say) 'A library for each torch, and one wheel of all'
	$(BUILD) fat-wheel

# A shell's loop, not make's: one torch after the other, each in an environment of its own.
matrix:  ## the whole suite beside other torches: make matrix TORCH="2.10 2.13" (3 to 5 GB and half an hour each)
	@for torch in $(TORCH); do \
		printf '\n==> Everything beside torch %s\n' "$$torch"; \
		$(MAKE) test TORCH="$$torch" VENV=".venv-torch-$$torch" DIST="dist/torch-$$torch"; \
	done

new-torch: | $(BIN)/python  ## whether the sources compile for a torch that came out: make new-torch VERSION=2.16
	$(say) 'Downloading torch $(VERSION) alone, and asking the compilers (minutes)'
	$(PIP) install --quiet $(REQUIRED)
	$(BUILD) new-torch $(VERSION)

develop: $(BUILD_TOOLS)  ## for work on the package: compile into python/ and use it in place
	@rm -f $(INSTALLED)
	VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BUILD) develop

cargo: $(BUILD_TOOLS)  ## any cargo command in the environment of the build: make cargo ARGS="test --release"
	$(CARGO) $(firstword $(ARGS)) $(FITTING) $(wordlist 2,99,$(ARGS))

clean:  ## remove what was built; .venv stays
	rm -rf target dist demo-output bench-output steps-output test-output docs/_build docs/notebooks .mypy_cache .ruff_cache .pytest_cache $(INSTALLED)
	rm -rf python/rust_diffusion/engines

$(BIN)/python:
	$(say) 'Making the virtual environment $(VENV)'
	@read -r python < <(sh build_backend/pythons.sh $(PYTHON)) && echo "$$python" && "$$python" -m venv $(VENV)

$(BUILD_TOOLS): pyproject.toml | $(BIN)/python
	$(say) 'Installing torch and maturin into $(VENV) (torch is some 3 GB; the first time takes minutes)'
	@$(PIP) install $(REQUIRED) "torch==$(TORCH).*"
	@touch $@

# The wheel is what people get, so the wheel is what is tested, not the source tree.
$(INSTALLED): $(PACKAGE) | $(BUILD_TOOLS)
	$(say) 'Building the wheel (the first time compiles everything: some minutes)'
	$(BUILD) wheel $(DIST)
	$(say) 'Installing the wheel'
	$(PIP) install --quiet --force-reinstall --no-deps "$(WHEEL)"
	$(PIP) install --quiet "$(WHEEL)"
	@touch $@

$(TEST_TOOLS): pyproject.toml | $(INSTALLED)
	$(say) 'Installing the tools for tests, lint and documentation'
	$(PIP) install --quiet "$(WHEEL)[test,lint,docs]" $(TORCHVISION)
	@touch $@
