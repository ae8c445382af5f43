# Corral's commands for people who build it. `make demo` and `make test` set up everything they need.

.PHONY: setup install uninstall demo test test-slow lint bench format golden acpi clean

# Where `make install` puts the program: PREFIX/bin/corral, with its libraries in PREFIX/lib/corral.
PREFIX ?= /usr/local

setup:
	@scripts/setup.sh

# For this whole host, with systemd's units for the system's daemon and each user's; uninstall leaves machines alone.
install:
	@scripts/install.sh install $(PREFIX)

uninstall:
	@scripts/install.sh uninstall $(PREFIX)

demo: setup
	@.venv/bin/python examples/demo.py

# A guest in emulation may miss a deadline on a busy machine: what fails is tried once more, and the report says so.
test: lint
	.venv/bin/python -m pytest -m "not slow" --reruns 1 --tb=native

test-slow: test-setup
	.venv/bin/python -m pytest -m slow --timeout=3600 --tb=native

bench: test-setup
	.venv/bin/python -m bench
	.venv/bin/python -m bench.sleep
	.venv/bin/python -m bench.cpus
	.venv/bin/python -m bench.usb

lint: test-setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

.PHONY: test-setup
test-setup: setup
	@scripts/setup.sh test

format:
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

# Expected plans and completed documents beside their tests; read the difference before committing it.
golden:
	CORRAL_UPDATE_GOLDEN=1 .venv/bin/python -m pytest -q tests/qemu -k golden

# The ACPI table by which a guest mends its chipset after a sleep (iasl is in acpica-tools).
acpi:
	iasl -p src/corral/qemu/data/wake src/corral/qemu/data/wake.asl

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
