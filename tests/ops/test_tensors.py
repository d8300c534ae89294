"""Which tensors the ops accept: the same for every backend, and refusals say why."""

import dataclasses
import fractions
import random
import traceback
from pathlib import Path

import exotic
import pytest
import torch
from agreement import assert_same, bits, needs_cpu, noise, written
from exotic import (
    DENSE,
    FLOATS,
    GROUPS,
    LOGIT,
    PLACES,
    REFUSED,
    RNG,
    TAKEN,
    TOP,
    WHOLE,
    N,
    Z,
    all_rows,
    bytes_of,
    moved,
)

import drs_fast as drs
from drs_fast import Compacted, Rng, backend, ops
from drs_fast.backends import cpu, triton
from drs_fast.core.tensors import plain

SOURCES = Path(drs.__file__).parent
CPU = torch.device("cpu")
needs_triton = pytest.mark.skipif(triton.refuses(CPU) is not None, reason="needs Triton")
BACKENDS = ["reference", pytest.param("cpu", marks=needs_cpu)]


def kept(out):
    """All rows; from compacted rows, only the defined ones."""
    if not isinstance(out, Compacted):
        return list(out) if isinstance(out, tuple) else list(written(out))
    count = int(out.count)
    rows = [row[:count] for row in (*out.rows, out.ids, out.logit)]
    return [*rows, out.count, out.invalid, out.above]


def same(found, expected):
    for left, right in zip(kept(found), kept(expected), strict=True):
        assert type(left) is torch.Tensor
        assert not left.requires_grad
        assert_same(left, right)


def origin(error):
    """The file in which the error was raised."""
    return Path(traceback.extract_tb(error.__traceback__)[-1].filename)


def test_the_pools_hold_what_they_say():
    assert len(DENSE) >= 25
    assert {*FLOATS, *WHOLE} < set(DENSE)
    for kind in DENSE:
        assert_same(exotic.of_dtype(kind, 5, 2, seed=3), exotic.of_dtype(kind, 5, 2, seed=3))
        assert len(set(bits(exotic.of_dtype(kind, 9, 2)).tolist())) > 1


@pytest.mark.parametrize("place", PLACES)
def test_what_holds_no_numbers_in_memory_is_refused(place):
    given, call = PLACES[place]
    number = "must be a finite number" if place.endswith(("log_m", "gamma")) else "\0"
    for make, said in REFUSED.values():
        with pytest.raises(ValueError, match=rf"must (be|hold) .*{said}|{number}") as caught:
            call(make(given))
        assert SOURCES in origin(caught.value).parents


@pytest.mark.parametrize("kind", TAKEN)
@pytest.mark.parametrize("name", BACKENDS)
def test_what_holds_them_gives_what_a_plain_one_gives(name, kind):
    with backend(name):
        for given, call in PLACES.values():
            same(call(TAKEN[kind](given)), call(given))


@needs_cpu
def test_rows_of_every_dtype_in_every_layout():
    mask = ops.accept(LOGIT, RNG, log_m=TOP)
    again = ops.accept(LOGIT, RNG.at(RNG.row + N), log_m=TOP)
    assert 2 <= int(mask.sum()) < N
    both = torch.cat([mask, again]).nonzero()[:, 0] % N
    for rows in all_rows():
        found = moved("cpu", rows)
        agrees(moved("reference", rows), found)
        for i, (kind, compacted) in enumerate(found):
            row = rows[i % len(rows)]
            numbers = mask.nonzero()[:, 0] if i < len(rows) else both
            assert kind == row.dtype
            assert torch.equal(compacted, torch.cat([bytes_of(row[k]) for k in numbers.tolist()]))


def agrees(expected, found):
    for (kind, left), (other, right) in zip(expected, found, strict=True):
        assert kind == other
        assert torch.equal(left, right)


@needs_triton
def test_rows_of_every_dtype_in_triton():
    for rows in all_rows()[::6]:
        agrees(moved("reference", rows), moved("triton", rows))


LOGITS = {place for place in PLACES if "," not in place} - {"langevin"} | {"chain, start"}


