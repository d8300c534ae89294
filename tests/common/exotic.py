"""Tensors of every kind that PyTorch has, and calls of every op with one of them in every place."""

import warnings

import torch
from agreement import noise, unmoved
from torch import masked
from torch._subclasses.fake_tensor import FakeTensorMode

from drs_fast import Rng, backend, ops

N, D = 12, 3
TOP = 0.7  # accepts some, and not all
RNG = Rng(5, 2**40)
LOGIT, Z = noise(N, seed=1), noise(N, D, seed=2)
GROUPS = LOGIT.view(4, 3)
IDS = torch.arange(N) * 3
DENSE = sorted(
    {
        kind
        for kind in vars(torch).values()
        if isinstance(kind, torch.dtype) and not str(kind).startswith(("torch.q",))
    },
    key=str,
)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WHOLE = (
    torch.int8, torch.int16, torch.int32, torch.int64,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64,
)  # fmt: skip


class Named(torch.Tensor):
    """A subclass that adds nothing but a name."""


def of_dtype(kind, *shape, seed=0):
    """Arbitrary bits as numbers of that dtype, the same on every call."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that complex32 is experimental
        made = torch.empty(shape, dtype=kind)
    bytes_of = torch.empty(0, dtype=torch.uint8).set_(made.untyped_storage())
    bits = torch.randint(2, 256, bytes_of.shape, generator=torch.Generator().manual_seed(seed))
    if kind is torch.bool:
        bits %= 2
    bytes_of.copy_(bits)
    return made


def fake(tensor):
    with FakeTensorMode() as mode:
        return mode.from_tensor(tensor)


def quantized(tensor):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        return torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.quint8)


def nested(tensor, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is a prototype
        return torch.nested.nested_tensor([tensor, tensor], **how)


def compressed(tensor):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is in beta
        return (tensor if tensor.ndim == 2 else tensor[:, None]).to_sparse_csr()


def hidden(tensor):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is a prototype
        return masked.masked_tensor(tensor.float(), tensor > 0)


# Name: (what makes one of a plain tensor, what is said of it)
REFUSED = {
    "sparse": (lambda t: t.to_sparse(), "with layout torch.sparse_coo; to_dense"),
    "sparse rows": (compressed, "with layout torch.sparse_csr; to_dense"),
    "mkldnn": (lambda t: t.float().to_mkldnn(), "with layout torch._mkldnn; to_dense"),
    "nested": (nested, "a nested .* tensor.*to_padded_tensor"),
    "jagged": (lambda t: nested(t, layout=torch.jagged), "pass a plain tensor"),
    "quantized": (quantized, "quint8; dequantize"),
    "meta": (lambda t: t.to("meta"), "numbers, got .* on meta.*; pass a plain"),
    "fake": (fake, "pass a plain tensor"),
    "masked": (hidden, "pass a plain tensor"),
    "functional": (lambda t: torch._to_functional_tensor(t.clone()), "pass a plain tensor"),
    "zero": (lambda t: torch._efficientzerotensor(t.shape), "pass a plain tensor"),
    "not yet there": (lambda t: torch.nn.UninitializedParameter(), "pass a plain tensor"),
    "array": (lambda t: t.numpy(), "got ndarray; torch.as_tensor"),
    "foreign bytes": (lambda t: t.double().numpy().astype(">f8"), "got ndarray; torch.as_tensor"),
    "list": (lambda t: t.tolist(), "got list; torch.as_tensor"),
    "dict": (lambda t: {"x": t}, "got dict"),
}
# Kinds of tensors that are taken, and give what a plain one gives.
TAKEN = {
    "parameter": lambda t: torch.nn.Parameter(t.clone(), requires_grad=t.is_floating_point()),
    "buffer": lambda t: torch.nn.Buffer(t.clone()),
    "a class that is a name": lambda t: t.clone().as_subclass(Named),
    "gradient": lambda t: t.clone().requires_grad_(t.is_floating_point()),
    "not a leaf": lambda t: t.clone().requires_grad_() * 1 if t.is_floating_point() else t,
    "inference": lambda t: torch.inference_mode()(t.clone)(),
    "negative": lambda t: torch._neg_view(-t) if t.is_floating_point() else t,
    "imaginary": lambda t: torch.complex(t, -t).conj().imag if t.dtype is torch.float32 else t,
    "every other": lambda t: t.repeat_interleave(2, dim=0)[::2],
    "transposed": lambda t: t.T.contiguous().T if t.ndim == 2 else t,
    "in the middle": lambda t: torch.cat([t, t, t])[len(t) : 2 * len(t)],
    "array's": lambda t: torch.from_numpy(t.numpy().copy()),
}


def appended(logit, *rows, **how):
    ring = ops.ring(LOGIT if not isinstance(logit, torch.Tensor) else logit, *rows,
                    rng=RNG, capacity=16, log_m=1.0)  # fmt: skip
    for tensor in (*ring.rows, ring.ids, ring.logit):
        tensor.untyped_storage().fill_(0)
    return ops.accept_append(logit, *rows, ring=ring, **how)


# Place: (a plain tensor that belongs there, the call)
PLACES = {
    "probability": (LOGIT, lambda t: ops.probability(t, log_m=1.0)),
    "weight": (LOGIT, lambda t: ops.weight(t, log_m=1.0)),
    "probability, log_m": (LOGIT, lambda t: ops.probability(LOGIT, log_m=t)),
    "probability, gamma": (LOGIT, lambda t: ops.probability(LOGIT, log_m=1.0, gamma=t)),
    "accept": (LOGIT, lambda t: ops.accept(t, RNG, log_m=1.0)),
    "accept, ids": (IDS, lambda t: ops.accept(LOGIT, RNG, log_m=1.0, ids=t)),
    "accept_compact": (LOGIT, lambda t: ops.accept_compact(t, Z, rng=RNG, log_m=1.0)),
    "accept_compact, rows": (Z, lambda t: ops.accept_compact(LOGIT, Z, t, rng=RNG, log_m=1.0)),
    "accept_compact, ids": (
        IDS, lambda t: ops.accept_compact(LOGIT, rng=RNG, log_m=1.0, ids=t)
    ),
    "accept_latents": (LOGIT, lambda t: ops.accept_latents(t, D, rng=RNG, log_m=1.0)),
    "accept_append": (LOGIT, lambda t: appended(t, Z)),
    "accept_append, rows": (Z, lambda t: appended(LOGIT, t)),
    "accept_append, log_m": (LOGIT, lambda t: appended(LOGIT, log_m=t)),
    "uniform, ids": (IDS, lambda t: ops.uniform(RNG, N, stream=1, ids=t)),
    "words, ids": (IDS, lambda t: ops.words(RNG, N, D, ids=t)),
    "normal, ids": (IDS, lambda t: ops.normal(RNG, N, D, ids=t)),
    "largest": (LOGIT, lambda t: ops.largest(t)),
    "quantile_gamma": (LOGIT, lambda t: ops.quantile_gamma(t, 50, log_m=1.0)),
    "chain": (GROUPS, lambda t: ops.chain(t, RNG)),
    "chain, start": (LOGIT[:4], lambda t: ops.chain(GROUPS, RNG, start=t)),
    "walk": (GROUPS, lambda t: ops.walk(t, RNG)),
    "select": (GROUPS, lambda t: ops.select(t, RNG, size=2)),
    "select, ids": (IDS, lambda t: ops.select(GROUPS, RNG, ids=t)),
    "langevin": (Z, lambda t: ops.langevin(t, Z, RNG, step=1, step_size=0.1)),
    "langevin, grad": (Z, lambda t: ops.langevin(Z, t, RNG, step=1, step_size=0.1)),
}  # fmt: skip


def bytes_of(tensor):
    """Bytes of a tensor of any dtype and layout, in the order of its elements."""
    size = tensor.element_size()
    base = torch.empty(0, dtype=torch.uint8).set_(tensor.detach().untyped_storage().cpu())
    if tensor.numel() == 0:
        return base[:0]
    steps = (*(step * size for step in tensor.stride()), 1)
    start = tensor.storage_offset() * size
    return base.as_strided((*tensor.shape, size), steps, start).reshape(-1)


def all_rows():
    """Rows of every dtype in every layout, eight tensors at a time."""
    rows = [row for i, kind in enumerate(DENSE) for row in laid_out(kind, seed=i)]
    return [rows[i : i + 8] for i in range(0, len(rows), 8)]


def moved(name, rows, to=unmoved):
    """The rows that accept_compact and accept_append of a backend keep, with their dtypes."""
    logit, there = to(LOGIT), [to(row) for row in rows]
    with backend(name):
        compacted = ops.accept_compact(logit, *there, rng=RNG, log_m=TOP)
        ring = ops.ring(logit, *there, rng=RNG, capacity=32, log_m=TOP)
        for _ in range(2):
            ops.accept_append(logit, *there, ring=ring)
    count, total = int(compacted.count), int(ring.cursor)
    found = [row[:count] for row in compacted.rows] + [row[:total] for row in ring.rows]
    return [(row.dtype, bytes_of(row)) for row in found]


def laid_out(kind, seed=0):
    """Rows (N, ...) of a dtype in every layout that is dense."""
    big, turned = of_dtype(kind, 2 * N, 4, seed=seed), of_dtype(kind, 4, N, seed=seed + 1).T
    return (
        big[:N], big[::2], big[:N, 1:3], big[:N, ::2], big[:N, 0], turned, big[N:],
        big[:1].expand(N, 4), big[:N, :1].expand(N, 5), big[:N, None, :0],
    )  # fmt: skip
