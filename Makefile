# Needs python3.11 (or newer), make, gcc. `make help` lists what there is.
.POSIX:
.SUFFIXES:
.PHONY: help install run test check fuzz audit sbom bench soak docs lock clean

# The distribution's own first: it is built with profile-guided optimisation, which one that was built by hand often is not.
PYTHON = /usr/bin/python3.11 python3.11 python3
PIP = .venv/bin/python -m pip --disable-pip-version-check --quiet
PIP_INSTALL = $(PIP) install --require-hashes --only-binary :all:
ARGS =
# A release that was tampered with is mostly found out within days. COOLDOWN="0 days" for the fix of a known hole.
COOLDOWN = 14 days
COMPILE = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url \
	--exclude-newer "$(COOLDOWN)" --custom-compile-command "make lock"

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)$$/\1#\2/p' Makefile | while IFS='#' read -r target text; do printf '  make %-11s %s\n' "$$target" "$$text"; done

install: .venv/runtime.stamp ## .venv with the locked dependencies and the tollbridge command

run: .venv/runtime.stamp ## the server on 127.0.0.1:8080 with providers.yaml (ARGS="--port 9000" adds options)
	@exec .venv/bin/tollbridge serve $(ARGS)

test: .venv/dev.stamp ## every test but the timed ones (ARGS="-k breaker" narrows it down)
	.venv/bin/python -m tests $(ARGS)

check: .venv/dev.stamp ## formatting, lint and types
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

bench: .venv/dev.stamp ## figures against nginx and a plain proxy, see docs/performance.md
	.venv/bin/python -m tests.bench $(ARGS)

soak: .venv/dev.stamp ## an hour of load, kills, outages and abuse (ARGS="crash drain" runs some of it, see docs/performance.md)
	.venv/bin/python -m tests.soak $(ARGS)

fuzz: .venv/fuzz.stamp ## mutants of all that foreign bytes come through, and the property tests at length (ARGS="--seconds 60 --only http")
	PYTHONPATH=.venv/fuzz .venv/bin/python -m tests.fuzz $(ARGS)
	.venv/bin/python -m pytest -m property -p tests.fuzz.longer

audit: .venv/audit.stamp ## known holes in what is locked, asked of PyPI (needs the network)
	PYTHONPATH=.venv/audit .venv/bin/python -m tests.audit $(ARGS)

sbom: .venv/runtime.stamp ## build/tollbridge.cdx.json: the parts list of a release, in CycloneDX
	.venv/bin/python deploy/sbom.py build/tollbridge.cdx.json

docs: .venv/dev.stamp ## the tables of docs/providers.md anew from the catalogue and the dialects
	.venv/bin/python -m tests.providers_doc

lock: ## the lock files anew from pyproject.toml, of releases that are two weeks old (needs uv)
	$(COMPILE) pyproject.toml -o requirements.lock
	$(COMPILE) pyproject.toml --group dev -c requirements.lock -o tests/requirements.lock
	$(COMPILE) --group audit -o tests/audit.lock
	$(COMPILE) --group build -o tests/build.lock
	$(COMPILE) --group fuzz -o tests/fuzz.lock

clean: ## remove .venv and caches; the ledger in data/ stays
	rm -rf .venv .fuzz .mypy_cache .ruff_cache .pytest_cache .hypothesis build ./*.egg-info

.venv/bin/python:
	@for python in $(PYTHON); do \
		if $$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo "$$python -m venv .venv"; exec $$python -m venv .venv; fi; \
	done; echo "Python 3.11 or newer is needed and was not found as $(PYTHON): make PYTHON=/path/to/python3.11" >&2; exit 1

# The command is a launcher and not an installed copy: the clone itself runs, an edit needs no new install, and site-packages
# holds no .pth file, which Python would execute at every start (the one that setuptools brings along goes, too).
.venv/runtime.stamp: requirements.lock Makefile .venv/bin/python
	$(PIP_INSTALL) -r requirements.lock
	@$(PIP) uninstall -y setuptools 2>/dev/null || true
	@printf '#!/bin/sh\nPYTHONPATH="%s" exec "%s/.venv/bin/python" -P -m proxy "$$@"\n' "$$(pwd)" "$$(pwd)" > .venv/bin/tollbridge
	@chmod +x .venv/bin/tollbridge
	@.venv/bin/python -m compileall -q proxy
	@touch $@

.venv/dev.stamp: tests/requirements.lock tests/build.lock .venv/runtime.stamp
	$(PIP_INSTALL) -r tests/requirements.lock
	@rm -rf .venv/build
	$(PIP_INSTALL) --target .venv/build -r tests/build.lock
	@rm -f .venv/build/*.pth
	@touch $@

# Tools of one target each are put beside the environment, not into it: what is tested is what is locked for it and nothing else.
.venv/audit.stamp: tests/audit.lock .venv/runtime.stamp
	rm -rf .venv/audit
	$(PIP_INSTALL) --target .venv/audit -r tests/audit.lock
	@touch $@

.venv/fuzz.stamp: tests/fuzz.lock .venv/dev.stamp
	rm -rf .venv/fuzz
	$(PIP_INSTALL) --target .venv/fuzz -r tests/fuzz.lock || echo "atheris has no wheel for this machine: the mutants go unguided" >&2
	@touch $@
