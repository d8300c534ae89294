"""Critics that judge several samples together, asked about one among fixed companions."""

import copy

import pytest
import torch
from grouped import (
    CRITICS,
    SIZE,
    Convolutional,
    Critic,
    Deviation,
    Pac,
    Pictures,
    Scaled,
    packed,
    real,
    sharp,
)
from runs import files
from torch import nn

import drs_fast as drs
from drs_fast import store
from drs_fast.samplers.drs import DRS

QUICK = DRS(burn_in=512)


def rows(gan, n=600):
    return drs.ops.latents(gan, drs.Rng(3), n)


@pytest.mark.parametrize("name", CRITICS)
def test_a_row_is_judged_among_its_companions_alone(name):
    """Against the critic, called by hand for each row."""
    make, pack, layout = CRITICS[name]
    gan, critic = packed(name), sharp(make).eval()
    assert gan.discriminator.layout == layout
    x, logit = gan.logits(rows(gan, 200))
    size = gan.discriminator.pack
    assert size == (4 if pack == "minibatch-std" else pack)
    with torch.no_grad():
        expected = [critic(torch.cat([row[None], real()[: size - 1]]))[0] for row in x]
    assert torch.allclose(logit, torch.cat(expected), atol=1e-5)


@pytest.mark.parametrize("name", CRITICS)
def test_logits_have_the_same_bits_in_any_batch(name):
    gan = packed(name)
    z = rows(gan)
    x, logit = gan.on(block=256).logits(z)
    assert torch.equal(logit, gan.on(block=1024).logits(z)[1])
    assert torch.equal(logit, gan.scores(x))
    order = torch.arange(len(z)).flip(0)
    assert torch.equal(logit, gan.logits(z[order])[1][order])


@pytest.mark.parametrize("name", CRITICS)
def test_runs_have_the_same_ids_in_any_batch(name):
    found = [drs.generate(packed(name), QUICK, 150, batch_size=size) for size in (256, 1024)]
    assert torch.equal(found[0].ids, found[1].ids)
    assert torch.equal(found[0].logit, found[1].logit)


def test_few_rows_at_a_time_are_given_to_the_critic():
    seen = []

    class Spy(Critic):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    gan = drs.GAN(sharp(Scaled), Spy(Deviation(), 1), SIZE, pack=4, companions=real())
    for block in (1, 16, 256, 1024):
        seen.clear()
        gan.on(block=block).logits(rows(gan, 1024))
        assert set(seen) == {max(4, block)}


def test_labels():
    """Companions are of the row's own class."""
    x, y = real(30), torch.arange(30) % 3
    critic = sharp(lambda: Critic(Deviation(), 1, labels=3)).eval()
    gan = drs.GAN(sharp(Scaled), critic, SIZE, labels=3, pack="minibatch-std", real=(x, y))
    z, label = rows(gan, 90), torch.arange(90) % 3
    made, logit = gan.logits(z, label)
    with torch.no_grad():
        expected = [
            critic(torch.cat([row[None], x[y == k][:3]]), torch.full((4,), int(k)))[0]
            for row, k in zip(made, label, strict=True)
        ]
    assert torch.allclose(logit, torch.cat(expected), atol=1e-5)
    found = [drs.generate(gan, QUICK, 100, batch_size=size) for size in (256, 1024)]
    assert torch.equal(found[0].ids, found[1].ids)
    few = (x[:6], torch.tensor([0, 0, 0, 1, 1, 2]))
    with pytest.raises(ValueError, match="needs 3 companions of each class, got 2 of class 1"):
        drs.GAN(sharp(Scaled), critic, SIZE, labels=3, pack=4, companions=few)


