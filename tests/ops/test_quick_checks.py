"""The quick answer of the checks never takes what the slow one refuses."""

import pytest
import torch

from drs_fast import Compacted, Rng, backend, ops
from drs_fast.ops import outputs, remembered

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


SHARING = torch.zeros(N, D)
CHANGES = {
    "now another shape": lambda out: out.logit.resize_(N + 1),
    "now wants a gradient": lambda out: out.rows[0].requires_grad_(),
    "now strided": lambda out: out.rows[0].set_(torch.zeros(D, N).T),
    "now the rows": lambda out: out.rows[0].set_(SHARING),
    "now one twice": lambda out: out.count.set_(out.above),
    "now another dtype": lambda out: setattr(out.logit, "data", torch.zeros(N).double()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_good_is_looked_at_again(name):
    out, rule = made(), {"rng": Rng(0), "log_m": 0.0}
    for _ in range(3):
        ops.accept_compact(LOGIT, SHARING, **rule, out=out)
    CHANGES[name](out)
    with pytest.raises(ValueError, match=r"^out"):
        ops.accept_compact(LOGIT, SHARING, **rule, out=out)


def test_rows_in_a_list_are_looked_at_in_every_call():
    out, rule = with_field(rows=[made().rows[0]]), {"rng": Rng(0), "log_m": 0.0}
    for _ in range(3):
        ops.accept_compact(LOGIT, SHARING, **rule, out=out)
    out.rows[0] = torch.zeros(N, D).double()
    with pytest.raises(ValueError, match=r"^out"):
        ops.accept_compact(LOGIT, SHARING, **rule, out=out)


@pytest.mark.parametrize("shared", ["logit", "rows", "log_m"])
def test_what_is_read_is_looked_at_again(shared):
    out, rule = made(), {"rng": Rng(0), "log_m": torch.zeros(N, dtype=torch.float64)}
    for _ in range(3):
        ops.accept_compact(LOGIT, Z, **rule, out=out)
    logit, z = out.logit if shared == "logit" else LOGIT, out.rows[0] if shared == "rows" else Z
    if shared == "log_m":
        rule["log_m"] = out.ids.zero_().view(torch.float64)
    with pytest.raises(ValueError, match=r"^out"):
        ops.accept_compact(logit, z, **rule, out=out)


def test_an_out_is_not_kept_alive():
    out = made()
    for _ in range(2):
        ops.accept_compact(LOGIT, Z, rng=Rng(0), log_m=0.0, out=out)
    assert id(out) in remembered._good
    name = id(out)
    del out
    assert name not in remembered._good


def test_the_same_rows_in_the_next_call():
    out, expected = made(), []
    for row in (0, 100, 2**63 - N):
        for logit in (LOGIT, LOGIT[:4], LOGIT.clone().requires_grad_(), LOGIT - 5.0):
            z = torch.rand(len(logit), D)
            with backend("reference"):
                wanted = ops.accept_compact(logit, z, rng=Rng(0, row), log_m=0.5)
            found = ops.accept_compact(logit, z, rng=Rng(0, row), log_m=0.5, out=out)
            count = int(wanted.count)
            assert int(found.count) == count
            assert torch.equal(found.ids[:count], wanted.ids[:count])
            assert torch.equal(found.rows[0][:count], wanted.rows[0][:count])
            expected.append(count)
    assert sum(expected) > 0
    with pytest.raises(ValueError, match=r"pass 2\^63"):
        ops.accept_compact(LOGIT, Z, rng=Rng(0, 2**63 - N + 1), log_m=0.5, out=out)
