"""Small GANs, and what two runs have in common."""

import hashlib
from collections import namedtuple
from pathlib import Path

import torch

import drs_fast as drs
from drs_fast.samplers.drs import DRS
from drs_fast.store.format import SECONDS
from drs_fast.store.manifest import totals

FACTS = {
    "chunk_rows": 64,
    "model": "toy",
    "labels": None,
    "version": "0.1.0",
    "law": "data",
    "group": 1,
    "tallies": [],
    "log_m": 1.25,
    "gamma": -0.5,
}


def summary(writer):
    """What a finished run reports besides its facts."""
    found = totals(writer.records.values(), writer.facts, writer.n)
    calls = sum(record.counters["calls"] for record in writer.records.values())
    return {**found, "calls_total": calls + 50}


Usage = namedtuple("Usage", "total used free")
QUICK = DRS(burn_in=2048)
SHIFT = torch.tensor([-5.0, 0.0, 9.0])
SCALE = torch.tensor([0.01, 1.0, 40.0])
OFFSET = torch.tensor([-50.0, 0.0, 300.0])


def toy():
    return drs.GAN(lambda z: z, lambda x: x[:, 0] - 0.25 * x[:, 1].square(), 2)


def conditional():
    return drs.GAN(
        lambda z, y: z + SHIFT[y, None],
        lambda x, y: (1.0 + y) * (x - SHIFT[y, None])[:, 0],
        2,
        labels=3,
    )


def plain(logit=lambda x: 1.5 * x[:, 0] - 0.3 * x[:, 1].square()):
    return drs.GAN(lambda z: z, logit, 2)


def scaled():
    """Class-conditional, with logits of very different places and widths."""
    return drs.GAN(lambda z, y: z, lambda x, y: SCALE[y] * x[:, 0] + OFFSET[y], 2, labels=3)


def columns(batch):
    named = {"ids": batch.ids, "x": batch.x, "z": batch.z, "logit": batch.logit}
    return named if batch.y is None else {**named, "y": batch.y}


def equal(a, b):
    a, b = columns(a), columns(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def same_files(directory):
    """The files of a run that are the same for the same command: all but the one of seconds."""
    return sorted(path for path in Path(directory).iterdir() if path.name != SECONDS)


def contents(directory):
    return {path.name: path.read_bytes() for path in same_files(directory)}


def files(directory):
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents(directory).items()}


class Counted:
    """A function that counts the rows it was given."""

    def __init__(self, function):
        self.function = function
        self.rows = 0

    def __call__(self, *given):
        self.rows += len(given[0])
        return self.function(*given)


def latents_taken(monkeypatch):
    """A list of the ranges of rows, (first, end), that latents are drawn for from now on."""
    taken, latents = [], drs.ops.latents

    def recorded(gan, rng, n, **more):
        taken.append((rng.row, rng.row + n))
        return latents(gan, rng, n, **more)

    monkeypatch.setattr(drs.ops, "latents", recorded)
    return taken
