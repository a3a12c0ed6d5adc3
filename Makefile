# Every target makes what it needs in .venv/ and build/ and can be run again at once.
#
#   make demo       train, export, validate and time a network on real images; report in demo-output/
#   make test       everything that proves the project: lint, types, C++ and Python tests
#   make build      the package with its native libraries, installed editable in .venv/
#   make lint       ruff, mypy, clang-format
#   make bench-cpu  the CPU benchmarks of all engines at hand; results in benchmarks/results/
#   make gpu-check  on a machine with an NVIDIA GPU: build, tests, sanitizers, benchmark of the CUDA kernels (9 minutes);
#                   GPU_PYTHON=python3 takes that Python, with its own PyTorch, instead of setting up .venv/

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# The native sources, and the folders of the Python ones: an editable installation lists the modules it finds, so one
# that was added asks for it again.
SOURCES := CMakeLists.txt VERSION $(shell find cmake plugins -type f | grep -v " ") \
    $(shell find cli dcn_deploy models -type d -not -name __pycache__)
# PyTorch, pytest workers and OpenMP would otherwise each take every core.
TEST_ENVIRONMENT := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
PYTEST_WORKERS ?= 2
# nvcc takes most of a build, so here it compiles for the two architectures that CI stands for; a wheel that is built
# without make has kernels for all of them.
export CMAKE_ARGS ?= -DDCN_DEPLOY_CUDA_ARCHITECTURES=80-real;90a-real

.DELETE_ON_ERROR:
.PHONY: all demo test test-cpp test-cuda-host test-python build lint format bench-cpu gpu-check clean help

all: build

help:
	@sed -n 's/^#   //p' Makefile

$(BIN)/python:
	@command -v c++ >/dev/null || { echo "A C++ compiler is needed: apt-get install g++" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' \
	    || { echo "Python 3.10 to 3.13 is needed, $(PYTHON) is another; call make PYTHON=..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip' 2>/dev/null \
	    || { echo "The venv module is needed: apt-get install python3-venv" >&2; exit 1; }
	"$(PYTHON)" -m venv .venv

# Third-party packages, in the versions of constraints.txt: what the package and the demonstration need, and on top of
# that what its development needs. The scikit-build-core backend goes first, since the package is then built without
# isolation, which lets CMake keep its build folder.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.venv/.dependencies: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) scikit-build-core cmake ninja
	$(PIP_INSTALL) --no-build-isolation --editable ".[demo]"
	touch $@

.venv/.dev-dependencies: .venv/.dependencies
	$(PIP_INSTALL) --no-build-isolation --editable ".[demo,dev]"
	touch $@

.venv/.package: .venv/.dependencies $(SOURCES)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

build: .venv/.package

demo: build
	$(BIN)/python examples/digits/run.py --output demo-output

lint: .venv/.dev-dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files -z '*.cc' '*.h' '*.cu' '*.cuh' | xargs -0 $(BIN)/clang-format --dry-run --Werror

format: .venv/.dev-dependencies
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files -z '*.cc' '*.h' '*.cu' '*.cuh' | xargs -0 $(BIN)/clang-format -i

# The core's own tests, under AddressSanitizer and UndefinedBehaviorSanitizer.
test-cpp: .venv/.dev-dependencies
	$(BIN)/cmake -S . -B build/cpp-tests -G Ninja -DCMAKE_MAKE_PROGRAM="$(CURDIR)/$(BIN)/ninja" \
	    -DCMAKE_BUILD_TYPE=RelWithDebInfo -DDCN_DEPLOY_BUILD_TESTS=ON -DDCN_DEPLOY_SANITIZE=address,undefined \
	    -DDCN_DEPLOY_ONNXRUNTIME=OFF -DDCN_DEPLOY_CUDA=OFF
	$(BIN)/cmake --build build/cpp-tests
	$(BIN)/ctest --test-dir build/cpp-tests --output-on-failure

# The CUDA kernels' source, run on the host under the same sanitizers; needs no CUDA.
test-cuda-host: .venv/.dev-dependencies
	$(BIN)/cmake -S . -B build/cuda-host-tests -G Ninja -DCMAKE_MAKE_PROGRAM="$(CURDIR)/$(BIN)/ninja" \
	    -DCMAKE_BUILD_TYPE=RelWithDebInfo -DDCN_DEPLOY_CUDA_HOST_TESTS=ON -DDCN_DEPLOY_SANITIZE=address,undefined \
	    -DDCN_DEPLOY_ONNXRUNTIME=OFF -DDCN_DEPLOY_CUDA=OFF
	$(BIN)/cmake --build build/cuda-host-tests --target dcn_deploy_host_tests
	$(BIN)/ctest --test-dir build/cuda-host-tests --output-on-failure --parallel 2

test-python: build .venv/.dev-dependencies
	$(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal

test: lint test-cpp test-cuda-host test-python

bench-cpu: build .venv/.dev-dependencies
	$(BIN)/python benchmarks/bench_cpu.py
	$(BIN)/python benchmarks/bench_cpu.py --random 30
	$(BIN)/python benchmarks/bench_roi_pool.py
	$(BIN)/python benchmarks/bench_product.py

# GPU_CHECK: stages and options, e.g. GPU_CHECK="build tests".
GPU_CHECK ?=
ifdef GPU_PYTHON
gpu-check:
	$(GPU_PYTHON) -m benchmarks.gpu_check $(GPU_CHECK)
else
gpu-check: .venv/.dev-dependencies
	$(BIN)/python -m benchmarks.gpu_check $(GPU_CHECK)
endif

clean:
	rm -rf build demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis
