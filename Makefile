# `make` lists what there is. The environment lives in .venv and comes from PyPI alone; a second call finds it ready.
# PYTHON names another interpreter; ARGS goes to the program: make train ARGS="-o train.max_steps=20"; VISION_ARGS,
# AUDIO_ARGS and JUDGE_ARGS to the training of the tokenizers and the judge of speech; RANKS is the number of processes that train.

.DEFAULT_GOAL := help
.PHONY: help setup ops train train-text test test-all test-reference test-services test-serving test-paddlenlp lint format clean
.NOTPARALLEL:

VENV := .venv
VENV_PADDLENLP := .venv-paddlenlp
METADATA := setup.py pyproject.toml
OPERATORS := $(addprefix custom_ops/,setup.py pyproject.toml __init__.py) $(wildcard custom_ops/common/*.cc \
    $(foreach name,kernel_cpu*.cc op.cc *.h *.cuh *.cu,custom_ops/*/$(name)))
# setuptools of the constraints builds them; the second name is for pip since 25.3, the first for those before.
OPERATOR_PINS := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt
PIP_INSTALL := -m pip --disable-pip-version-check --no-input install -qq
ARGS ?=
VISION_ARGS ?=
AUDIO_ARGS ?=
JUDGE_ARGS ?=
RANKS ?= 2
WORLD := data/digits
VISION := runs/vision_tokenizer
AUDIO := runs/audio_tokenizer
SPEAKER := runs/speaker_encoder
# Of [1/STEPS]: what a target does before its own work is create, install and compile.
STEPS = 2
setup ops: STEPS = 3
train-text test test-all test-reference test-services test-serving: STEPS = 4
train: STEPS = 6
test-paddlenlp: STEPS = 3
# A second `make train` goes on with the run that is there, and one that was changed by ARGS is not judged.
GO_ON = $(if $(ARGS),,$(if $(wildcard runs/digits/checkpoints/step_*),--resume auto))