@pytest.mark.parametrize("name", ["minibatch deviation", "pac of 10"])
def test_gradients_are_those_of_the_row(name):
    gan = packed(name)
    z = rows(gan, 40)
    logit, gradient = gan.score_gradients(gan.samples(z))
    assert torch.allclose(logit, gan.logits(z)[1])
    step = torch.zeros_like(z)
    step[7, 1] = 1e-2
    x = gan.samples(z)
    change = (gan.scores(x + step) - gan.scores(x - step)) / 2e-2
    assert float(change[7]) == pytest.approx(float(gradient[7, 1]), rel=0.02)
    assert bool((change[torch.arange(40) != 7] == 0.0).all())
    assert gan.gradients(z)[2].shape == z.shape


def test_the_companions_are_a_part_of_the_model(tmp_path):
    gan = packed()
    assert gan.sha256() == packed().sha256()
    other = packed(companions=real().flip(0))
    assert gan.sha256() != other.sha256()
    assert gan.sha256() != drs.GAN(sharp(Scaled), gan.discriminator.discriminator, SIZE).sha256()
    assert set(gan.discriminator.state_dict()) > {"companions"}
    drs.generate(gan, QUICK, 100, out=tmp_path / "run")
    with pytest.raises(store.Conflict, match="other weights"):
        drs.generate(other, QUICK, 200, out=tmp_path / "run")
    drs.generate(packed(), QUICK, 200, out=tmp_path / "run", batch_size=4096)
    drs.generate(packed(), QUICK, 200, out=tmp_path / "direct")
    assert files(tmp_path / "run") == files(tmp_path / "direct")
    assert store.verify(tmp_path / "run") == []


def test_real_samples_serve_as_companions():
    by_real = packed(companions=None, real=real())
    assert torch.equal(by_real.discriminator.companions, real()[:3])
    by_function = packed(companions=lambda n: real(100)[:n])
    assert torch.equal(by_function.discriminator.companions, real(100)[:3])
    assert by_function.real is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"companions": None}, "needs companions=, or real="),
        ({"pack": None}, "companions are for pack="),
        ({"pack": 1}, "pack must be an integer >= 2, got 1"),
        ({"pack": "pac"}, "pack must be 'minibatch-std' or a number of samples, got 'pac'"),
        ({"pack": 90}, "pack=90 needs 89 companions, got 64; give more"),
        ({"companions": real()[:, :2]}, "discriminator failed on .*; companions must be"),
    ],
)
def test_wrong_arguments(settings, words):
    with pytest.raises(ValueError, match=words):
        packed(**settings)


def test_a_lost_critic_cannot_be_packed():
    with pytest.raises(ValueError, match="pack=4 needs a discriminator, got None"):
        drs.GAN(sharp(Scaled), None, SIZE, pack=4, companions=real())


def test_one_score_for_several_rows_names_pack():
    gan = drs.GAN(sharp(Scaled), Pac(8), SIZE)
    with pytest.raises(ValueError, match=r"GAN\(G, D, \.\.\., pack=8, companions=real\)"):
        gan.logits(rows(gan, 256))


def test_a_classifier():
    gan = packed(
        "pac of 10", labels=2, classifier=nn.Linear(SIZE, 2),
        companions=(real(), torch.arange(64) % 2),
    )  # fmt: skip
    z, y = rows(gan, 300), torch.arange(300) % 2
    x, logit = gan.logits(z, y)
    plain = packed("pac of 10")  # for a critic without labels, companions are of any class
    with torch.no_grad():
        classes = gan.discriminator.classifier(x).log_softmax(dim=1)
    assert torch.allclose(logit[::2], (plain.scores(x) + classes[:, 0])[::2])


# --- what else takes a GAN


@pytest.mark.parametrize("name", ["minibatch deviation", "pac of 10"])
def test_critics_are_made_of_it(name):
    gan = packed(name, real=real(200))
    few = {"samples": 60, "max_steps": 5}
    with pytest.warns(UserWarning, match="too little was learned"):
        made = [
            drs.keep_train(gan, **few),
            drs.keep_train(gan, whole=True, **few),
            drs.density_ratio(gan, samples=100, epochs=1),
        ]
    for one in made:
        z = rows(one, 300)
        assert torch.equal(one.on(block=256).logits(z)[1], one.on(block=1024).logits(z)[1])


