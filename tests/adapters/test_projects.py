"""Adapters of public projects, on replicas of their networks."""

import json
import sys

import numpy as np
import pytest
import replicas
import torch
from replicas import CLASSES, LATENT, SHAPE
from torch import nn

import drs_fast as drs
from drs_fast.samplers import DRS

X = torch.linspace(-1, 1, 400 * replicas.PIXELS).sin().view(400, *SHAPE)
REAL = (X, torch.arange(400) % CLASSES)
# What the doctor says of networks that are called in the wrong way.
WRONG = {"fails", "train-mode", "random-generator", "coupled-discriminator", "no-weights"}


@pytest.fixture
def studio(tmp_path, monkeypatch):
    """Makes a folder like PyTorch-StudioGAN's, with checkpoints; gives the adapter's GAN."""
    for name, text in replicas.STUDIO.items():
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "src")
    cfg = tmp_path / "model.yaml"

    def make(settings, roles=("G", "D"), which="best", **options):
        cfg.write_text(json.dumps(settings))
        conditional = settings.get("MODEL", {}).get("g_cond_mtd", "W/O") != "W/O"
        for k, role in enumerate(roles):
            torch.manual_seed(k + 1)
            network = (replicas.StudioDiscriminator if role == "D" else replicas.StudioGenerator)(
                conditional
            )
            state = {"state_dict": network.state_dict(), "best_fid": np.float64(9.5), "step": 7}
            torch.save(state, tmp_path / f"model={role}-best-weights-step=7.pth")
        return drs.adapters.studiogan(cfg, tmp_path, which, **options)

    yield make
    for name in ("config", "models", "models.model"):
        sys.modules.pop(name, None)


def biggan(**options):
    G, D = replicas.BigGenerator(), replicas.BigDiscriminator()
    return drs.adapters.biggan(G, D, real=REAL, **options), (
        lambda z, y: G(z, G.shared(y)),
        lambda x, y: D(x, y)[:, 0],
    )


def mimicry(num_classes=None, loss_type="hinge", rotations=False, real=X):
    G = replicas.MimicryGenerator(num_classes)
    D = replicas.MimicryDiscriminator(loss_type, rotations, num_classes)
    score = (lambda x, *y: D(x, *y)[0][:, 0]) if rotations else lambda x, *y: D(x, *y)[:, 0]
    return drs.adapters.mimicry(G, D, real=real), (G, score)


def onehot(y):
    return nn.functional.one_hot(y, CLASSES).float()


def stylegan(c_dim=0, coupled=False, adapter="stylegan2_ada", real=X, **options):
    G, D = replicas.StyleGenerator(c_dim), replicas.StyleDiscriminator(c_dim, coupled)
    gan = getattr(drs.adapters, adapter)(G, D, truncation_psi=0.7, real=real, **options)
    label = onehot if c_dim else lambda *nothing: None
    return gan, (
        lambda z, *y: G(z, label(*y), truncation_psi=0.7, noise_mode="const"),
        lambda x, *y: D(x, label(*y))[:, 0],
    )


def rosinality(**options):
    G, D = replicas.RosinalityGenerator(), replicas.RosinalityDiscriminator()
    gan = drs.adapters.rosinality(G, D, real=X, **options)
    return gan, (lambda z: G([z], randomize_noise=False)[0], None)


def r3gan(c_dim=0, real=X):
    G, D = replicas.R3Generator(c_dim), replicas.R3Discriminator(c_dim)
    label = onehot if c_dim else lambda *nothing: None
    return drs.adapters.r3gan(G, D, real=real), (
        lambda z, *y: G(z, label(*y)),
        lambda x, *y: D(x, label(*y)),
    )


# Name: (GAN and the calls of its project, labels, link)
MADE = {
    "biggan": (biggan, CLASSES, "hinge"),
    "mimicry": (mimicry, None, "hinge"),
    "mimicry, a tuple": (lambda: mimicry(rotations=True, loss_type="ns"), None, "logit"),
    "mimicry, labels": (lambda: mimicry(CLASSES, "gan", real=REAL), CLASSES, "logit"),
    "mimicry, an energy": (lambda: mimicry(loss_type="wasserstein"), None, "wasserstein"),
    "stylegan2_ada": (stylegan, None, "logit"),
    "stylegan2_ada, labels": (lambda: stylegan(CLASSES, real=REAL), CLASSES, "logit"),
    "stylegan2_ada, coupled": (lambda: stylegan(coupled=True), None, "logit"),
    "stylegan3": (lambda: stylegan(adapter="stylegan3", real=X), None, "logit"),
    "rosinality": (rosinality, None, "logit"),
    "r3gan": (r3gan, None, "logit"),
    "r3gan, labels": (lambda: r3gan(CLASSES, REAL), CLASSES, "logit"),
}
COUPLED = ("stylegan2_ada, coupled", "rosinality")


