# Everything a new user or developer needs: `make demo` and `make test` work on a fresh machine with Python and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATA ?= synthetic
DEMO ?= demo
JOBS ?= 2
# Small networks on few cores: one thread a process, JOBS processes.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# Phantoms are easy and small in number, real pictures take the bundle's whole training.
ifeq ($(DATA),synthetic)
DEMO_OPTIONS := --section testing --epochs 24 --override synthetic_cases=500 --override batch_size=10 \
    --override learning_rate=0.002
else
DEMO_OPTIONS := --section validation
endif

.PHONY: demo test lint format bench docs clean

demo: $(VENV)/.compare
	$(BIN)/python -m monai_lossext compare --bundle bundles/skin_lesion_segmentation \
	    --losses SoftDiceLoss,MatthewsCorrelationLoss --dataset-dir "$(DATA)" --output "$(DEMO)" $(DEMO_OPTIONS)

test: $(VENV)/.dev lint
	$(PYTEST)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --strict monai_lossext/losses

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/hard_cases.py
	$(BIN)/python benchmarks/loss_cost.py
	$(BIN)/python benchmarks/epoch_overhead.py

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf $(VENV) docs/_build docs/generated build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache $(DEMO)

$(VENV)/.compare: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[compare]"
	touch $@

$(VENV)/.dev: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/.compare