# Python 3.11 first: the version that the constraints were tested with.
PYTHON ?= $(shell for python in python3.11 python3 python3.12 python3.13 python3.10; do \
    $$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' 2>/dev/null \
    && echo $$python && break; done)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.dev $(VENV)/.operators ## make .venv with everything that training and the tests need

ops: $(VENV)/.operators ## compile the native operators into .venv; an error where that cannot be done
	@test -e $<

train: runs/.tokenizers ## set up, then make the digit world and train on it (about 20 minutes on two cores)
	@echo "[6/$(STEPS)] training: configs/run/digits.yaml $(ARGS)"
	@set -m; $(VENV)/bin/python tools/speech_judge.py --world $(WORLD) $(JUDGE_ARGS) > runs/judge.log 2>&1 & judge=$$!; \
	    set +m; trap 'kill -- -$$judge 2>/dev/null' EXIT; trap 'exit 130' INT TERM; \
	    $(VENV)/bin/python tools/train.py -c configs/run/digits.yaml --nproc_per_node $(RANKS) $(ARGS) $(GO_ON) \
	    && { wait $$judge || { tail -n 5 runs/judge.log >&2; exit 2; }; }
	@$(if $(ARGS),,$(VENV)/bin/python tools/evaluate.py runs/digits/model --world $(WORLD) --run runs/digits)

$(WORLD)/world.json: | $(VENV)/.train $(VENV)/.operators
	@echo "[4/$(STEPS)] making the digit world in $(WORLD)"
	@$(VENV)/bin/python tools/make_digits.py --output $(WORLD)

# The tokenizers know nothing of each other, nor the judge of the model: one learns beside the other and prints into a
# log. It is a process group (set -m), so that all of it ends where the rest fails or is stopped.
train runs/.tokenizers: SHELL := /bin/bash
runs/.tokenizers: | $(WORLD)/world.json
	@echo "[5/$(STEPS)] training the tokenizers: configs/tokenizer/digits*.yaml (those of sound into runs/audio.log)"
	@mkdir -p runs; set -m; ( \
	        $(VENV)/bin/python tools/tokenizer.py train audio -c configs/tokenizer/digits_audio.yaml \
	            -o output_dir=$(AUDIO) $(AUDIO_ARGS) \
	        && $(VENV)/bin/python tools/tokenizer.py train speaker -c configs/tokenizer/digits_speaker.yaml \
	            -o output_dir=$(SPEAKER) \
	    ) > runs/audio.log 2>&1 & sounds=$$!; set +m; trap 'kill -- -$$sounds 2>/dev/null' EXIT; trap 'exit 130' INT TERM; \
	    $(VENV)/bin/python tools/tokenizer.py train vision -c configs/tokenizer/digits.yaml \
	        -o output_dir=$(VISION) $(VISION_ARGS) \
	    && { wait $$sounds || { tail -n 5 runs/audio.log >&2; exit 2; }; } \
	    && touch $@

train-text: $(VENV)/.train $(VENV)/.operators ## set up, then train on real text alone (about ten minutes on two cores)
	@echo "[4/$(STEPS)] training: configs/run/pydoc.yaml $(ARGS)"
	@$(VENV)/bin/python tools/train.py -c configs/run/pydoc.yaml $(ARGS)

test: $(VENV)/.dev $(VENV)/.operators ## set up, then run the tests, the slow ones left out
	@echo "[4/$(STEPS)] running the tests"
	@$(VENV)/bin/python -m pytest -m "not slow" $(ARGS)

test-all: $(VENV)/.dev $(VENV)/.operators ## set up, then run all the tests
	@echo "[4/$(STEPS)] running all the tests"
	@$(VENV)/bin/python -m pytest $(ARGS)

test-reference: $(VENV)/.dev $(VENV)/.operators ## set up, then test the operators' definitions, as without a compiler
	@echo "[4/$(STEPS)] running the tests of operators and of what is made of them, by the definitions"
	@$(VENV)/bin/python -m pytest -m "not slow" --ops reference \
	    tests/ops tests/layers tests/model tests/modality tests/inference $(ARGS)

test-services: $(VENV)/.scale $(VENV)/.operators ## set up with Ray, then test the tokenizers as its services
	@echo "[4/$(STEPS)] running the tests of services, the slow ones too"
	@$(VENV)/bin/python -m pytest tests/services tests/train/test_services_run.py $(ARGS)

test-serving: $(VENV)/.serve $(VENV)/.operators ## set up with FastAPI, then test the server, in Chromium too if there is one
	@echo "[4/$(STEPS)] running the tests of the server, the slow ones too"
	@$(VENV)/bin/python -m pytest tests/serving tests/tools/test_serve.py tests/benchmarks/test_serving_load.py $(ARGS)

test-paddlenlp: $(VENV_PADDLENLP)/.installed ## set up .venv-paddlenlp, then test the PaddleNLP adapters in it
	@echo "[3/$(STEPS)] running tests/integrations with PaddleNLP"
	@$(VENV_PADDLENLP)/bin/python -m pytest tests/integrations $(ARGS)

lint: $(VENV)/.dev ## check style and formatting
	@$(VENV)/bin/python -m ruff check .
	@$(VENV)/bin/python -m ruff format --check .

format: $(VENV)/.dev ## mend style and formatting in place
	@$(VENV)/bin/python -m ruff check --fix .
	@$(VENV)/bin/python -m ruff format .

clean: ## remove the environments and what was built; runs/ stays
	rm -rf $(VENV) $(VENV_PADDLENLP) build dist *.egg-info custom_ops/build custom_ops/*.egg-info .pytest_cache .ruff_cache
	find ernie5 tools tests custom_ops -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are files, so an interrupted step is done again. --clear replaces a half-made environment.
$(VENV)/.created $(VENV_PADDLENLP)/.created:
	@if [ -z "$(PYTHON)" ]; then \
	    echo "error: no Python 3.10 to 3.13 found: install one (Debian: apt install python3 python3-venv) or name it," \
	        "make PYTHON=/path/to/python3.11" >&2; exit 2; fi
	@echo "[1/$(STEPS)] creating $(@D) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv --clear $(@D) || { \
	    echo "error: $(PYTHON) cannot make a virtual environment: install its venv module" \
	        "(Debian: apt install python3-venv)" >&2; exit 2; }
	@touch $@

$(VENV)/.train: $(VENV)/.created $(METADATA) constraints.txt
	@echo "[2/$(STEPS)] installing PaddlePaddle and the package into $(@D) (a download of about 300 MB the first time)"
	@$(VENV)/bin/python $(PIP_INSTALL) -c constraints.txt -e ".[train,data]"
	@touch $@

$(VENV)/.dev: $(VENV)/.created $(METADATA) constraints.txt
	@echo "[2/$(STEPS)] installing PaddlePaddle, the package and the test tools into $(@D) (about 300 MB the first time)"
	@$(VENV)/bin/python $(PIP_INSTALL) -c constraints.txt -e ".[train,data,dev]"
	@touch $@ $(VENV)/.train

$(VENV)/.scale: $(VENV)/.dev
	@echo "[2/$(STEPS)] adding Ray to $(@D) (about 70 MB)"
	@$(VENV)/bin/python $(PIP_INSTALL) -c constraints.txt -e ".[scale]"
	@touch $@

$(VENV)/.serve: $(VENV)/.dev
	@echo "[2/$(STEPS)] adding the server and what tests it to $(@D) (about 120 MB)"
	@$(VENV)/bin/python $(PIP_INSTALL) -c constraints.txt -e ".[serve,servetest]"
	@touch $@

# Without them everything runs by its definition, so that nothing here ends in an error; an older library does not stay.
$(VENV)/.operators: $(VENV)/.train $(OPERATORS)
	@echo "[3/$(STEPS)] compiling the native operators into $(@D) (half a minute on two cores)"
	@if ! echo '#include <omp.h>' | $(CXX) -std=c++17 -fopenmp -fsyntax-only -x c++ - 2>/dev/null; then \
	    echo "note: $(CXX) is no C++17 compiler with OpenMP, so the operators run by their definitions, which is slower;" \
	        "install one (Debian: apt install g++) or name it: make ops CXX=/path/to/g++" >&2; \
	elif CXX="$(CXX)" $(OPERATOR_PINS) $(VENV)/bin/python $(subst -qq,,$(PIP_INSTALL)) --force-reinstall --no-deps \
	    ./custom_ops > $(@D)/operators.log 2>&1; then touch $@; exit 0; \
	else \
	    echo "note: the operators do not compile ($(@D)/operators.log says why), so they run by their definitions, which" \
	        "is slower; make ops tries again" >&2; \
	fi; rm -f $@; $(VENV)/bin/python -m pip -qq uninstall -y ernie5-ops 2>/dev/null || true

$(VENV_PADDLENLP)/.installed: $(VENV_PADDLENLP)/.created $(METADATA) constraints-paddlenlp.txt
	@echo "[2/$(STEPS)] installing PaddlePaddle, the package and PaddleNLP into $(@D) (about 700 MB the first time)"
	@$(VENV_PADDLENLP)/bin/python $(PIP_INSTALL) -c constraints-paddlenlp.txt -e ".[paddlenlp,dev]"
	@touch $@