@pytest.mark.parametrize("name", MADE)
def test_what_an_adapter_knows(name):
    make, labels, link = MADE[name]
    gan, (generate, score) = make()
    assert (gan.latent_dim, gan.labels, gan.link, gan.prior) == (LATENT, labels, link, "normal")
    assert (gan.value_range, gan.block) == ((-1.0, 1.0), 256 if "mimicry" in name else 1024)
    z = torch.linspace(-2, 2, 8 * LATENT).view(8, LATENT)
    y = () if labels is None else (torch.arange(8) % labels,)
    x, logit = gan.logits(z, *y)
    with torch.no_grad():
        torch.testing.assert_close(x, generate(z, *y))
        if name not in COUPLED:
            torch.testing.assert_close(logit, score(x, *y))


@pytest.mark.parametrize("name", MADE)
def test_a_run_with_it(name, tmp_path):
    made = MADE[name][0]()[0]
    gan = made
    if name in ("biggan", "mimicry"):  # energies
        with pytest.raises(ValueError, match="needs a density ratio, got a hinge critic"):
            drs.generate(gan, DRS(), 10)
    if gan.energy or name in COUPLED:
        gan = drs.keep_train(gan, widths=(8,), samples=300, max_steps=60, batch=128)
    assert gan.link == "logit"
    sampler = DRS(burn_in=512)
    whole = drs.generate(gan, sampler, 300, batch_size=256)
    assert whole.x.shape == (300, *SHAPE)
    other = drs.generate(gan, sampler, 300, batch_size=1024)
    assert torch.equal(whole.ids, other.ids)
    drs.generate(gan, sampler, 100, batch_size=256, out=tmp_path)
    kept = drs.generate(gan, sampler, 300, batch_size=256, out=tmp_path)
    assert torch.equal(kept.ids[:], whole.ids)
    assert not WRONG & {*drs.doctor(made, n=256).codes}


@pytest.mark.parametrize("name", COUPLED)
def test_a_critic_that_couples_rows(name):
    gan = MADE[name][0]()[0]
    alone = [drs.generate(gan, DRS(burn_in=512), 300, batch_size=size) for size in (256, 1024)]
    assert torch.equal(alone[0].ids, alone[1].ids)
    loose = stylegan(coupled=True, pack=None)[0] if "style" in name else rosinality(pack=None)[0]
    with pytest.raises(ValueError, match='pack="minibatch-std"'):
        drs.generate(loose, DRS(burn_in=512), 10)


def test_random_noise_is_refused_or_made_the_row_s_own():
    with pytest.raises(ValueError, match='noise="rows"'):
        drs.generate(stylegan(noise_mode="random")[0], DRS(burn_in=512), 10)
    gan = stylegan(noise_mode="random", noise="rows")[0]
    first, second = (drs.generate(gan, DRS(burn_in=512), 50) for _ in range(2))
    assert torch.equal(first.x, second.x)


def test_truncation_towards_the_average_style():
    gan = rosinality(truncation=0.5)[0]
    G = gan.generator.module
    z = torch.linspace(-2, 2, 8 * LATENT).view(8, LATENT)
    with torch.no_grad():
        average = G.style.bias[None]  # of normal latents
        expected = G([z], truncation=0.5, truncation_latent=average, randomize_noise=False)[0]
    torch.testing.assert_close(gan.samples(z), expected, atol=0.03, rtol=0.0)
    assert (
        gan.sha256()
        == drs.adapters.rosinality(G, None, truncation=0.5).judged(gan.discriminator).sha256()
    )


def test_options_replace_what_the_adapter_knows():
    D = nn.DataParallel(replicas.BigDiscriminator())
    G = nn.DataParallel(replicas.BigGenerator())
    gan = drs.adapters.biggan(G, D, link="logit", block=64, prior="truncated normal", real=REAL)
    assert (gan.link, gan.block, gan.prior) == ("logit", 64, "truncated normal")
    assert gan.discriminator is D.module
    assert len(drs.generate(gan, DRS(burn_in=256), 20, batch_size=256).y) == 20


