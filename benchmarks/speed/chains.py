"""chain and select against plain loops: `python -m benchmarks.speed.chains`."""

import math
import time

import torch

from drs_fast import Rng, backend, core, ops

CHAINS, CANDIDATES = 1000, 640
RNG = Rng(1, 2**40)


def python_chain(logit, u):
    """One chain after another, candidate by candidate, on lists of floats."""
    ends = []
    for candidates, uniforms in zip(logit, u, strict=True):
        state, end = candidates[0], 0
        for k in range(1, len(candidates)):
            d = candidates[k] - state
            if d >= 0.0 or uniforms[k] < math.exp(d):
                state, end = candidates[k], k
        ends.append(end)
    return ends


def python_select(logit, u):
    drawn = []
    for candidates, uniform in zip(logit, u, strict=True):
        top = max(candidates)
        sums, total = [], 0.0
        for value in candidates:
            total += math.exp(value - top)
            sums.append(total)
        drawn.append(next(k for k, passed in enumerate(sums) if passed > uniform * total))
    return drawn


def torch_chain(logit, u):
    """All chains at once, candidate by candidate."""
    state = logit[:, 0].clone()
    end = torch.zeros(len(logit), dtype=torch.int64)
    for k in range(1, logit.shape[1]):
        moves = u[:, k] < torch.exp(logit[:, k] - state)
        state = torch.where(moves, logit[:, k], state)
        end = torch.where(moves, k, end)
    return end


def torch_select(logit, u):
    sums = torch.exp(logit - logit.amax(dim=1, keepdim=True)).cumsum(dim=1)
    return torch.searchsorted(sums, (u * sums[:, -1])[:, None], right=True)[:, 0]


def milliseconds(call, rounds):
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(1000.0 * (time.perf_counter() - start))
    return min(times)


def main():
    rows = torch.arange(CHAINS * CANDIDATES)
    logit = (2.0 * ops.normal(Rng(0), len(rows), 1)[:, 0]).view(CHAINS, CANDIDATES)
    wide = logit.double()
    firsts = RNG.row + CANDIDATES * torch.arange(CHAINS)

    def uniforms(stream):
        if stream == core.CHAIN:
            return ops.uniform(RNG, len(rows), stream=stream).view(CHAINS, CANDIDATES)
        return ops.uniform(RNG, CHAINS, stream=stream, ids=firsts)

    cases = {
        "chain": (ops.chain, core.CHAIN, python_chain, torch_chain),
        "select": (lambda *args: ops.select(*args)[:, 0], core.SELECT, python_select, torch_select),
    }
    print(f"{CHAINS:,} groups of {CANDIDATES}, {torch.get_num_threads()} threads; random numbers")
    print("included everywhere, from drs_fast. Best rounds; all give the same indices.")
    for name, (op, stream, plain, vectorised) in cases.items():
        ways = {
            "drs_fast": (lambda op=op: op(logit, RNG), 100),
            "PyTorch": (lambda s=stream, v=vectorised: v(wide, uniforms(s)), 30),
            "Python": (lambda s=stream, p=plain: p(wide.tolist(), uniforms(s).tolist()), 10),
        }
        with backend("reference"):
            expected = op(logit, RNG)
        for way, (call, _) in ways.items():
            if not torch.equal(torch.as_tensor(call()), expected):
                raise SystemExit(f"{name}: {way} differs from the reference")
        found = {way: milliseconds(*measured) for way, measured in ways.items()}
        for way, time_taken in found.items():
            print(f"{name:7} {way:9} {time_taken:9.2f} ms {time_taken / found['drs_fast']:7.1f}")


if __name__ == "__main__":
    main()
