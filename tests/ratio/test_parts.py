"""Which part of a critic gives the features, and that critics of any kind can be learned from."""

import pytest
import torch
from torch import nn

import drs_fast as drs
from drs_fast import GAN, Rng, ops
from drs_fast.ratio import head
from drs_fast.training import frozen, taps
from drs_fast.training.fitting import Draws

REAL = ops.normal(Rng(3), 400, 4)
pytestmark = pytest.mark.filterwarnings("ignore:too little was learned", "ignore:calibrated by")
QUICK = {"widths": (8,), "max_steps": 10, "batch": 64, "rate": 1e-2}


def gan_of(critic, **options):
    return GAN(lambda z, *y: 0.5 * z, critic, 4, real=options.pop("real", REAL), **options)


def chosen(critic, features=None, **options):
    gan = gan_of(critic, **options)
    material = frozen.Material(gan, 400, 0)
    take, what = taps.found(material, features)
    return gan.applied("features", take, "", *material.held_out), what


class Convolutional(nn.Module):
    def __init__(self, channels=3):
        super().__init__()
        self.body = nn.Conv1d(1, channels, 3, padding=1)
        self.out = nn.Conv1d(channels, 1, 1)

    def forward(self, x):
        return self.out(self.body(x[:, None]).relu()).mean(dim=(1, 2))


class Own(nn.Module):
    """A last layer of its own kind."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5))

    def forward(self, rows):
        return rows @ self.weight


class MinibatchStd(nn.Module):
    def forward(self, rows):
        spread = rows.view(4, -1, rows.shape[1]).std(dim=0).mean(dim=1)
        return torch.cat([rows, spread.repeat(4)[:, None]], dim=1)


class Coupled(nn.Module):
    def __init__(self, inside):
        super().__init__()
        self.body, self.std = nn.Linear(4, 3), MinibatchStd() if inside else None
        self.act, self.out = nn.Tanh(), nn.Linear(4, 1)

    def forward(self, x):
        rows = self.act(self.body(x))
        rows = MinibatchStd.forward(self, rows) if self.std is None else self.std(rows)
        return self.out(rows)


def built(kind):
    network = kind()
    Draws(0).initialise(network)
    return network


def test_convolutions():
    critic = built(Convolutional)
    seen, what = chosen(critic)
    assert what == "the input of out, the last layer"
    assert seen.shape == (80, 3, 4)
    assert torch.allclose(critic.out(seen).mean(dim=(1, 2)), critic(frozen_rows()))


def frozen_rows():
    return frozen.Material(gan_of(built(Convolutional)), 400, 0).held_out[0]


def test_large_feature_maps_are_averaged(monkeypatch):
    monkeypatch.setattr(taps, "LARGE", 11)
    seen, what = chosen(built(Convolutional))
    assert seen.shape == (80, 3)
    assert what == "the input of out, the last layer; the mean over its 4 positions"


def test_a_last_layer_of_another_kind():
    critic = nn.Sequential(nn.Linear(4, 5), Own())
    seen, what = chosen(critic)
    assert what == "the input of 1, whose output is the score"
    assert seen.shape == (80, 5)


class Projection(nn.Module):
    """Its label's embedding is the last layer that runs."""

    def __init__(self):
        super().__init__()
        self.body, self.embedding = nn.Linear(4, 6), nn.Linear(3, 6)

    def forward(self, x, y):
        features = self.body(x)
        return (features * self.embedding(nn.functional.one_hot(y, 3).float())).sum(1)


def test_a_layer_that_sees_only_labels_is_not_chosen():
    _, what = chosen(Projection(), labels=3, real=(REAL, torch.arange(400) % 3))
    assert what.startswith("the input of body")


