# A checkout needs only Python 3.11+ (with venv) and make; everything else goes into .venv.
PYTHON ?= python3
PIP = .venv/bin/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test test-pythons soak lint docs pages bench pictures release clean

demo: .venv/installed
	.venv/bin/python -m dugong demo

test: .venv/installed-test
	.venv/bin/python -X dev -m pytest $(PYTEST_ARGS)

# The suite again under every other supported Python that is found.
test-pythons:
	.ci/test-pythons

# Many threads and a hostile server, for minutes, and a crawl: make soak SECONDS=600 SEED=7
SECONDS ?= 120
soak: .venv/installed-test
	.venv/bin/python -X dev -m tests.soak --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))
	.venv/bin/python -m tests.soak.crawl $(if $(SEED),--seed $(SEED))
	.venv/bin/python -X dev -m tests.soak.backup $(if $(SEED),--seed $(SEED))

lint: .venv/installed-lint
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs: .venv/installed-docs
	.venv/bin/sphinx-build -W --keep-going -q -b html docs docs/_build/html

# Looks at them in a browser, as wide as a phone and as a desk: is anything wider than its box?
pages: .venv/installed-docs .venv/installed-pages docs
	.venv/bin/python .ci/check-pages

bench:
	benchmarks/run
	benchmarks/.venv/bin/python benchmarks/pictures.py

# The pictures of the documentation, from the figures of the last `make bench`.
pictures:
	benchmarks/.venv/bin/python benchmarks/pictures.py --publish

# Builds the distributions in dist/ and checks them. Publishes nothing.
release: .venv/installed-release
	.ci/release

.venv/installed: pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

.venv/installed-%: .venv/installed
	$(PIP) --editable .[$*]
	touch $@

.venv/installed-lint: .venv/installed-test

clean:
	rm -rf .venv .venv-* docs/_build build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
