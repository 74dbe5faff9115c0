# make and python >= 3.11 with venv are all that this file assumes (make 3.81 and BSD tools will do).

PYTHON ?= python3
PROFILE ?= tiny
METHODS ?= ga,ga_klr,npo
SEEDS ?= 0,1,2
OUT ?= outputs/pretrain-tiny
TORCH_INDEX ?=
DEMO ?=
# What 06 probes in the demo; that a state was reached is known of profile tiny alone
PROBED ?= $(if $(filter tiny,$(PROFILE)),--probes single_shot/pretrained/npo-projector+llm-seed-0@matched)

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
export PYTHONUTF8 := 1

.PHONY: help demo study test lab status lint clean pretrain-tiny oracles gpu-check check-reliability bench test-slurm setup

help:
	@echo "make demo           the whole protocol on a small model, seed 0: 7 to 15 minutes on two cores, 2 GB of memory"
	@echo "make test           all tests, the notebooks through the real runner among them"
	@echo "make lab            the notebooks in JupyterLab; begin with 01_build_datasets"
	@echo "make study          the demo with seeds 0, 1 and 2, going on in the same folder: about three times as long"
	@echo "make status         where every run of the demo stands"
	@echo "make check-intervals    how often the report's intervals cover the truth, by simulation: 2 to 5 minutes"
	@echo "make pretrain-tiny  make the embedded model again, in OUT=$(OUT): 10 minutes on two idle cores"
	@echo "make oracles        the embedded model without the people that SEEDS=$(SEEDS) forget: 10 minutes a seed on two idle cores"
	@echo "make gpu-check      LLaVA-1.5 7B and 13B in 4-bit, random weights, on the GPU here: memory and speed; skips itself without one"
	@echo "make lint           style and form of library, tests and notebooks, and the library's types: seconds"
	@echo "make check-reliability  kills, bad inputs and file-system faults, into docs/reliability.md: 15 to 45 minutes"
	@echo "make bench          how fast the kit is, into docs/performance.md: 20 minutes on two cores; DEMO=outputs/tiny adds a finished demo's times"
	@echo "make test-slurm     the smoke study on a SLURM of its own here, with killed jobs; says so where that cannot be"
	@echo "make site           guides, executed notebooks, report and library as pages in build/site; DEMO=outputs/tiny by default"
	@echo "make gallery        a finished demo's notebooks as small pages into docs/gallery; DEMO=outputs/tiny by default"
	@echo "make test-browser   JupyterLab with 05 and 08, the report and the site in a real Chromium: 5 minutes and more"
	@echo "make test-hosts     every notebook on a simulated Colab and Kaggle, with the old packages that they bring"
	@echo "make address        carry the repository's address (pyproject.toml) to every badge and link"
	@echo "make clean          remove the environment and caches; results in outputs/ stay"
	@echo ""
	@echo "The first of them sets up .venv: 2 to 10 minutes, mostly download (1.5 GB; with CUDA on Linux 6 GB)."
	@echo ""
	@echo "Variables: PYTHON=$(PYTHON)   PROFILE=$(PROFILE)   METHODS=$(METHODS) (study)   SEEDS=$(SEEDS) (study)"
	@echo "           TORCH_INDEX=https://download.pytorch.org/whl/cpu   Linux without a GPU: torch without CUDA"

