# `make demo` and `make test` do everything on a machine that has Python 3.11 or newer and make.

PYTHON      ?= python3
# The backend of the demo. The test environment has all three.
BACKEND     ?= jax
BACKENDS    ?= jax tensorflow torch
# Installed before the package, so that it decides which build of PyTorch is used.
TORCH       ?= torch==2.13.0
PYTEST_ARGS ?=
# Processes that run the tests of a backend; 0: none beside the first.
WORKERS     ?= 2

# How long `make gpu` may take, and where its table goes.
MINUTES     ?= 8
TABLES      ?= docs/benchmarks

# What the demo runs: a script, or `-m module`.
DEMO        := guides/01_generate.py

TEST_ENV    := .venv
TEST_EXTRAS := jax,tensorflow,torch,tests
DEMO_ENV    := .venv-demo
DEMO_EXTRAS := $(BACKEND),demo

unknown := $(filter-out jax tensorflow torch,$(BACKEND) $(BACKENDS))
ifneq ($(unknown),)
$(error unknown backend: $(unknown). Choose among jax, tensorflow and torch)
endif

# Where `make wheel` builds, and the environment that it installs the wheel into.
DIST        := dist
WHEEL_ENV   := .venv-wheel

.PHONY: help demo test test-slow test-engines test-tpu test-versions gpu notebooks lint docs environment wheel clean clean-all

help:
	@echo "make demo       install with one backend into $(DEMO_ENV) and run the demo (BACKEND=$(BACKEND))"
	@echo "make test       install with all backends into $(TEST_ENV) and run the tests on each"
	@echo "make test-slow  the tests that take minutes (marker: slow)"
	@echo "make test-tpu   compiles for TPUs that are only described (marker: tpu), on JAX"
	@echo "make test-versions  tries Pythons and releases in clean environments (VERSIONS='--pythons 3.11')"
	@echo "make test-engines  batches by Ray and Spark, which it installs"
	@echo "make notebooks  runs the guides and writes them as notebooks (GUIDES=guides/01_generate.py)"
	@echo "make gpu        check and measure on the GPU at hand, in $(MINUTES) minutes, with $(PYTHON)"
	@echo "make lint       lint, check the format and the types"
	@echo "make docs       build the documentation into site/, without network"
	@echo "make wheel      build the wheel into $(DIST), install it into $(WHEEL_ENV), ask it a question"
	@echo "make clean      remove caches and build output; make clean-all: the environments too"
	@echo "Options: PYTHON=python3.12 BACKEND=torch BACKENDS='jax torch' PYTEST_ARGS='-x -k text'"
	@echo "         TORCH='torch==2.13.0' MIN_FREE_GB=4 WORKERS=0"

demo: $(DEMO_ENV)/.ready-$(BACKEND)
	@echo "== Demo on $(BACKEND): $(DEMO)"
	KERAS_BACKEND=$(BACKEND) TF_CPP_MIN_LOG_LEVEL=2 $(DEMO_ENV)/bin/python $(DEMO)

test: $(TEST_ENV)/.ready
	@$(call on_each_backend,$(PYTEST_ARGS))

test-slow: $(TEST_ENV)/.ready
	@$(call on_each_backend,-m slow $(PYTEST_ARGS))

# Ray and Spark are large, and Spark needs Java: they are installed here, and tested here alone.
test-engines: $(TEST_ENV)/.ready
	$(TEST_ENV)/bin/python -m pip install --no-input --disable-pip-version-check --editable ".[$(TEST_EXTRAS),ray]" pyspark
	KERAS_BACKEND=$(BACKEND) $(TEST_ENV)/bin/python -m pytest -m "" tests/tasks/test_batch_inference_engines.py $(PYTEST_ARGS)

# Without a TPU, and without asking the network for one.
test-tpu: $(TEST_ENV)/.ready-tpu
	KERAS_BACKEND=jax JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 $(ONE_THREAD) \
	    $(TEST_ENV)/bin/python -m pytest -m tpu -n $(WORKERS) $(PYTEST_ARGS)

# It prints a table; what is not found on this machine is skipped with its reason.
test-versions:
	@"$(PYTHON)" tools/try_versions.py $(VERSIONS)

# Minutes for each guide. GUIDES=guides/01_generate.py for one.
notebooks: $(TEST_ENV)/.ready
	KERAS_BACKEND=$(BACKEND) $(TEST_ENV)/bin/python tools/notebooks.py $(GUIDES)

# With the libraries of the machine's own Python: an image with a GPU has them, and no network.
gpu:
	PYTHONPATH="$(CURDIR):$$PYTHONPATH" "$(PYTHON)" tools/check_device.py --minutes $(MINUTES) --out $(TABLES)

