# The list of commands; `make` alone prints it. Every command sets up what it needs and can be repeated.

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
PIP := $(BIN)/python -m pip

# What the build backend and maturin set too: the same values, so that cargo's own commands share their compiled crates.
ABOUT_PYTHON = $(shell $(BIN)/python -c 'import sysconfig as s, sys; print(s.get_path("purelib"), "cpython-%d.%d-64bit" % sys.version_info[:2])')
CARGO_ENV = PATH="$(BIN):$$PATH" VIRTUAL_ENV="$(CURDIR)/$(VENV)" PYO3_PYTHON="$(BIN)/python" \
	LIBTORCH_USE_PYTORCH="$(firstword $(ABOUT_PYTHON))/torch" PYO3_ENVIRONMENT_SIGNATURE="$(lastword $(ABOUT_PYTHON))"

.PHONY: help develop
help:  ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 18

develop:  ## build the extension into .venv and use python/ in place: for work on the package
	$(CARGO_ENV) $(BIN)/maturin develop --release

# `make cargo ARGS="test --release --workspace"`: any cargo command in the environment of the build.
.PHONY: cargo
cargo:
	$(CARGO_ENV) cargo $(ARGS)
