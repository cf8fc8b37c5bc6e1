# One file of commands. Each sets up .venv first, once; remove .venv to set up anew.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
QUICK ?=
SECONDS ?= 60
SEED ?= 1

# tests start hundreds of processes, and each would compile every module anew
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup verify verify-cases verify-properties test lint types contracts tests tests-engine tests-ports tests-rest shaped checked wheel docs demo bench fuzz clean lm-eval

setup: $(VENV)/.done

$(VENV)/.done: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "Python 3.11 to 3.13 is needed; name one with PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[peft,jax,plot,mpi,dev]"
	touch $@

verify: setup
	$(VENV)/bin/seft verify

# Two jobs for two cores: with three each takes more processor time. The kit begins last, when the loops are compiled. Of
# its backends one is left out: the suite runs every layer and rule on `strict` already. The other two answer every case,
# and NumPy a few examples of every property, the same in every run: `make verify` asks all three more of them, and draws
# others each time.
# Every job has one thread: threads that wait spin on a core that another job needs. Tests about threads ask for two.
test: lint
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(MAKE) -j2 tests-rest tests-engine tests-ports checked wheel shaped types contracts verify-properties verify-cases

verify-properties: setup
	$(VENV)/bin/seft verify --backend numpy --examples 5 --seed 1

verify-cases: setup
	$(VENV)/bin/seft verify --backend numba --examples 0

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: setup
	$(PY) -m mypy

contracts: setup
	$(VENV)/bin/lint-imports

SHAPED := $(addprefix tests/seft_ref/,test_pairs.py test_model_torch.py test_gptq_torch.py)
LOOPS := $(addprefix tests/kernels/,test_kernels.py test_transposed.py test_turned.py test_token.py test_coded.py test_exceeding.py test_bounds.py) $(addprefix tests/seft_ref/,test_compact.py test_sorted.py)

# Three processes, of which none is long: what a core has left at the end is little. A process collects and imports only
# what it runs. The rest has benchmarks last, because they need loops that others compile meanwhile.
ENGINE := tests/kernels tests/seft_ref
REST := $(filter-out $(ENGINE) tests/ports tests/benchmarks,$(patsubst %/,%,$(filter-out tests/__pycache__/,$(wildcard tests/*/)))) $(wildcard tests/test_*.py) tests/benchmarks
tests: tests-engine tests-ports tests-rest

tests-engine: setup
	$(PY) -m pytest $(ENGINE) $(addprefix --ignore=,$(SHAPED))

tests-ports: setup
	$(PY) -m pytest tests/ports

tests-rest: setup
	$(PY) -m pytest $(REST)

# lm-eval brings datasets, which every process that imports a Trainer would import too. So it stands in an environment of
# its own, which sees the packages of the first.
PEERS := build/lm-eval
lm-eval: setup
	$(PY) -m venv $(PEERS)
	$(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$($(PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/first.pth"
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[lm-eval]"
	$(PEERS)/bin/python -m pytest tests/seft_ref/test_lm_eval.py

# The loops of compiled layers must not be wrapped, or numba refuses them.
PLAIN := seft_ref.layers.attention,seft_ref.layers.attention_blocks,seft_ref.layers.cross_entropy,seft_ref.layers.embedding,seft_ref.layers.linear,seft_ref.layers.past,seft_ref.layers.rmsnorm,seft_ref.layers.rope,seft_ref.layers.swiglu

# Shape annotations are read, and an array of another shape is an error. Of test_generate.py, whose many short steps are
# checked slowly, only the tests of one family of models run here; tests-engine runs all.
shaped: setup
	$(PY) -m pytest --jaxtyping-packages=$(PLAIN),seft_ref.adapters,seft_ref.update,seft_ref.quantise,seft_ref.model.decoder,seft_ref.train.gradients,seft_ref.text.generate,beartype.beartype $(SHAPED) tests/seft_ref/test_generate.py -k "not (GEN_001_readings or GEN_003_007) or smollm2"

# Compiled loops check the bounds of arrays. Whole runs, and arrays behind which there is nothing, are looked at once. So
# are older processors, for whom all is compiled anew: the vectors differ, which are not checked, and the loops are the
# same. Loops of float64 are the source of float32 compiled anew. A kernel_set is the GPU's, which g++ compiles; a fence is
# tried without loops. NUMBA_OPT=1, because compiling takes longer than running.
checked: setup
	NUMBA_OPT=1 NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=build/checked $(PY) -m pytest -k "not is_the_run and not run_resumes and not float64 and not nothing_behind and not kernels.reference and not float32_weights and not every_code and not a_processor and not kernel_set and not a_fence" $(LOOPS)

# What a stranger installs, in an environment of its own.
wheel: setup
	$(PY) -m tests.wheel build/wheel

# The manual, in build/docs/index.html; a dead link is an error.
docs: setup
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	$(PY) -m sphinx -W --keep-going -n -E -a -q -b html docs build/docs
	@echo wrote build/docs/index.html

demo: setup
	$(VENV)/bin/seft demo $(if $(QUICK),--quick,)

bench: setup
	$(PY) -m benchmarks kernels

# Readers of checkpoint files against inputs made to break them; docs/results/fuzzing.md says more. Compiled loops check bounds.
fuzz: setup
	NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=build/checked $(PY) -m conformance.fuzz --seconds $(SECONDS) --seed $(SEED) --corpus tests/formats/corpus.jsonl.gz

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
