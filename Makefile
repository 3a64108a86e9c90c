# Everything a new user or developer needs: `make demo` and `make test` work on a fresh machine with Python and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
NNUNET := $(VENV)-nnunet
OLDEST := $(VENV)-oldest
DATA ?= synthetic
DEMO ?= demo
JOBS ?= 2
# Small networks on few cores: one thread a process, JOBS processes.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# What depends on other packages most.
TESTS_OF_OLDEST := tests/data tests/transforms tests/scripts tests/advice tests/inspection tests/bundles/test_handlers.py \
    tests/bundles/test_skin_lesion_runs.py tests/compare/test_report.py tests/compare/test_statistics.py \
    tests/compare/test_conclusions.py $(addprefix tests/losses/,test_region.py test_voxel.py test_lovasz.py test_boundary.py \
    test_compound.py test_components.py engine/test_targets.py engine/test_without_kernels.py)

# Phantoms are easy and small in number, real pictures take the bundle's whole training.
ifeq ($(DATA),synthetic)
DEMO_OPTIONS := --section testing --processes 2 --epochs 10 --override synthetic_cases=300 \
    --override batch_size=10 --override learning_rate=0.002
else
DEMO_OPTIONS := --section validation
endif

.PHONY: demo test test-oldest lint format scripts configs bench bench-gpu pages docs package clean

demo: $(VENV)/.compare
	$(BIN)/python -m monai_lossext compare --bundle bundles/skin_lesion_segmentation \
	    --losses SoftDiceLoss,MatthewsCorrelationLoss --dataset-dir "$(DATA)" --output "$(DEMO)" $(DEMO_OPTIONS)
	rm -rf "$(DEMO)/masks"  # of an earlier demo, which are not written over
	$(BIN)/python -m monai_lossext synthesize "$(DEMO)/phantoms/pictures" --cases 10 --seed 1
	$(BIN)/python -m monai_lossext predict skin_lesion_segmentation "$(DEMO)/phantoms/pictures/ISIC-2017_Training_Data" \
	    "$(DEMO)/masks/pictures" --overlays "$(DEMO)/drawings/pictures"
	$(BIN)/python -m monai_lossext synthesize "$(DEMO)/phantoms/heads" --kind heads --cases 4 --seed 1
	$(BIN)/python -m monai_lossext predict skull_stripping_2d "$(DEMO)/phantoms/heads" "$(DEMO)/masks/heads" \
	    --overlays "$(DEMO)/drawings/heads"

test: $(VENV)/.dev lint
	$(PYTEST)

# The oldest versions that setup.cfg allows. Of old packages new ones warn, which is no error here.
test-oldest: $(OLDEST)/.tests
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n $(JOBS) --dist worksteal -o filterwarnings=default $(TESTS_OF_OLDEST)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --strict monai_lossext/losses

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Inference must run without this package: every bundle carries a copy of what it shares with it.
scripts:
	for bundle in bundles/*; do rm -rf $$bundle/scripts && mkdir $$bundle/scripts && \
	    cp monai_lossext/scripts/*.py $$bundle/scripts || exit; done

# monai.bundle.load and MonaiAlgo look for configs in JSON.
configs: $(VENV)/.compare
	$(BIN)/python -m monai_lossext bundle json bundles/*

# BENCH holds options of benchmarks/losses.py: --quick for a look of minutes in place of hours.
bench: $(VENV)/.dev
	$(BIN)/python benchmarks/hard_cases.py
	$(MAKE) $(NNUNET)/.bench || echo "nnU-Net does not install here: its columns are left out"
	if test -e $(NNUNET)/.bench; then python=$(NNUNET)/bin/python; else python=$(BIN)/python; fi; \
	    $$python benchmarks/losses.py $(BENCH) && \
	    for threads in 1 2; do $$python benchmarks/settings.py --threads $$threads $(filter --quick,$(BENCH)); done
	$(BIN)/python benchmarks/epoch_overhead.py

# One command for a machine with a GPU; BENCH=--quick runs everything in tiny, without a GPU in Triton's interpreter.
bench-gpu: $(VENV)/.dev
	$(BIN)/python benchmarks/gpu.py $(BENCH)

# What the pages show that is not made at every build: outputs of the notebooks, the README's table, the dependencies' licences.
pages: $(VENV)/.dev
	$(BIN)/python docs/run_notebooks.py
	$(BIN)/python docs/readme_table.py
	$(BIN)/python docs/licences.py

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

# A wheel and a copy of the source, in dist/.
package: $(VENV)/.dev
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) $(NNUNET) $(OLDEST) docs/_build docs/generated build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache $(DEMO)

# nnU-Net brings some seventy packages that nothing else here needs.
$(NNUNET)/.bench: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(NNUNET)
	echo '*' > $(NNUNET)/.gitignore
	$(NNUNET)/bin/python -m pip install -q -c constraints.txt -e ".[compare,fast]" kornia psutil nnunetv2==2.8.1
	$(NNUNET)/bin/python -m pip install -q -c constraints.txt exacta==0.0.1a5 || echo "exacta does not install here"
	touch $@

$(VENV)/.compare: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[compare,fast]"
	touch $@

$(VENV)/.dev: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@ $(VENV)/.compare

# pip's own settings may hold constraints of newer versions; uv does not read them.
$(OLDEST)/.tests: setup.cfg constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	echo '*' > $(OLDEST)/.gitignore
	$(OLDEST)/bin/python -m pip install -q uv==0.13.9
	$(OLDEST)/bin/uv pip install -q --python $(OLDEST)/bin/python -c constraints-oldest.txt -e ".[compare,fast,skeletons,tests]"
	touch $@
