"""Which tensors a GAN, and what is learned from one, take: those that hold numbers in memory."""

import fractions
import re

import exotic
import numpy as np
import pytest
import torch
from exotic import REFUSED
from torch import nn

import drs_fast as drs
from drs_fast import GAN
from drs_fast.samplers import Collaborative, Latent

Z, Y, X = torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64), torch.ones(4, 2)


def generator(z, *y):
    return z.clone()


def discriminator(x, *y):
    return x[:, 0].float()


def plane(labels=None, **settings):
    return GAN(generator, discriminator, 2, labels=labels, **settings)


class Layer(nn.Linear):
    """Changes what it gives."""

    def __init__(self, change, outputs):
        super().__init__(2, outputs)
        self.change = change

    def forward(self, rows):
        return self.change(super().forward(rows))


def refined(change):
    gan = GAN(nn.Sequential(Layer(change, 2)), discriminator, 2)
    drs.generate(gan, Collaborative(layer="0", steps=1, burn_in=1), 1)


def learned(train, critic):
    train(GAN(generator, critic, 2, real=torch.rand(100, 2)))


# Place: (a plain tensor that belongs there, the call)
GIVEN = {
    "logits": (Z, lambda t: plane().logits(t)),
    "samples": (Z, lambda t: plane().samples(t)),
    "gradients": (Z, lambda t: plane().gradients(t)),
    "scores": (X, lambda t: plane().scores(t)),
    "score_gradients": (X, lambda t: plane().score_gradients(t)),
    "logits, y": (Y, lambda t: plane(3).logits(Z, t)),
    "gradients, y": (Y, lambda t: plane(3).gradients(Z, t)),
    "scores, y": (Y, lambda t: plane(3).scores(X, t)),
    "real": (X, lambda t: plane(real=t).real_samples(4)),
    "real, y": (Y, lambda t: plane(3, real=(X, t)).real_samples(4)),
    "label_weights": (torch.ones(3), lambda t: plane(3, label_weights=t)),
}
# Place: the call, with a function that changes a plain tensor
RETURNED = {
    "log weights": lambda change: drs.generate(
        plane(), Latent(critic=lambda z: change(z[:, 0].clone())), 1
    ),
    "a layer": refined,
    "features": lambda change: learned(
        lambda gan: drs.density_ratio(gan, lambda x: change(x.clone())), nn.Linear(2, 1)
    ),
    "a critic that trains on": lambda change: learned(
        lambda gan: drs.keep_train(gan, whole=True), Layer(change, 1)
    ),
    "a critic that learns": lambda change: learned(
        lambda gan: drs.contrastive(gan, space="sample"), Layer(change, 1)
    ),
}


@pytest.mark.parametrize("place", GIVEN)
def test_what_holds_no_numbers_in_memory_is_refused(place):
    given, call = GIVEN[place]
    for kind, (make, said) in REFUSED.items():
        taken = {
            "label_weights": ("array", "foreign bytes", "list"),
            "real": ("array", "foreign bytes"),
            "real, y": ("array",),
        }
        if kind in taken.get(place, ()):
            call(make(given))
            continue
        said = "got" if place in ("real", "label_weights") and kind == "dict" else said
        said = "got 1.0 as number 0" if place == "real" and kind == "list" else said
        said = "float64" if place == "real, y" and kind == "foreign bytes" else said
        with pytest.raises(ValueError, match=f"must (be|give) .*{said}"):
            call(make(given))


@pytest.mark.parametrize("place", RETURNED)
def test_a_function_that_returns_no_numbers_in_memory_is_refused(place):
    for kind in ("sparse", "nested", "jagged", "meta", "masked"):
        make, said = REFUSED[kind]
        with pytest.raises(ValueError, match=f"must return a dense tensor .*{said}"):
            RETURNED[place](make)


@pytest.mark.parametrize("call", [plane().gradients, plane().score_gradients])
def test_a_gradient_by_whole_numbers_is_refused(call):
    with pytest.raises(ValueError, match=r"gradients need floating-point .*got \(4, 2\) int64"):
        call(Z.long())


WEIGHTS = {
    "tensor": torch.tensor([1.0, 2.0, 1.0]),
    "gradient": torch.tensor([1.0, 2.0, 1.0], requires_grad=True),
    "whole": torch.tensor([1, 2, 1], dtype=torch.uint64),
    "half": torch.tensor([1, 2, 1], dtype=torch.bfloat16),
    "array": np.array([1, 2, 1]),
    "tensors": [torch.tensor(1), torch.tensor(2), torch.tensor(1)],
    "fractions": [fractions.Fraction(1, 3), fractions.Fraction(2, 3), fractions.Fraction(1, 3)],
    "large": (2**70, 2**71, 2**70),
}


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_label_weights(weights):
    assert plane(3, label_weights=weights).label_weights == (0.25, 0.5, 0.25)


ODD = {
    "too large": ([1, 10**400, 1], "must be a finite number >= 0, got an integer of 1329 bits"),
    "complex": ([1, 1j, 1], "must be a finite number >= 0, got 1j"),
    "a complex tensor": (torch.ones(3) * 1j, "must be a finite number >= 0, got 1j"),
    "a complex array": (np.ones(3) * 1j, "must be a finite number >= 0, got 1j"),
    "bool": ([True, False, True], "must be a finite number >= 0, got True"),
    "a bool tensor": (torch.ones(3).bool(), "must be a finite number >= 0, got True"),
    "strings": (["1", "2", "3"], "must be a finite number >= 0, got '1'"),
    "a string": ("123", "must be 3 numbers, one per class, got '123'"),
    "rows": (torch.ones(3, 1), "must be a finite number >= 0, got list"),
    "two": ([1, 2], "must be 3 numbers, one per class, got list of 2"),
    "one": (torch.ones(()), r"must be 3 numbers, one per class, got \(\) float32"),
    "a generator": ((k for k in range(3)), "must be 3 numbers, one per class, got generator"),
    "no numbers": (exotic.of_dtype(torch.bits8, 3), "must be numbers of a standard dtype.*bits8"),
}


@pytest.mark.parametrize(("weights", "message"), ODD.values(), ids=ODD)
def test_odd_label_weights_are_refused(weights, message):
    with pytest.raises(ValueError, match=f"label_weights {message}"):
        plane(3, label_weights=weights)
    with pytest.raises(ValueError, match=f"label_weights {message}"):
        plane(3).labelled(weights)


def test_every_place_names_what_was_given():
    with pytest.raises(ValueError, match=re.escape("z must be (n, 2), got list; torch.as_tensor")):
        plane().logits([[0.0, 0.0]])
