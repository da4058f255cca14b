venv = python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e
demo: ; $(venv) '.[demo]' && .venv/bin/quantmill demo
test: ; $(venv) '.[test]' && .venv/bin/pytest -n auto --dist loadfile
lint: ; $(venv) '.[test]' && .venv/bin/ruff check . && .venv/bin/ruff format --check .
.PHONY: demo test lint
