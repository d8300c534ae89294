"""GAN(..., real=): arrays, lists, datasets, loaders and folders give the first n samples."""

import re
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

import drs_fast as drs
from drs_fast.cli.main import main
from drs_fast.samplers.drs import DRS
from drs_fast.samplers.mh import MH

X = torch.arange(60.0).reshape(20, 3)
Y = torch.arange(20) % 4


def made(labels=None, **settings):
    if labels is None:
        return drs.GAN(nn.Linear(2, 3), lambda x: x[:, 0], 2, block=256, **settings)
    return drs.GAN(
        lambda z, y: torch.cat([z, z[:, :1]], 1), lambda x, y: x[:, 0], 2, labels=labels, **settings
    )


class Pairs(Dataset):
    """Items (array, label)."""

    def __init__(self):
        self.read = 0

    def __len__(self):
        return 20

    def __getitem__(self, i):
        self.read += 1
        return X[i].numpy(), int(Y[i])


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield from X


def stacked(items):
    return torch.stack([torch.as_tensor(x) for x, _ in items]), torch.tensor([y for _, y in items])


UNLABELLED = {
    "array": X.numpy(),
    "array of other bytes": X.numpy().astype(">f4"),
    "list of tensors": list(X),
    "list of arrays": [row.numpy() for row in X],
    "dataset": TensorDataset(X),
    "pairs": Pairs(),
    "endless": Endless(),
    "loader": DataLoader(TensorDataset(X), batch_size=7, shuffle=True, drop_last=True),
    "endless loader": DataLoader(Endless(), batch_size=7),
    "no batches": DataLoader(TensorDataset(X.reshape(4, 5, 3)), batch_size=None),
    "function of arrays": lambda n: X[:n].numpy(),
}
LABELLED = {
    "arrays": (X.numpy(), Y.numpy().astype(np.int32)),
    "pairs": Pairs(),
    "list of pairs": list(zip(X, Y, strict=True)),
    "loader": DataLoader(Pairs(), batch_size=6, shuffle=True),
    "own collate": DataLoader(Pairs(), batch_size=6, collate_fn=stacked),
}


@pytest.mark.parametrize("real", UNLABELLED.values(), ids=UNLABELLED)
def test_the_first_samples(real):
    gan = made(real=real)
    for n in (5, 11, 3):
        x, y = gan.real_samples(n)
        assert torch.equal(x, X[:n])
        assert y is None
    if not isinstance(real, Endless) and not (
        isinstance(real, DataLoader) and isinstance(real.dataset, Endless)
    ):
        assert torch.equal(gan.real_samples(99)[0], X)
    assert torch.equal(gan.real_samples(8, torch.tensor([6, 2]))[0], X[[6, 2]])


@pytest.mark.parametrize("real", LABELLED.values(), ids=LABELLED)
def test_the_first_samples_and_their_labels(real):
    gan = made(4, real=real)
    for n in (5, 11):
        x, y = gan.real_samples(n)
        assert torch.equal(x, X[:n])
        assert torch.equal(y, Y[:n])


def test_a_dataset_is_read_once():
    real = Pairs()
    gan = made(real=real)
    for n in (5, 12, 9, 12):
        gan.real_samples(n)
    assert real.read == 5 + 12
    for _ in range(3):
        gan.real_samples(50)
        gan.real_samples(70)
    assert real.read == 5 + 12 + 20


@pytest.mark.filterwarnings("ignore:.*chains never moved", "ignore:calibrated by")
def test_a_run_and_a_training_take_a_dataset():
    x = drs.ops.normal(drs.Rng(1), 400, 3)
    gan = made(real=TensorDataset(x))
    same = made(real=x[:256])
    same.generator.load_state_dict(gan.generator.state_dict())
    batches = [
        drs.generate(each, MH(chain_length=4, burn_in=256), 50, batch_size=256)
        for each in (gan, same)
    ]
    assert torch.equal(batches[0].x, batches[1].x)
    assert len(drs.generate(drs.calibrate(gan, n=400), DRS(burn_in=512), 9).x) == 9