lint: $(TEST_ENV)/.ready
	$(TEST_ENV)/bin/python -m ruff check .
	$(TEST_ENV)/bin/python -m ruff format --check .
	KERAS_BACKEND=torch $(TEST_ENV)/bin/python -m pytest -q -m "" tests/test_typing.py

docs: $(TEST_ENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(TEST_ENV)/bin/python -m mkdocs build
	@echo "== open site/index.html, or serve it: $(TEST_ENV)/bin/python -m http.server --directory site"

environment: $(TEST_ENV)/.ready
	@echo "== $(TEST_ENV) is ready: `$(TEST_ENV)/bin/python --version`"

# The environment that has built the wheel is not clean.
wheel:
	@sh tools/check_machine.sh "$(PYTHON)" 0 .
	rm -rf $(DIST) $(WHEEL_ENV)
	"$(PYTHON)" -m venv $(WHEEL_ENV)
	$(WHEEL_ENV)/bin/python -m pip install --quiet --disable-pip-version-check build
	$(WHEEL_ENV)/bin/python -m build --outdir $(DIST) .
	rm -rf $(WHEEL_ENV)
	"$(PYTHON)" -m venv $(WHEEL_ENV)
	$(WHEEL_ENV)/bin/python -m pip install --quiet --disable-pip-version-check "$$(echo $(DIST)/*.whl)[jax]"
	cd $(WHEEL_ENV) && bin/t5gemma2 generate t5gemma2_tiny "Spell 4268 in German." --backend jax

clean:
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache
	find keras_t5gemma2 tests guides tools -name __pycache__ -type d -prune -exec rm -rf {} +

clean-all: clean
	rm -rf $(TEST_ENV) $(DEMO_ENV) $(WHEEL_ENV)

# The stamps are written last: without its stamp an environment does not count as made.

$(TEST_ENV)/.ready: MIN_FREE_GB ?= 6
$(TEST_ENV)/.ready: pyproject.toml
	$(begin_environment)
	$(call install,"$(TORCH)")
	$(call install,--editable ".[$(TEST_EXTRAS)]")
	$(end_environment)

$(TEST_ENV)/.ready-tpu: $(TEST_ENV)/.ready
	$(call install,--editable ".[aot]")
	@touch $@

$(DEMO_ENV)/.ready-$(BACKEND): MIN_FREE_GB ?= 5
$(DEMO_ENV)/.ready-$(BACKEND): pyproject.toml
	$(begin_environment)
	$(if $(filter torch,$(BACKEND)),$(call install,"$(TORCH)"))
	$(call install,--editable ".[$(DEMO_EXTRAS)]")
	$(end_environment)

# `.unfinished` stays behind where an installation is cut off, and the next one starts over.
define begin_environment
@if [ -e $(@D)/.unfinished ]; then \
    echo "== $(@D) is half made: starting over"; rm -rf $(@D); fi
@sh tools/check_machine.sh "$(PYTHON)" "$(MIN_FREE_GB)" $(@D)
@echo "== Installing into $(@D); the first time this downloads a lot and takes minutes"
@mkdir -p $(@D) && touch $(@D)/.unfinished
"$(PYTHON)" -m venv $(@D)
endef

define install
@echo '== $(@D): pip install $(1)'
@$(@D)/bin/python -m pip install --no-input --disable-pip-version-check $(1) || { \
    echo 'error: pip install $(1) failed; the reason stands above.' >&2; \
    echo 'error: If it finds no matching version, name an older Python, as in:' >&2; \
    echo 'error: make $(MAKECMDGOALS) PYTHON=python3.12' >&2; \
    exit 1; }
endef

define end_environment
@rm $(@D)/.unfinished
@touch $@
@echo "== $(@D) is ready"
endef

# A thread for each process: more of them wait for each other. The tests of a file share what they
# compile, and stay together.
ONE_THREAD  := OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1
IN_PARALLEL := -n $(WORKERS) --dist loadfile

# All backends run, also after one has failed.
define on_each_backend
failed=; \
for backend in $(BACKENDS); do \
    echo "== Tests on $$backend"; \
    KERAS_BACKEND=$$backend $(ONE_THREAD) $(TEST_ENV)/bin/python -m pytest $(IN_PARALLEL) $(1) || failed="$$failed $$backend"; \
done; \
if [ -n "$$failed" ]; then echo "== Tests failed on:$$failed" >&2; exit 1; fi; \
echo "== Tests passed on: $(BACKENDS)"
endef
