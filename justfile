# Recipes use the environment beside this file, where there is one.
export PATH := justfile_directory() / ".venv" / "bin" + ":" + env("PATH")

# What CI runs; `just --list` shows the rest.
default: lint types test libraries

# A file of tests at a time on each of two cores, those with long tests first, so that neither core waits for the other
test *args="tests/train/networks/test_fused.py tests/train/runs tests/pipeline tests/bench tests":
    python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder --durations=12 {{args}}

# Reading once more without machine code
libraries *args="tests/cache/test_codecs.py tests/cache/test_store.py tests/cache/test_flips.py tests/train/clips/test_stream.py":
    RESACT_MACHINE_CODE=0 python -m pytest --numprocesses=2 {{args}}

# The store's tests with the newest zarr and numcodecs that PyPI has, in place of the pinned ones
newest *args="tests/cache tests/test_packaging.py":
    python -m pip install --quiet --upgrade --no-deps --target .newest zarr numcodecs
    PYTHONPATH=.newest python -m pytest --numprocesses=2 {{args}}

# The tests again, saying which lines and branches they leave out; measuring makes them up to 1.7 times slower
coverage *args="tests": (test "--cov" "--cov-report=term:skip-covered" args)

lint:
    ruff check .
    ruff format --check .
    lint-imports

types:
    mypy

# The command reference and the map of the code, made anew
docs:
    python -m resact.cli.reference

# Every benchmark of prep and of reading; the arguments say on which videos. Results go to benchmarks/results/
bench *args:
    resact bench prep --output benchmarks/results/prep.json {{args}}
    resact bench loader --output benchmarks/results/loader.json {{args}}
    resact bench index --output benchmarks/results/index.json

# The long fault tests (200 kills, 200 flipped bytes), and all tests that draw their input, with new seeds
gauntlet *args:
    RESACT_GAUNTLET=1 python -m pytest -m "faults or drawn" --timeout=7200 {{args}}
