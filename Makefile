# Everything here works on a fresh Debian 12 or 13, as root or with sudo. docs/development.md
# tells what each target leaves behind.

PYTHON ?= /usr/bin/python3
APP ?= hello:app
DIR ?= examples/hello
LISTEN ?= 127.0.0.1:8000
TESTS ?=
FAULT ?=
CASES ?=
export SUITE ?= trixie
export MINUTES ?= 10

SUDO := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=CI,SUITE,MIRROR,FUZZ_SEED,FUZZ_FACTOR,MINUTES)
LAB := $(SUDO) $(PYTHON) -B -m tests.lab

RUN_PACKAGES := python3-venv python3-dev gcc libc6-dev pkg-config libsystemd-dev systemd
LAB_PACKAGES := systemd-container mmdebstrap apt-utils debian-archive-keyring patchelf util-linux git
TEST_PACKAGES := $(LAB_PACKAGES) nginx curl groff-base slowhttptest chromium
BENCH_PACKAGES := libev-dev nginx util-linux valgrind wrk
COMPILED := setup.py $(shell find sockd -name '*.pyx' -o -name '*.pxd' -o -name '*.h')

.PHONY: run build test check asan mutants autobahn torture storm bench nightly lab lab-stop deb reproduce clean \
	run-packages lab-packages test-packages bench-packages

run: build
	@dev/run '$(LISTEN)' '$(APP)' '$(DIR)'

build: .venv/built

.venv/built: pyproject.toml $(COMPILED) | run-packages
	@dev/build $(PYTHON) $?

check: build
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/python -W error -m compileall -q -f sockd tests examples

test: check | test-packages
	@$(SUDO) dev/test $(TESTS)

asan: build
	@dev/asan

mutants: build
	@.venv/bin/python -B tests/mutants.py '$(FAULT)'

autobahn: build
	@dev/autobahn $(foreach case,$(CASES),'$(case)')

torture: | lab-packages
	@$(LAB) torture

storm: build
	FUZZ_FACTOR=5 .venv/bin/python -B -m pytest -p no:cacheprovider tests/process/test_storm.py

nightly: export FUZZ_FACTOR ?= 5
nightly: test asan mutants autobahn torture storm reproduce bench

bench: build | bench-packages
	.venv/bin/python -B -m bench $(if $(QUICK),--quick)

lab: | lab-packages
	@$(LAB) up

lab-stop:
	@$(LAB) stop

deb: | lab-packages
	@$(LAB) deb

reproduce: | lab-packages
	@$(LAB) reproduce

clean: lab-stop
	$(SUDO) rm -rf .venv build dist *.egg-info
	find sockd -name '*.so' -delete

run-packages lab-packages test-packages bench-packages: %-packages:
	@dev/packages $($(shell echo $* | tr a-z A-Z)_PACKAGES)
