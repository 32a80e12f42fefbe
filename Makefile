# Everything happens in .venv; `make setup` builds it, the other targets do so by themselves.
#
# Another torch than the pinned one, for a GPU, say:
#   make setup TORCH="torch==2.13.0 --extra-index-url https://URL-OF-THE-BUILD-FOR-YOUR-DRIVER"
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= torch==2.13.0
NEXTFRAME = .venv/bin/nextframe
DEFAULT = runs/default

.PHONY: setup demo test default-model clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	grep -v '^torch==' constraints.txt > .venv/constraints.txt
	.venv/bin/pip install --quiet --disable-pip-version-check $(TORCH) --constraint .venv/constraints.txt
	.venv/bin/pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint .venv/constraints.txt
	touch $@

demo: setup
	$(NEXTFRAME) demo

test: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright
	.venv/bin/python -m pytest --numprocesses 2

# A model like the one in nextframe/pretrained/maze (its card says how that one came to be). It goes on where it stopped.
# The window of 64 frames comes late: it remembers, and a step with it costs twice as much. Last, it learns to go on from
# its own frames, over clips as long as the episodes.
default-model: setup
	$(NEXTFRAME) record maze --episodes 1024 --linger 0.2 --out $(DEFAULT)/footage
	$(NEXTFRAME) train autoencoder-maze --data $(DEFAULT)/footage --out $(DEFAULT)/autoencoder
	$(NEXTFRAME) encode --autoencoder $(DEFAULT)/autoencoder --data $(DEFAULT)/footage --out $(DEFAULT)/latents
	$(NEXTFRAME) train maze --data $(DEFAULT)/latents --out $(DEFAULT)/short-window
	$(NEXTFRAME) train maze --data $(DEFAULT)/latents --out $(DEFAULT)/world --train.steps 5000 --model.window 64 \
	    --initial $(DEFAULT)/short-window/weights.safetensors
	$(NEXTFRAME) train maze --data $(DEFAULT)/latents --out $(DEFAULT)/long-walks --train.steps 3500 --model.window 64 \
	    --clip.frames 300 --clean-context 0.5 --resampled-context 0.35 --initial $(DEFAULT)/world/weights.safetensors
	$(NEXTFRAME) export --model $(DEFAULT)/long-walks --out $(DEFAULT)/maze

clean:
	rm -rf .venv