class Scaled(nn.Module):
    """A layer of its own kind, as StyleGAN's are."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))

    def forward(self, rows):
        return rows @ self.weight.T


@pytest.mark.parametrize("shared", [False, True])
def test_of_a_critic_of_groups_a_layer_of_its_own_is_taken(shared):
    class Grouped(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.std = Scaled(4, 3), MinibatchStd()
            self.out = Scaled(4, 1)

        def forward(self, x):
            return self.out(self.std(self.body(x)))

    class Pac(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.out = Scaled(16, 3), Scaled(3, 1)

        def forward(self, x):
            return self.out(self.body(x.reshape(-1, 16)))

    seen, what = chosen(Pac() if shared else Grouped(), pack=4)
    assert what.startswith("the input of discriminator.out")
    assert seen.shape[0] == 80
    assert seen.shape[1] == (3 if shared else 4)


def test_functions_tuples_and_wrapped_dicts():
    first, last = built(lambda: nn.Linear(4, 6)), built(lambda: nn.Linear(6, 1))

    def plain(x):
        return last(first(x))

    def both(x):
        hidden = first(x)
        return last(hidden), hidden

    wrapped = drs.wrap(lambda x: {"logit": last(first(x))}, output="logit")
    for critic in (plain, both, wrapped):
        seen, what = chosen(critic)
        assert torch.equal(last(seen), plain(frozen_rows()))
        assert what == "the input of Linear, whose output is the score"
        kept = drs.keep_train(gan_of(critic), **QUICK)
        assert head.report(kept).features == what
        assert not last._forward_hooks
    labelled = gan_of(
        lambda x, y: last(first(x)) + y[:, None], labels=2, real=(REAL, torch.arange(400) % 2)
    )
    drs.keep_train(labelled, **QUICK)
    drs.density_ratio(labelled, features=lambda x, y: x + y[:, None], epochs=1, penalty=0.0)


def test_features_of_samples_and_labels():
    given = {"labels": 2, "real": (REAL, torch.arange(400) % 2)}
    gan = gan_of(lambda x, y: x[:, 0], **given)
    x, y = frozen.Material(gan, 400, 0).held_out
    take = taps.taken(gan, lambda x, y: x + y[:, None])
    assert torch.equal(take(x, y), x + y[:, None])
    assert torch.equal(taps.taken(gan, lambda x, width=3: x)(x, y), x)


@pytest.mark.parametrize("inside", [True, False])
def test_before_the_rows_are_coupled(inside):
    critic = built(lambda: Coupled(inside))
    seen, what = chosen(critic, "before-minibatch-std")
    rows = frozen_rows()
    assert torch.equal(seen, critic.act(critic.body(rows)))
    way = "the input of std, which couples rows"
    assert what == (way if inside else "the output of act, the last before rows are coupled")
    kept = drs.keep_train(gan_of(critic), "before-minibatch-std", **QUICK)
    assert torch.equal(kept.scores(rows), torch.cat([kept.scores(rows[:3]), kept.scores(rows[3:])]))


def test_nothing_that_couples_rows():
    with pytest.raises(ValueError, match="no part of the discriminator couples rows"):
        drs.keep_train(gan_of(built(Convolutional)), "before-minibatch-std")


def test_a_critic_is_called_in_blocks_as_the_gan_calls_it():
    """A critic that takes blocks of 128 or 256 rows only."""
    layer = built(lambda: nn.Linear(4, 1))

    def critic(x):
        assert len(x) in (128, 256)
        return layer(x.clone())

    for learned in (drs.keep_train, drs.density_ratio):
        options = QUICK if learned is drs.keep_train else {"epochs": 1, "penalty": 0.0}
        kept = learned(gan_of(critic, block=256), features=lambda x: critic(x) + x, **options)
        kept.scores(REAL)
    drs.keep_train(gan_of(critic, block=256), **QUICK)


def test_few_samples_take_small_calls():
    seen = []
    layer = built(lambda: nn.Linear(4, 1))

    def critic(x):
        seen.append(len(x))
        return layer(x)

    gan = gan_of(critic, block=4096)
    gan.call_rows = lambda rows: gan.block  # as on a GPU
    drs.calibrate(gan, n=400)
    assert set(seen) == {512}


def test_what_cannot_be_trained_is_refused():
    layer = nn.Linear(4, 1)
    wrapped = drs.wrap(lambda x: layer(x))
    for learned in (
        lambda gan: drs.keep_train(gan, whole=True),
        drs.contrastive,
        drs.latent_weights,
    ):
        with pytest.raises(ValueError, match="has no parameters of its own; give the module"):
            learned(gan_of(wrapped))
