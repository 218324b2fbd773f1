# What CI runs; `just --list` shows the rest.
default: lint types test

# A development environment in .venv
setup:
    python3 -m venv .venv
    .venv/bin/pip install -c constraints.txt -e ".[dev]"

test *args:
    python -m pytest --cov --cov-report=term:skip-covered {{args}}

lint:
    ruff check .
    ruff format --check .
    lint-imports

types:
    mypy

# Every benchmark; results go to benchmarks/results/
bench *args:
    resact bench prep --output benchmarks/results/prep.json {{args}}

# The long fault tests: 200 kills, 200 flipped bytes
gauntlet *args:
    RESACT_GAUNTLET=1 python -m pytest -m faults --timeout=7200 {{args}}
