import pytest
import torch
from agreement import threads

from drs_fast import Rng, ops
from drs_fast.backends import cpu

N = 70_013  # past the size from which two threads share the work, and no multiple of a vector


@pytest.fixture(params=cpu._C.instruction_sets())
def instruction_set(request):
    before = cpu.instruction_set()
    cpu._C.use_instruction_set(request.param)
    yield request.param
    cpu._C.use_instruction_set(before)


def everything():
    rows = torch.arange(N, dtype=torch.float64)
    logit = (rows * 0.618034 % 1 - 0.8) * 20
    logit[::101], logit[1::101], logit[2::101] = torch.nan, torch.inf, -torch.inf
    image = (rows.long() % 251).to(torch.uint8)[:, None].repeat(1, 128)
    rng = Rng(2**63 + 11, 2**32 - 1000)
    yield ops.uniform(rng, N, stream=1)
    yield ops.words(rng, N, 5, stream=3, draw=2)
    yield ops.normal(rng, N, 6)
    for logits in (logit, logit.float()):
        for gamma in (0.0, -3.0, 45.0, torch.linspace(-9, 9, N)):
            yield ops.probability(logits, log_m=4.0, gamma=gamma)
            yield ops.weight(logits, log_m=4.0, gamma=gamma)
            yield ops.accept(logits, rng, log_m=3.9, gamma=gamma)
            kept = ops.accept_compact(logits, image, rows, rng=rng, log_m=3.9, gamma=gamma)
            n = int(kept.count)
            yield from (kept.ids[:n], kept.logit[:n], kept.rows[0][:n], kept.rows[1][:n])
            yield from (kept.count, kept.invalid, kept.above)


@pytest.fixture(scope="module")
def expected():
    with ops.backend("reference"):
        return list(everything())


def test_every_instruction_set_gives_the_bits_of_the_reference(instruction_set, expected):
    assert cpu.instruction_set() == instruction_set
    with ops.backend("cpu"), threads(2):
        got = list(everything())
    for ours, theirs in zip(got, expected, strict=True):
        assert torch.equal(ours, theirs)