@pytest.mark.parametrize("kind", DENSE, ids=str)
def test_dtypes_of_logits_thresholds_and_ids(kind):
    """Logits may have four dtypes; thresholds may also be integers; nothing else is accepted."""
    for place, (given, call) in PLACES.items():
        what = place.rpartition(", ")[2]
        odd = exotic.of_dtype(kind, *given.shape, seed=4)
        if kind in (*FLOATS, *WHOLE):
            odd = (given * 3).abs().to(kind)
        if place in LOGITS:
            allowed = FLOATS
        else:
            allowed = {
                "log_m": (*FLOATS, *WHOLE), "gamma": (*FLOATS, *WHOLE), "ids": (torch.int64,),
                "langevin": (torch.float32,), "grad": (torch.float32,),
                "rows": DENSE,
            }[what]  # fmt: skip
        for name in ("reference", "cpu") if cpu.refuses(CPU) is None else ("reference",):
            with backend(name):
                if kind not in allowed:
                    with pytest.raises(ValueError, match="must be ") as caught:
                        call(odd)
                    assert SOURCES in origin(caught.value).parents
                elif what in ("log_m", "gamma"):
                    same(call(odd), call(odd.double()))
                else:
                    call(odd)


HUGE = 10**400
BEYOND = {
    "log_m": lambda: ops.probability(LOGIT, log_m=HUGE),
    "log_m, a fraction": lambda: ops.probability(LOGIT, log_m=fractions.Fraction(HUGE, 3)),
    "log_m, of more digits than Python writes": lambda: ops.probability(LOGIT, log_m=-(10**5000)),
    "gamma": lambda: ops.accept(LOGIT, RNG, log_m=0.0, gamma=-HUGE),
    "eps": lambda: ops.accept(LOGIT, RNG, log_m=0.0, eps=HUGE),
    "q": lambda: ops.quantile_gamma(LOGIT, HUGE, log_m=0.0),
    "seed": lambda: Rng(10**5000),
    "row": lambda: Rng(0, 2**63),
    "n": lambda: ops.uniform(Rng(0), 2**62, stream=1),
    "n, past all rows": lambda: ops.uniform(RNG, 10**5000, stream=1),
    "n and d": lambda: ops.normal(Rng(0), 2**30, 2**30),
    "d": lambda: ops.normal(Rng(0), 1, HUGE),
    "stream": lambda: ops.uniform(Rng(0), 1, stream=2**64),
    "draw": lambda: ops.uniform(Rng(0), 1, stream=1, draw=HUGE),
    "d of latents": lambda: ops.accept_latents(LOGIT, 2**40, rng=RNG, log_m=0.0),
    "d of latents, allowed": lambda: ops.accept_latents(
        torch.zeros(1).expand(2**20), 2**34, rng=RNG, log_m=0.0
    ),
    "capacity": lambda: ops.ring(LOGIT, rng=RNG, capacity=2**60, log_m=0.0),
    "limit": lambda: ops.ring(LOGIT, rng=RNG, capacity=16, log_m=0.0, limit=HUGE),
    "size": lambda: ops.select(GROUPS.expand(2**20, 4, 3).reshape(-1, 3)[: 2**16], RNG, size=2**31),
    "step": lambda: ops.langevin(Z, Z, RNG, step=HUGE, step_size=0.1),
    "step_size": lambda: ops.langevin(Z, Z, RNG, step=1, step_size=HUGE),
    "noise": lambda: ops.langevin(Z, Z, RNG, step=1, step_size=1.0, noise=HUGE),
    "device": lambda: ops.uniform(Rng(0), 1, stream=1, device=HUGE),
}


@pytest.mark.parametrize("name", BEYOND)
def test_numbers_beyond_what_can_be_are_refused(name):
    with pytest.raises(ValueError) as caught:
        BEYOND[name]()
    assert SOURCES in origin(caught.value).parents
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("value", [LOGIT, LOGIT.numpy(), ["none"], None])
def test_a_choice_is_text(value):
    with pytest.raises(ValueError, match="interpolation must be one of"):
        ops.quantile_gamma(LOGIT, 50, log_m=1.0, interpolation=value)