REFUSED = {
    "sizes": ([X[0], X[1, :2]], r"one shape and dtype, got \(2,\) float32 as number 1, .* \(3,\)"),
    "dtypes": ([X[0], X[1].double()], r"one shape and dtype, got \(3,\) float64"),
    "words": (["a"], "must be tensors or arrays, got 'a' as number 0; .*transform"),
    "none": ([], "real must give samples, got none"),
    "subset": (
        DataLoader(TensorDataset(X), sampler=SubsetRandomSampler([1, 2])),
        r"by SubsetRandomSampler; .*Subset\(dataset, indices\)",
    ),
    "NaN": ([X[0], X[0] * float("nan")], "must be finite, got NaN .* in 1 of 2"),
    "objects": (np.array([{}]), "numbers of a type that PyTorch has, got an array of object"),
    "no folder": ("absent", "real='absent' must be a folder of pictures, but it is not there"),
    "a file": (__file__, "must be a folder of pictures, but it is a file"),
}


@pytest.mark.parametrize(("real", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(real, message):
    with pytest.raises(ValueError, match=message):
        made(real=real).real_samples(10)


def test_labels_that_are_refused():
    with pytest.raises(ValueError, match=r"labels of real samples must be integers, got 0\.5"):
        made(4, real=[(X[0], 0.5)]).real_samples(1)
    with pytest.raises(ValueError, match=r"this GAN has 4 classes; pass y"):
        made(4, real=TensorDataset(X)).real_samples(1)
    with pytest.raises(ValueError, match=r"labels in \[0, 4\), got 7"):
        made(4, real=[(X[0], 7)]).real_samples(1)
    assert torch.equal(made(real=Subset(TensorDataset(X), [3, 1])).real_samples(9)[0], X[[3, 1]])


def picture(path, shade, size=(4, 3), mode="L"):
    path.parent.mkdir(exist_ok=True)
    colour = shade if mode in ("L", "I;16") else (shade, 0, 255)
    Image.new(mode, size, colour).save(path)


def images(folder, channels=1, labels=None, **settings):
    """A GAN of pictures (channels, 3, 4)."""
    if labels is None:
        return drs.GAN(
            lambda z: z.view(-1, channels, 3, 4),
            lambda x: x.flatten(1)[:, 0],
            12 * channels,
            real=folder,
            block=256,
            **settings,
        )
    return drs.GAN(
        lambda z, y: z.view(-1, channels, 3, 4),
        lambda x, y: x.flatten(1)[:, 0],
        12 * channels,
        labels=labels,
        real=folder,
        **settings,
    )


def test_a_folder_of_pictures(tmp_path):
    for name, shade in (("b.png", 255), ("a.PNG", 0), ("c.bmp", 51)):
        picture(tmp_path / name, shade)
    (tmp_path / "notes.txt").write_text("no picture")
    x, y = images(tmp_path).real_samples(10)
    assert (x.shape, x.dtype, y) == ((3, 1, 3, 4), torch.float32, None)
    assert torch.allclose(x[:, 0, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))
    x, _ = images(str(tmp_path), value_range=(0, 1)).real_samples(2)
    assert x[:, 0, 0, 0].tolist() == [0.0, 1.0]


def test_colours_and_grey(tmp_path):
    picture(tmp_path / "a.png", 255, mode="RGB")
    picture(tmp_path / "b.png", 51)
    x, _ = images(tmp_path, 3).real_samples(10)
    assert x.shape == (2, 3, 3, 4)
    assert torch.allclose(x[0, :, 0, 0], torch.tensor([1.0, -1.0, 1.0]))
    assert torch.allclose(x[1, :, 0, 0], torch.tensor(-0.6))
    with pytest.raises(ValueError, match=re.escape("are (3, 3, 4) (channels, height, width), and")):
        images(tmp_path).real_samples(10)
    with pytest.raises(ValueError, match=re.escape("G makes (1, 3, 4); convert them, picture.con")):
        images(tmp_path).real_samples(10)


def test_subfolders_are_classes_in_sorted_order_and_take_turns(tmp_path):
    for folder, shades in (("dog", (10, 11)), ("cat", (20, 21, 22)), ("eel", (30,))):
        for i, shade in enumerate(shades):
            picture(tmp_path / folder / f"{i}.png", shade)
    (tmp_path / ".hidden").mkdir()
    gan = images(tmp_path, labels=3, value_range=(0, 255))
    x, y = gan.real_samples(9)
    assert x[:, 0, 0, 0].tolist() == [20.0, 10.0, 30.0, 21.0, 11.0, 22.0]
    assert y.tolist() == [0, 1, 2, 0, 1, 0]
    x, y = images(tmp_path, value_range=(0, 255)).real_samples(3)
    assert x[:, 0, 0, 0].tolist() == [20.0, 10.0, 30.0]
    with pytest.raises(ValueError, match=r"a subfolder of pictures for each of labels=4 .* got 3"):
        images(tmp_path, labels=4)


def test_pictures_that_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no pictures \(\.png"):
        images(tmp_path)
    picture(tmp_path / "a.png", 1)
    picture(tmp_path / "b.png", 1, size=(4, 4))
    with pytest.raises(ValueError, match=r"one size, got \(1, 4, 4\) .*b.png, and \(1, 3, 4\) in"):
        images(tmp_path).real_samples(2)
    picture(tmp_path / "b.png", 1, mode="RGB")
    with pytest.raises(ValueError, match=r"b.png has the mode RGB, where grey pictures of 8 bits"):
        images(tmp_path).real_samples(2)
    picture(tmp_path / "b.png", 1, mode="I;16")
    with pytest.raises(ValueError, match=r"b.png has the mode I;16, .* convert it to 8 bits"):
        images(tmp_path).real_samples(2)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"b.png cannot be read as a picture: .*; remove it"):
        images(tmp_path).real_samples(2)
    picture(tmp_path / "a.png", 1, size=(4, 4))
    with pytest.raises(ValueError, match=r"resize them, picture.resize\(\(4, 3\)\)"):
        images(tmp_path).real_samples(1)
    assert "real-samples" in drs.doctor(images(tmp_path), n=512).codes


def test_without_pillow(tmp_path, monkeypatch):
    picture(tmp_path / "a.png", 1)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match=r"read with Pillow, .* pip install pillow"):
        images(tmp_path).real_samples(1)


MODEL = """
import drs_fast as drs

def make():
    return drs.GAN(lambda z: z.view(-1, 1, 3, 4), lambda x: x.flatten(1)[:, 0], 12, block=256)
"""


def test_the_doctor_takes_folders_and_archives(tmp_path, monkeypatch, capsys):
    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    for i in range(60):
        picture(tmp_path / "pictures" / f"{i:02d}.png", 4 * i)
    x = drs.ops.normal(drs.Rng(4), 60, 12).view(-1, 1, 3, 4).numpy()
    np.savez(tmp_path / "x.npz", x=x)
    np.savez(tmp_path / "only.npz", real=x)
    for real in ("pictures", "x.npz", "only.npz"):
        main(["doctor", "model.py:make", "-n", "512", "--real", real])
        assert "real_low" in capsys.readouterr().out
    np.savez(tmp_path / "two.npz", real=x, fake=x)
    assert main(["doctor", "model.py:make", "-n", "512", "--real", "two.npz"]) != 0
    assert "a dict of 2: 'real', 'fake'" in capsys.readouterr().err


def test_companions_from_a_folder_are_compared_with_a_generator_in_eval_mode(tmp_path):
    for i in range(40):
        picture(tmp_path / f"{i:02d}.png", 6 * i)
    generator = nn.Sequential(nn.Linear(2, 12), nn.BatchNorm1d(12), nn.Unflatten(1, (1, 3, 4)))
    critic = nn.Sequential(nn.Flatten(), nn.Unflatten(0, (-1, 2)), nn.Flatten(), nn.Linear(24, 1))
    before = generator[1].num_batches_tracked.clone()
    for given in ({"real": tmp_path}, {"companions": str(tmp_path)}):
        gan = drs.GAN(generator, critic, 2, pack=2, **given)
        assert gan.discriminator.companions.shape == (1, 1, 3, 4)
    assert torch.equal(generator[1].num_batches_tracked, before)
