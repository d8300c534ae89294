"""The cases for pytest-benchmark: full size with --benchmark-only, otherwise small."""

import pytest
import torch

from benchmarks.common import timing, ways
from benchmarks.common.ways import WAYS
from benchmarks.quality import toy25
from benchmarks.speed import ops


@pytest.fixture(scope="module")
def full_size(request):
    return request.config.getoption("--benchmark-only")


@pytest.fixture(scope="module", autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def problem(full_size):
    return ops.problem(1_000_000 if full_size else 20_000, d=128, acceptance=0.2)


@pytest.mark.filterwarnings("ignore")  # of numba and of torch.compile
@pytest.mark.parametrize("case", ops.CASES, ids=lambda case: case.name)
def test_accept_compact(benchmark, case, problem, full_size):
    if case.slow and not full_size:
        pytest.skip("slow; runs with --benchmark-only")
    try:
        call = ops.prepared(case, problem)
    except (ops.Missing, ImportError) as missing:
        pytest.skip(str(missing))
    benchmark.pedantic(call, setup=timing.flush, rounds=11 if full_size else 1)


# With gamma 0 this is true: what a burn-in of the default length misses is part of the comparison.
@pytest.mark.filterwarnings("ignore:log_m is too small:UserWarning")
@pytest.mark.parametrize("name", WAYS)
def test_toy25(benchmark, name, full_size):
    gan, way = toy25.TOYS["25gaussians"].load(), WAYS[name]
    if way.prepare is not ways.as_it_is and not full_size:
        pytest.skip("trains a network first; runs with --benchmark-only")
    gan = way.prepare(gan, 0)
    n = toy25.SAMPLES if full_size else 30
    ways.check(gan, way.sampler)
    benchmark.pedantic(ways.sampled, args=(gan, way.sampler, n, 0), rounds=5 if full_size else 1)