def test_features_are_those_of_the_row():
    gan = packed(real=real(200))
    with pytest.warns(UserWarning, match="too little was learned"):
        made = drs.density_ratio(gan, "between", samples=100, epochs=1)
    take = made.discriminator.features.take
    x = gan.samples(rows(gan, 50))
    critic = gan.discriminator.discriminator
    with torch.no_grad():
        expected = torch.cat([critic.first(x).tanh(), torch.zeros(50, 1)], dim=1)
        found = take(x)
    assert torch.allclose(found[:, :-1], expected[:, :-1], atol=1e-6)
    assert found.shape == expected.shape
    assert made.discriminator is not gan.discriminator
    assert gan.discriminator.discriminator is critic


def pictures():
    x = Pictures()(torch.linspace(-2, 2, 20 * SIZE).view(20, SIZE)).detach()
    return drs.GAN(sharp(Pictures), sharp(Convolutional), SIZE, pack="minibatch-std", companions=x)


@pytest.mark.parametrize(
    "settings",
    [
        {"tune": "fold"},
        {"tune": "channels_last"},
        {"tune": ("fold", "cast"), "precision": "bf16"},
        {"precision": "bf16"},
        {"images": "uint8"},
    ],
)
def test_ways_to_run_it(settings):
    found = drs.generate(pictures(), QUICK, 100, batch_size=256, **settings)
    plain = drs.generate(pictures(), QUICK, 100, batch_size=256)
    assert len(found.ids) == 100
    assert len(set(found.ids.tolist()) & set(plain.ids.tolist())) > 80


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's own code
@pytest.mark.parametrize("name", ["minibatch deviation", "pac of 10"])
def test_it_compiles(name):
    gan = packed(name)
    tuned = drs.generate(gan, QUICK, 100, batch_size=256, tune="compile")
    plain = drs.generate(gan, QUICK, 100, batch_size=256)
    assert len(set(tuned.ids.tolist()) & set(plain.ids.tolist())) > 90


def test_squeeze_takes_it():
    found = drs.generate(packed(), drs.Squeeze(QUICK, tolerance=0.1), 50, batch_size=256)
    assert len(found.ids) == 50


@pytest.mark.parametrize("name", CRITICS)
def test_the_doctor_does_not_call_it_coupled(name):
    codes = drs.doctor(packed(name), n=512).codes
    assert not [code for code in codes if code.startswith(("coupled", "random", "fails"))]


def test_the_modules_given_are_not_touched():
    critic = sharp(lambda: Critic(Deviation(), 1))
    before = copy.deepcopy(critic.state_dict())
    gan = drs.GAN(sharp(Scaled), critic, SIZE, pack=4, companions=real())
    gan.logits(rows(gan))
    assert gan.discriminator.discriminator is critic
    assert all(torch.equal(critic.state_dict()[name], value) for name, value in before.items())


def test_channels_last_leaves_the_companions_of_classes_alone():
    class Images(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x, y):
            score = self.body(x).mean(dim=(1, 2, 3)) + y
            return score + score.view(-1, 2).std(dim=1).repeat_interleave(2)

    x = torch.randn(64, 3, 8, 8)
    network = Labelled(nn.Sequential(nn.Linear(2, 192), nn.Unflatten(1, (3, 8, 8))))
    given = {"pack": 2, "companions": (x, torch.arange(64) % 2), "labels": 2}
    gan = drs.GAN(network, Images(), 2, **given)
    assert gan.discriminator.companions.ndim == 5
    plain = drs.generate(gan, QUICK, 50, batch_size=256)
    tuned = drs.generate(gan, QUICK, 50, batch_size=256, tune="channels_last")
    assert len(set(plain.ids.tolist()) & set(tuned.ids.tolist())) > 45


class Labelled(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, z, y):
        return self.network(z)