NETWORKS = {
    "biggan": replicas.BigGenerator,
    "mimicry": replicas.MimicryGenerator,
    "r3gan": replicas.R3Generator,
    "rosinality": replicas.RosinalityGenerator,
    "stylegan2_ada": replicas.StyleGenerator,
    "stylegan3": replicas.StyleGenerator,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_critic_that_is_lost(name):
    gan = getattr(drs.adapters, name)(NETWORKS[name](), None)
    assert gan.discriminator is None
    assert gan.row().shape == (1, *SHAPE)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_another_project(name):
    adapter, own = getattr(drs.adapters, name), NETWORKS[name]()
    with pytest.raises(ValueError, match=r"expected (the|a) [Gg]enerator .*got a Linear without"):
        adapter(nn.Linear(2, 2), None)
    with pytest.raises(ValueError, match=r"expected (the|a) [Dd]iscriminator .*got a Linear"):
        adapter(own, nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"got a NoneType without .*see drs\.wrap"):
        adapter(None, None)

    own.nz = own.z_dim = own.dim_z = own.style_dim = "many"
    with pytest.raises(ValueError, match=r"expected .*without (nz|z_dim|dim_z|style_dim)"):
        adapter(own, None)


def test_a_loss_that_mimicry_does_not_have():
    with pytest.raises(ValueError, match="loss_type must be one of gan, ns, hinge, wasserstein"):
        drs.adapters.mimicry(replicas.MimicryGenerator(loss_type="other"), None)


CONDITIONAL = {"g_cond_mtd": "cBN", "d_cond_mtd": "PD"}


@pytest.mark.parametrize("conditional", [False, True])
def test_studiogan(studio, conditional, tmp_path):
    model = CONDITIONAL if conditional else {}
    gan = studio({"MODEL": model}, real=REAL if conditional else X)
    labels = CLASSES if conditional else None
    assert (gan.latent_dim, gan.labels, gan.link, gan.prior) == (LATENT, labels, "logit", "normal")
    sampler = DRS(burn_in=512)
    whole = drs.generate(gan, sampler, 300, batch_size=256)
    assert torch.equal(drs.generate(gan, sampler, 300, batch_size=1024).ids, whole.ids)
    drs.generate(gan, sampler, 100, batch_size=256, out=tmp_path / "run")
    kept = drs.generate(gan, sampler, 300, batch_size=256, out=tmp_path / "run")
    assert torch.equal(kept.ids[:], whole.ids)
    assert len(drs.generate(gan.on(block=1), sampler, 3, batch_size=1).ids) == 3
    assert drs.keep_train(gan, widths=(8,), samples=300, max_steps=60, batch=128).link == "logit"
    assert not WRONG & {*drs.doctor(gan, n=256).codes}


def test_studiogan_takes_the_averaged_generator(studio):
    settings = {"MODEL": CONDITIONAL | {"apply_g_ema": True}, "LOSS": {"adv_loss": "hinge"}}
    gan = studio(settings, ("G", "D", "G_ema"))
    torch.manual_seed(3)
    expected = replicas.StudioGenerator(True)
    assert torch.equal(gan.generator.module.linear.weight, expected.linear.weight)
    assert gan.link == "hinge"


def test_studiogan_says_what_is_missing(studio, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"expected a file model=G-best-weights.*checkpoints"):
        studio({}, ())
    with pytest.raises(ValueError, match=r"expected a file model=G-current-weights"):
        studio({}, which="current")
    with pytest.raises(ValueError, match=r"adv_loss MH; this takes .*hinge"):
        studio({"LOSS": {"adv_loss": "MH"}})
    with pytest.raises(ValueError, match=r"info_type discrete"):
        studio({"MODEL": {"info_type": "discrete"}})
    sys.modules.pop("config")
    sys.path.remove(str(tmp_path / "src"))
    with pytest.raises(ValueError, match=r"src/ first on sys\.path \(No module named 'config'\)"):
        studio({})


def test_adapters_are_imported_when_asked_for():
    assert {*drs.adapters.__all__} <= {*dir(drs.adapters)}
    with pytest.raises(AttributeError, match="no attribute 'bigan'"):
        _ = drs.adapters.bigan
