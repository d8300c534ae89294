"""The quick answer of the checks never takes what the slow one refuses."""

import pytest
import torch

from drs_fast import Compacted, Rng, ops
from drs_fast.ops import outputs

N, D = 6, 3
LOGIT, Z = torch.zeros(N), torch.ones(N, D)


def made():
    return Compacted.empty(LOGIT, (Z,))


def with_field(**changed):
    return Compacted(**{**vars(made()), **changed})


BAD = {
    "another dtype": lambda: with_field(ids=torch.zeros(N, dtype=torch.int32)),
    "another shape": lambda: with_field(logit=torch.zeros(N + 1)),
    "strided": lambda: with_field(rows=(torch.zeros(D, N).T,)),
    "wants a gradient": lambda: with_field(rows=(torch.zeros(N, D, requires_grad=True),)),
    "made in inference mode": lambda: with_field(count=torch.inference_mode()(made)().count),
    "negative": lambda: with_field(logit=torch._neg_view(torch.zeros(N))),
    "without memory": lambda: with_field(logit=torch._efficientzerotensor(N)),
    "that stands for another": lambda: with_field(logit=torch._to_functional_tensor(LOGIT * 1)),
    "sparse": lambda: with_field(logit=torch.zeros(N).to_sparse()),
    "on meta": lambda: with_field(above=torch.zeros((), dtype=torch.int64, device="meta")),
    "one twice": lambda: with_field(**dict.fromkeys(("count", "above"), made().count)),
    "the logits": lambda: with_field(logit=LOGIT),
    "the rows": lambda: with_field(rows=(Z,)),
    "half the rows": lambda: with_field(logit=Z.view(-1)[1 : 1 + N]),
    "too few": lambda: with_field(rows=()),
    "no Compacted": lambda: vars(made()),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_written_to_is_refused(name):
    with pytest.raises(ValueError, match=r"^out"):
        ops.accept_compact(LOGIT, Z, rng=Rng(0), log_m=0.0, out=BAD[name]())


def test_most_calls_get_the_quick_answer():
    shared = Z[:, 0], Z  # what is only read may share memory
    assert outputs.surely_good(made(), LOGIT, (Z,), None, 0.0, 1.0)
    assert outputs.surely_good(Compacted.empty(LOGIT, shared), LOGIT, shared)
    with torch.inference_mode():
        assert outputs.surely_good(made(), LOGIT, (Z,))


def test_appending_looks_at_every_batch():
    ring = ops.ring(LOGIT, Z, rng=Rng(0), capacity=8, log_m=0.0)
    fits = outputs.Fits(ring)
    assert fits(LOGIT, (Z,))
    assert fits(LOGIT[:2], (Z[:2],))
    for logit, row in (
        (LOGIT.double(), Z), (LOGIT, Z[:2]), (LOGIT, Z[:, :2]), (LOGIT, torch.zeros(D, N).T),
        (LOGIT, Z.clone().requires_grad_()), (torch.zeros(N + 1), torch.ones(N + 1, D)),
        (torch._neg_view(LOGIT), Z), (LOGIT, Z.to_sparse()),
    ):  # fmt: skip
        assert not fits(logit, (row,))