WRITTEN = {
    "gradient": (lambda t: t.requires_grad_(), "requires a gradient; make it with torch.empty"),
    "inference": (
        lambda t: torch.inference_mode()(t.clone)(),
        "was made in inference mode; make it with",
    ),
    "sparse": (lambda t: t.to_sparse(), "must be a dense tensor"),
    "strided": (lambda t: t.repeat_interleave(2)[::2], "must be contiguous"),
    "array": (lambda t: t.numpy(), "must be .*, got ndarray"),
}


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize("name", BACKENDS)
def test_what_cannot_be_written_to_is_refused(name, kind):
    make, message = WRITTEN[kind]
    with backend(name):
        out = ops.accept_compact(LOGIT, rng=RNG, log_m=TOP)
        wrong = dataclasses.replace(out, logit=make(out.logit.clone()))
        with pytest.raises(ValueError, match=rf"out.logit .*{message}"):
            ops.accept_compact(LOGIT, rng=RNG, log_m=TOP, out=wrong)
        ring = ops.ring(LOGIT, rng=RNG, capacity=16, log_m=TOP)
        wrong = dataclasses.replace(ring, logit=make(ring.logit.clone()))
        with pytest.raises(ValueError, match=rf"ring.logit .*{message}"):
            ops.accept_append(LOGIT, ring=wrong)
        if kind != "gradient":  # which integers never have
            wrong = dataclasses.replace(out, ids=make(out.ids.clone()))
            with pytest.raises(ValueError, match=rf"out.ids .*{message}"):
                ops.accept_compact(LOGIT, rng=RNG, log_m=TOP, out=wrong)
            wrong = dataclasses.replace(ring, ids=make(ring.ids.clone()))
            with pytest.raises(ValueError, match=rf"ring.ids .*{message}"):
                ops.accept_append(LOGIT, ring=wrong)


@pytest.mark.parametrize("name", BACKENDS)
def test_tensors_of_inference_mode_are_written_to_within_it(name):
    with backend(name), torch.inference_mode():
        out = ops.accept_compact(LOGIT, Z, rng=RNG, log_m=TOP)
        ops.accept_compact(LOGIT, Z, rng=RNG, log_m=TOP, out=out)
        ring = ops.ring(LOGIT, Z, rng=RNG, capacity=16, log_m=TOP)
        assert int(ops.accept_append(LOGIT, Z, ring=ring).cursor) == int(out.count)


@pytest.mark.parametrize("kind", REFUSED)
def test_a_loop_refuses_what_a_call_does(kind):
    make, said = REFUSED[kind]
    append = ops.appending(ops.ring(LOGIT, Z, rng=RNG, capacity=32, log_m=TOP))
    append(LOGIT, Z)
    for logit, row in ((make(LOGIT), Z), (LOGIT, make(Z))):
        with pytest.raises(ValueError, match=rf"must (be|hold) .*{said}"):
            append(logit, row)


def test_many_numbers_that_share_memory_are_taken():
    wide = torch.zeros(1, 1, dtype=torch.uint8).expand(4, 2**31)
    assert plain("x", wide) is wide


# --- any arguments


def outcome(name, call):
    """What a backend returns for a call, or the message of the check that refuses it."""
    with backend(name):
        try:
            return call()
        except ValueError as error:
            if SOURCES not in origin(error).parents:
                raise
            return str(error)


def any_call(draw):
    """An op with arguments that are each valid or odd."""
    place = draw.choice(list(PLACES))
    given, call = PLACES[place]
    kind = draw.choice(["plain", "taken", "refused", "dtype", "shape", "values"])
    if kind == "taken":
        given = draw.choice(list(TAKEN.values()))(given)
    elif kind == "refused":
        given = draw.choice(list(REFUSED.values()))[0](given)
    elif kind == "dtype":
        given = exotic.of_dtype(draw.choice(DENSE), *given.shape, seed=draw.randrange(1000))
    elif kind == "shape":
        given = draw.choice([
            given[:-1], given[:0], given[0], given[None], given[:, None], given.flip(0),
            given[:1].expand_as(given), given.reshape(-1)[0], given.expand(2, *given.shape),
            given[:0].double(),
        ])  # fmt: skip
    elif kind == "values" and given.is_floating_point():
        mask = noise(*given.shape, seed=draw.randrange(1000)) > 0
        odd = draw.choice([torch.nan, torch.inf, -torch.inf, 1e30, -1e30, 0.0, 1e-40, 600.5])
        given = given.masked_fill(mask, odd)
    return place, kind, lambda: call(given)


def agree(name, seed, calls):
    """How many of the calls returned something."""
    draw, good = random.Random(seed), 0
    for _ in range(calls):
        place, kind, call = any_call(draw)
        expected, found = outcome("reference", call), outcome(name, call)
        if isinstance(expected, str) or isinstance(found, str):
            assert found == expected, (place, kind)
        else:
            good += 1
            same_bytes(found, expected)
    return good


def same_bytes(found, expected):
    for left, right in zip(kept(found), kept(expected), strict=True):
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        assert torch.equal(bytes_of(left), bytes_of(right))


@needs_cpu
def test_any_arguments_give_the_same_bits_or_the_same_words():
    assert 250 < agree("cpu", 16, 1000) < 750


@needs_triton
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter's NumPy, on inf - inf
def test_any_arguments_in_triton():
    assert agree("triton", 17, 60) > 12
