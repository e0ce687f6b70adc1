# `make` lists the targets. A target that needs .venv makes it first.

PYTHON ?= python3
TORCH_CPU_INDEX = https://download.pytorch.org/whl/cpu

# `make serve PORT=9000`. Set here, so that a HOST exported by the shell is not passed to the service.
HOST =
PORT =
WORKERS =
RECIPE =
PHOTOS =
WEIGHTS =

TEACHER = models/best.pt
SOAK = overload idle_connections reloads mutated_uploads
python = .venv/bin/python
pip = $(python) -m pip --disable-pip-version-check
index_answers = $(python) -c 'import urllib.request; urllib.request.urlopen("$(TORCH_CPU_INDEX)/torch/", timeout=5)'

.PHONY: help setup serve train test cluster-test soak lint requirements clean

help:
	@echo 'make setup                                   .venv with all dependencies'
	@echo 'make serve [HOST=…] [PORT=…] [WORKERS=…]     serves models/model_scratch.pt over HTTP'
	@echo 'make train [RECIPE=…]                        trains a new models/model_scratch.pt'
	@echo 'make train RECIPE=photos PHOTOS=DIR          trains a new models/photos.pt; WEIGHTS=FILE: from these ImageNet weights'
	@echo 'make test                                    tests that need no root, no network, no Docker, no Prometheus, no browser'
	@echo 'make cluster-test                            tests on Ray, HAProxy and torchrun, twelve minutes; needs root, Linux, haproxy'
	@echo 'make soak                                    soak tests: load and faults, seven minutes; needs Linux and two cores'
	@echo 'make lint                                    ruff and mypy'
	@echo 'make requirements                            renews requirements/: versions and hashes for the images; needs uv'
	@echo 'make clean                                   removes .venv and the caches'
	@echo 'PYTHON=python3.12 makes .venv with that Python.'

setup: .venv/.complete

serve: setup
	$(python) -m service$(if $(HOST), --host $(HOST))$(if $(PORT), --port $(PORT))$(if $(WORKERS), --workers $(WORKERS))

train: setup $(if $(filter shipped,$(RECIPE)),$(TEACHER))
	$(python) -m training.run$(if $(RECIPE), --recipe $(RECIPE))$(if $(filter shipped,$(RECIPE)), --teacher $(TEACHER))$(if $(PHOTOS), --photos $(PHOTOS))$(if $(WEIGHTS), --weights $(WEIGHTS))

$(TEACHER): | setup
	$(python) -m training.run --recipe best --resume --output $@.unfinished
	mv $@.unfinished $@

test: setup
	$(python) -m pytest -m "not data and not cluster and not container and not page and not prometheus"

cluster-test: setup
	$(pip) install --editable '.[dev,cluster]'
	$(python) -m pytest tests/cluster tests/training/test_processes.py --durations=10

soak: setup
	@failed=; for name in $(SOAK); do echo "== $$name"; $(python) -m benchmarks.soak.$$name || failed="$$failed $$name"; done; \
	test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

lint: setup
	$(python) -m ruff format --check .
	$(python) -m ruff check .
	$(python) -m mypy

requirements:
	docker/lock

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find classifier service training tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# torch and torchvision are installed first and from one index, because builds of different indexes do not work together:
# from PyTorch's CPU index if there is no NVIDIA driver and the index answers, else from pip's default index.
# .venv/.incomplete marks an interrupted installation; the next run starts again.
.venv/.complete: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no $(PYTHON): install Python 3.11 or newer, or name yours, as in make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("$(PYTHON) is Python %d.%d, but 3.11 or newer is \
	needed: install one and name it, as in make PYTHON=python3.12" % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) lacks its venv module: install it (on Debian and Ubuntu, apt-get install python3-venv)" >&2; exit 1; }
	@test ! -e .venv/.incomplete || rm -rf .venv
	$(PYTHON) -m venv .venv
	@touch .venv/.incomplete
	@pair=$$(grep -Eo 'torch(vision)?>=[0-9.]+' pyproject.toml); index='--index-url $(TORCH_CPU_INDEX)'; \
	if command -v nvidia-smi >/dev/null || test -e /proc/driver/nvidia || ! $(index_answers) 2>/dev/null; then index=; fi; \
	set -x; $(pip) install $$index $$pair
	$(pip) install --editable '.[dev]'
	@mv .venv/.incomplete $@
