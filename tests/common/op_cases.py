"""One case or more of every op, in which each fast backend must give the reference's bits."""

import inspect

import torch
from agreement import assert_same, noise, unmoved

from drs_fast import Compacted, Rng, backend, ops
from drs_fast.backends import reference

N = 300
RNG = Rng(2**64 - 3, 2**32 - 7)
LOGIT, Z, IDS = noise(N), noise(N, 3, seed=1), torch.arange(N) * 5
GROUPS = LOGIT.view(-1, 5)
PER_ROW = noise(N, seed=2).abs() + 1.0
LOG_M, GAMMA = torch.tensor(1.5, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)


def of_device(to):
    return {"device": to(LOGIT).device}


# The first word is the op. `to` moves a tensor to the backend's device.
CASES = {
    "uniform": lambda to: ops.uniform(RNG, N, stream=3, **of_device(to)),
    "words": lambda to: ops.words(RNG, N, 5, draw=2, **of_device(to)),
    "normal": lambda to: ops.normal(RNG, N, 5, ids=to(IDS), **of_device(to)),
    "probability": lambda to: ops.probability(to(LOGIT), log_m=1.5, gamma=to(PER_ROW)),
    "weight": lambda to: ops.weight(to(LOGIT), log_m=1.5, gamma=to(PER_ROW)),
    "accept": lambda to: ops.accept(to(LOGIT), RNG, log_m=to(LOG_M), gamma=0.5, ids=to(IDS)),
    "accept_compact": lambda to: ops.accept_compact(
        to(LOGIT), to(Z), to(Z) > 0, rng=RNG, log_m=1.5
    ),
    "accept_compact per row": lambda to: ops.accept_compact(to(LOGIT), rng=RNG, log_m=to(PER_ROW)),
    "accept_latents": lambda to: ops.accept_latents(
        to(LOGIT), 7, rng=RNG, log_m=1.5, gamma=to(GAMMA)
    ),
    "largest": lambda to: ops.largest(to(LOGIT)),
    "quantile_gamma": lambda to: ops.quantile_gamma(to(LOGIT), 80.0, log_m=to(LOG_M)),
    "quantile_gamma as NumPy's": lambda to: ops.quantile_gamma(
        to(LOGIT), 80.0, log_m=1.5, interpolation="linear"
    ),
    "chain": lambda to: ops.chain(to(GROUPS), RNG),
    "chain of a start": lambda to: ops.chain(
        to(GROUPS), RNG, start=to(GROUPS)[:, 0], ids=to(IDS)
    ),
    "walk": lambda to: ops.walk(to(GROUPS), RNG, start=to(GROUPS)[:, 0]),
    "select": lambda to: ops.select(to(GROUPS), RNG, size=3, ids=to(IDS)),
    "select without replacement": lambda to: ops.select(to(GROUPS), RNG, size=2, replace=False),
    "langevin": lambda to: ops.langevin(
        to(Z), to(Z) + 1.0, RNG, step=3, step_size=0.1, noise=0.5
    ),
}  # fmt: skip


def ring(to):
    made = ops.ring(to(LOGIT), to(Z), rng=RNG, capacity=512, log_m=1.5)
    for tensor in (*made.rows, made.ids, made.logit):
        tensor.zero_()
    return made


def contents(made):
    return (*made.rows, made.ids, made.logit, made.state)


RINGS = {
    "accept_append": lambda to: contents(
        ops.accept_append(to(LOGIT), to(Z), ring=ring(to), gamma=0.5)
    ),
    "appending": lambda to: contents(ops.appending(ring(to), gamma=0.5)(to(LOGIT), to(Z))),
}


def flat(result):
    """Every tensor of a result; from compacted rows, only the defined part."""
    if not isinstance(result, Compacted):
        return list(result) if isinstance(result, tuple) else [result]
    n = int(result.count)
    kept = [tensor[:n] for tensor in (*result.rows, result.ids, result.logit)]
    return [*kept, result.count, result.invalid, result.above]


def uncompared(monkeypatch, name, module, to):
    """Ops of a backend that no case calls. Every case must give the reference's bits."""
    own = {
        op
        for op, function in vars(module).items()
        if inspect.isfunction(function) and op in vars(reference) and not op.startswith("_")
        if function.__module__.startswith(module.__name__)
    } - {"refuses"}
    called = set()

    def spied(op, function):
        def call(*arguments, **options):
            called.add(op)
            return function(*arguments, **options)

        return call

    for op in own:
        monkeypatch.setattr(module, op, spied(op, getattr(module, op)))
    for case in (*CASES.values(), *RINGS.values()):
        with backend("reference"):
            expected = flat(case(unmoved))
        with backend(name):
            try:
                found = flat(case(to))
            except RuntimeError as error:  # the backend leaves this op to another
                if f"{name}: has no " not in str(error):
                    raise
                continue
        for ours, theirs in zip(found, expected, strict=True):
            assert_same(ours.cpu(), theirs)
    return sorted(own - called)