# The set-up. Done again when the versions or the library's needs change.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "This needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version 2>&1`. Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "Setting up .venv: 2 to 10 minutes, mostly download."
	@rm -f $(READY)
	@$(PYTHON) -m venv $(VENV) || { echo "venv is missing; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@if [ -n "$(TORCH_INDEX)" ]; then \
		echo "torch from $(TORCH_INDEX)"; \
		$(PY) -m pip install --disable-pip-version-check --quiet --no-deps --index-url "$(TORCH_INDEX)" \
			"`grep '^torch==' requirements.lock`"; \
	fi
	@echo "packages of requirements.lock"
	@$(PY) -m pip install --disable-pip-version-check --quiet -r requirements.lock
	@$(PY) -m pip install --disable-pip-version-check --quiet --no-deps -e .
	@touch $(READY)
	@echo "Set up."

setup: $(READY)

demo: $(READY)
	@echo "Demo: six notebooks, 7 single-shot and 3 sequential runs, the probes of one, profile $(PROFILE), seed 0."
	@echo "7 to 15 minutes on two cores; Ctrl-C stops it, and 'make demo' goes on where it stopped."
	@$(PY) -m pulse_lib run --profile $(PROFILE) --methods ga,ga_klr,npo --seeds 0 $(PROBED)

study: $(READY)
	@echo "Study: profile $(PROFILE), methods $(METHODS), seeds $(SEEDS), in the same folder as the demo."
	@echo "7 to 15 minutes a seed on two cores; Ctrl-C stops it, and 'make study' goes on where it stopped."
	@$(PY) -m pulse_lib run --profile $(PROFILE) --methods $(METHODS) --seeds $(SEEDS)

# By name: in the order of xdist files of few tests come last, among them minutes of studies.
test: $(READY)
	@echo "Tests: units, the notebooks through the real runner, kill and resume."
	@$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lab: $(READY)
	@$(PY) -m pulse_lib lab

status: $(READY)
	@$(PY) -m pulse_lib status --profile $(PROFILE)

lint: $(READY)
	@$(PY) -m ruff check pulse_lib tests notebooks benchmarks
	@$(PY) -m ruff format --check pulse_lib tests notebooks benchmarks
	@$(PY) -m ty check

pretrain-tiny: $(READY)
	@echo "Pre-training the embedded model into $(OUT): 10 minutes on two idle cores."
	@$(PY) -m pulse_lib pretrain-tiny --out $(OUT)

oracles: $(READY)
	@echo "Oracles: the embedded model without the people to be forgotten, profile $(PROFILE), seeds $(SEEDS): 10 minutes each on two idle cores."
	@$(PY) -m pulse_lib oracles --profile $(PROFILE) --seeds $(SEEDS)

.PHONY: check-intervals
check-intervals: $(READY)
	@echo "Intervals: coverage over 1,100 cells, 4,000 replicates each; into outputs/reference/intervals.json;"
	@echo "then of distances to the oracle: 126 cells, 2,000 replicates each; into outputs/reference/distance_intervals.json."
	@$(PY) benchmarks/intervals.py --out outputs/reference/intervals.json
	@$(PY) benchmarks/distance_intervals.py --out outputs/reference/distance_intervals.json

gpu-check: $(READY)
	@echo "GPU check: LLaVA-1.5-7B and 13B shapes with random weights in 4-bit; results in outputs/reference/gpu."
	@$(PY) benchmarks/gpu_check.py --out outputs/reference/gpu

check-reliability: $(READY)
	@$(PY) benchmarks/reliability.py

bench: $(READY)
	@$(PY) benchmarks/bench.py $(if $(DEMO),--demo $(DEMO))

# Sphinx and its theme are installed when they are first needed; building needs no network.
.PHONY: site
site: $(READY)
	@$(PY) -c 'import myst_nb, pydata_sphinx_theme, latex2mathml' 2>/dev/null || \
		$(PY) -m pip install --disable-pip-version-check --quiet -r docs/requirements.txt
	@$(PY) docs/site/build.py --out build/site $(if $(DEMO),--study $(DEMO))

# The pages are committed: a visitor sees the reference run without running it.
.PHONY: gallery
gallery: $(READY)
	@echo "Gallery: 5 minutes the first time, for the notebooks that the demo does not run; then seconds."
	@$(PY) -c 'import latex2mathml' 2>/dev/null || \
		$(PY) -m pip install --disable-pip-version-check --quiet -r docs/requirements.txt
	@OMP_NUM_THREADS=1 $(PY) docs/site/gallery.py $(if $(DEMO),--study $(DEMO))

.PHONY: test-browser
test-browser: $(READY)
	@echo "JupyterLab, report and site in the Chromium of this machine; says so where there is none."
	@$(PY) -c 'import playwright, axe_playwright_python, myst_nb' 2>/dev/null || \
		$(PY) -m pip install --disable-pip-version-check --quiet -r docs/requirements.txt \
			'playwright==1.65.2' 'axe-playwright-python==0.1.8'
	@PULSE_DEMO="$(DEMO)" $(PY) -m pytest -rs tests/browser/pages.py

.PHONY: test-hosts
test-hosts: $(READY)
	@echo "Colab and Kaggle on this machine, by their old packages: 0.3 GB and 10 to 20 minutes."
	@$(PY) tests/hosts/check.py

.PHONY: address
address:
	@$(PYTHON) docs/address.py

test-slurm: $(READY)
	@echo "SLURM on this machine (needs root; installs slurm-wlm and munge), and the smoke study on it: 5 to 10 minutes."
	@$(PY) tests/slurm/check.py

clean:
	rm -rf $(VENV) build .pytest_cache .ruff_cache .snakemake *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Results in outputs/ stay; remove them by hand if you want them made anew."
