import argparse
import collections
import gzip
import hashlib
import importlib
import os
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import drs_fast as drs
from drs_fast.adapters.files import CONVERTED
from drs_fast.adapters.load import real_samples
from drs_fast.cli import main as cli

GOOD = """
import torch
import drs_fast as drs

def make():
    return drs.GAN(lambda z: z, lambda x: x[:, 0], 3)

def raises():
    raise KeyError("the checkpoint lacks 'ema'")

def nothing():
    pass

def needs(path):
    return make()

READY = make()
NUMBER = 5
"""


@pytest.fixture
def model(tmp_path):
    file = tmp_path / "my_model.py"
    file.write_text(GOOD)
    yield file
    sys.modules.pop("my_model", None)


@pytest.mark.parametrize(("name", "latent_dim"), [("25gaussians", 2), ("digits", 64)])
def test_the_zoo_by_name(name, latent_dim):
    gan = drs.load(name)
    assert (gan.name, gan.latent_dim) == (name, latent_dim)
    assert not gan.generator.training
    x, logit = gan.logits(torch.zeros(3, latent_dim))
    assert len(x) == len(logit) == 3
    assert logit.dtype == torch.float32


@pytest.mark.parametrize("name", ["25gaussian", "", "model.py", "DIGITS", None, 3, Path("digits")])
def test_unknown_names_list_what_there_is(name):
    with pytest.raises(ValueError, match="model"):
        drs.load(name)
    if name and isinstance(name, str):
        with pytest.raises(ValueError, match=r"25gaussians, digits.*file\.py:function"):
            drs.load(name)


def test_a_function_in_a_file(model):
    gan = drs.load(f"{model}:make")
    assert gan.latent_dim == 3
    assert gan.name == "my_model.py:make"
    assert drs.load(f"{model}:READY").latent_dim == 3


def test_a_relative_path(model, monkeypatch):
    monkeypatch.chdir(model.parent)
    assert drs.load("my_model.py:make").latent_dim == 3


def test_two_files_of_one_name(tmp_path):
    for folder, width in (("a", 3), ("b", 4)):
        (tmp_path / folder).mkdir()
        text = GOOD.replace("x[:, 0], 3", f"x[:, 0], {width}")
        (tmp_path / folder / "two_files.py").write_text(text)
    try:
        widths = [drs.load(f"{tmp_path / f}/two_files.py:make").latent_dim for f in "ab"]
    finally:
        sys.modules.pop("two_files", None)
    assert widths == [3, 4]


def test_a_file_named_like_a_module_replaces_nothing(tmp_path):
    (tmp_path / "json.py").write_text(GOOD)
    import json

    assert drs.load(f"{tmp_path / 'json.py'}:make").latent_dim == 3
    assert sys.modules["json"] is json


def test_a_file_may_import_its_neighbours(tmp_path):
    (tmp_path / "neighbour_of_it.py").write_text("WIDTH = 6\n")
    text = GOOD.replace("import torch", "from neighbour_of_it import WIDTH")
    (tmp_path / "imports_it.py").write_text(text.replace("x[:, 0], 3", "x[:, 0], WIDTH"))
    try:
        assert drs.load(f"{tmp_path / 'imports_it.py'}:make").latent_dim == 6
    finally:
        for name in ("neighbour_of_it", "imports_it"):
            sys.modules.pop(name, None)


def test_a_missing_function_is_named(model):
    with pytest.raises(ValueError, match=r"my_model\.py has no function 'missing'"):
        drs.load(f"{model}:missing")


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        (":make", "no file or module before the colon"),
        ("my_model.py:", "no function after the colon"),
        (":", "no file or module before"),
    ],
)
def test_half_a_name(name, missing):
    with pytest.raises(ValueError, match=f"model must be .*, got '{name}', with {missing}"):
        drs.load(name)


def others(folder):
    """What is no file, by what is said of it."""
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "dangling").symlink_to(folder / "absent")
    return {
        folder / "folder": "it is a directory; name a file",
        folder / "pipe": "it is a pipe; name a file",
        folder / "loop": "it cannot be read: Too many levels of symbolic links",
        folder / "dangling": "it is a link to a file that is not there",
        folder / ("a" * 300): "it cannot be read: File name too long",
        Path("/dev/null"): "it is a device; name a file",
        folder / "absent": "there is no such file",
    }


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes and devices with a path")
def test_what_is_no_file_is_said(tmp_path):
    for path, words in others(tmp_path).items():
        for read, what in ((drs.weights, "weights"), (real_samples, "samples")):
            with pytest.raises(ValueError, match=f"no {what} at {path}: {words}"):
                read(path)
        with pytest.raises(ValueError, match=f"no file {path} to import: {words}"):
            drs.load(f"{path}:make")
        said = "" if "no such file" in words else f", but {words}"
        with pytest.raises(ValueError, match=f"model must be one of .*, got '{path}'{said}$"):
            drs.load(str(path))


def test_a_file_that_is_no_model_is_said(model, tmp_path):
    with pytest.raises(ValueError, match=r"got '.*my_model\.py', but it is a file$"):
        drs.load(str(model))
    torch.save(torch.zeros(3), tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt to import: its name does not end in \.py"):
        drs.load(f"{tmp_path / 'w.pt'}:make")


def test_a_folder_that_is_a_package_is_imported(tmp_path, monkeypatch):
    (tmp_path / "package_beside").mkdir()
    (tmp_path / "package_beside" / "__init__.py").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert drs.load("package_beside:make").latent_dim == 3
    finally:
        sys.modules.pop("package_beside", None)


@pytest.mark.parametrize(
    ("attribute", "kind"), [("nothing", "NoneType"), ("NUMBER", "int"), ("torch", "module")]
)
def test_what_is_no_gan_is_named(model, attribute, kind):
    with pytest.raises(ValueError, match=f"must return a drs.GAN, got {kind}"):
        drs.load(f"{model}:{attribute}")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no file .*absent\.py"):
        drs.load(f"{tmp_path / 'absent.py'}:make")
    with pytest.raises(ValueError, match="no file"):
        drs.load(f"{tmp_path}/.py:make")


BROKEN = {
    "raises": (GOOD, "raises", "the checkpoint lacks 'ema'"),
    "needs an argument": (GOOD, "needs", "path"),
    "syntax": ("def make(:\n", "make", "invalid syntax"),
    "import": ("import no_such_package_anywhere\n", "make", "no_such_package_anywhere"),
    "at import": ("1 / 0\n", "make", "division by zero"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_the_users_own_error_is_seen(tmp_path, case):
    text, attribute, words = BROKEN[case]
    file = tmp_path / "broken_model.py"
    file.write_text(text)
    with pytest.raises(Exception, match=words):
        drs.load(f"{file}:{attribute}")
    sys.modules.pop("broken_model", None)


@pytest.mark.parametrize("case", BROKEN)
def test_a_model_that_cannot_be_used_is_exit_code_2(tmp_path, capsys, case):
    text, attribute, words = BROKEN[case]
    file = tmp_path / "broken_model.py"
    file.write_text(text)
    out = tmp_path / "out"
    try:
        code = cli.main(["generate", f"{file}:{attribute}", "-n", "1", "--out", str(out)])
    finally:
        sys.modules.pop("broken_model", None)
    assert code == 2
    message = capsys.readouterr().err
    assert words in message
    assert "broken_model.py" in message
    assert not out.exists()


def test_a_function_in_a_module(tmp_path, monkeypatch):
    package = tmp_path / "package_of_models"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "gans.py").write_text(GOOD)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert drs.load("package_of_models.gans:make").latent_dim == 3
        with pytest.raises(ValueError, match="has no function 'absent'"):
            drs.load("package_of_models.gans:absent")
        with pytest.raises(ValueError, match=r"package_of_models\.absent"):
            drs.load("package_of_models.absent:make")
    finally:
        for name in ("package_of_models", "package_of_models.gans"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["no_such_package:make", ":make", ".relative:make"])
def test_a_missing_module_is_an_error_that_says_so(name):
    with pytest.raises(ValueError, match=r"import|[Mm]odule"):
        drs.load(name)


# --- weights


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def same(state, network):
    expected = network.state_dict()
    return state.keys() == expected.keys() and all(
        torch.equal(state[key], expected[key]) for key in expected
    )


def test_safetensors(tmp_path, network):
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    assert same(drs.weights(tmp_path / "w.safetensors"), network)
    assert same(drs.weights(str(tmp_path / "w.safetensors")), network)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ""])
@pytest.mark.parametrize("old", [False, True], ids=["zip", "legacy"])
def test_a_torch_state_dict(tmp_path, network, suffix, old):
    file = tmp_path / f"w{suffix}"
    torch.save(network.state_dict(), file, _use_new_zipfile_serialization=not old)
    state = drs.weights(file)
    assert same(state, network)
    network.load_state_dict(state)


def test_a_checkpoint_with_more_than_weights(tmp_path, network):
    torch.save({"epoch": 3, "model": network.state_dict()}, tmp_path / "c.pt")
    assert same(drs.weights(tmp_path / "c.pt")["model"], network)


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle", "in a state dict"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_pickle_that_runs_code_is_refused(tmp_path, how, suffix):
    marker, file = tmp_path / "marker", tmp_path / f"evil{suffix}"
    evil = Malicious(marker)
    if how == "pickle":
        file.write_bytes(pickle.dumps(evil))
        pickle.loads(file.read_bytes())
        assert marker.exists()  # it would have run
        marker.unlink()
    elif how == "in a state dict":
        torch.save(collections.OrderedDict(weight=torch.zeros(2), bias=evil), file)
    else:
        torch.save(evil, file, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(ValueError, match=file.name) as error:
        drs.weights(file)
    assert not marker.exists()
    if suffix == ".pt":
        assert "safetensors.torch.save_file(model.state_dict()" in str(error.value)


def test_a_whole_module_is_refused(tmp_path, network):
    torch.save(network, tmp_path / "module.pt")
    with pytest.raises(ValueError, match=r"loading it would run code.*convert it once"):
        drs.weights(tmp_path / "module.pt")


def test_a_tensor_is_no_state_dict(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    message = r"tensor.pt must hold a state dict, got a tensor \(3,\) float32; samples go to --real"
    with pytest.raises(ValueError, match=message):
        drs.weights(tmp_path / "tensor.pt")
    torch.save([torch.zeros(3), torch.zeros(2)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="must hold a state dict, got a list of 2; samples go to"):
        drs.weights(tmp_path / "list.pt")


def test_a_state_dict_is_no_sample(tmp_path, network):
    torch.save(network.state_dict(), tmp_path / "w.pt")
    message = r"must hold a tensor of samples.*, got a dict of 7: '0.weight', '0.bias', .*\.\.\.$"
    with pytest.raises(ValueError, match=message):
        real_samples(tmp_path / "w.pt")
    torch.save([torch.zeros(3)] * 3, tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"must hold a tensor of samples.*, got a list of 3$"):
        real_samples(tmp_path / "list.pt")


@pytest.mark.parametrize("suffix", [".pt", ".pkl"])
def test_samples_that_are_no_plain_tensor_are_not_told_to_save_weights(tmp_path, suffix):
    file, samples = tmp_path / f"samples{suffix}", np.zeros((4, 2))
    if suffix == ".pt":
        torch.save(samples, file)
    else:
        file.write_bytes(pickle.dumps(samples))
    such = r", such as numpy\S*" if suffix == ".pt" else ""
    message = rf"holds more than tensors{such}: .*numpy.save\('x.npy', samples"
    with pytest.raises(ValueError, match=message) as caught:
        real_samples(file)
    assert "state_dict" not in str(caught.value)
    with pytest.raises(ValueError, match=rf"than tensors{such}: .*save_file\(model.state_dict"):
        drs.weights(file)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 1000])
def test_garbage_is_an_error_that_names_the_file(tmp_path, suffix, content):
    file = tmp_path / f"garbage{suffix}"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="garbage"):
        drs.weights(file)


def test_a_missing_file_or_a_directory(tmp_path):
    for path in (tmp_path, tmp_path / "absent.pt", tmp_path / "absent.safetensors"):
        with pytest.raises(ValueError, match="no weights at"):
            drs.weights(path)


# --- files that cannot be read


def saved(file, network):
    """A complete file of the kind its name says."""
    if file.suffix == ".npy":
        np.save(file, np.arange(600.0).reshape(200, 3))
    elif file.suffix == ".safetensors":
        save_file(network.state_dict(), file)
    else:
        zipped = file.suffix != ".pth"
        torch.save(network.state_dict(), file, _use_new_zipfile_serialization=zipped)
    return file.read_bytes()


def said(file):
    """The error messages of both functions that read a file."""
    messages = []
    for read in (drs.weights, real_samples):
        with pytest.raises(ValueError) as caught:
            read(file)
        messages.append(str(caught.value))
    first = re.split(r"\. If these are classes|\. To run its code", messages[0])[0]
    alike = first.replace(CONVERTED["weights"], CONVERTED["samples"])
    assert alike.replace("weights", "samples") == messages[1]
    assert str(file) in messages[0]
    return messages[0]


FILES = ["w.pt", "old.pth", "w.safetensors", "x.npy"]


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_cut_off_is_damaged_and_not_to_be_trusted(tmp_path, network, name):
    file = tmp_path / name
    whole = saved(file, network)
    for size in (*range(1, 30), *range(40, len(whole), 97), *range(len(whole) - 9, len(whole))):
        file.write_bytes(whole[:size])
        message = said(file)
        assert "damaged or " in message
        assert f"{size:,} bytes" in message
        assert message.endswith("; copy or download it again")
        assert "trust" not in message


def test_a_byte_of_a_pickle_that_changed_is_damage(tmp_path, network):
    """The checksum distinguishes it from a pickle that needs code."""
    file = tmp_path / "w.pt"
    whole = saved(file, network)
    start, refused = whole.index(b"\x80\x02"), []
    for at in range(start, start + 250, 3):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        try:
            drs.weights(file)
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 50
    assert all("damaged or cut off" in message for message in refused)


def test_a_pickle_that_was_cut_off_is_damaged(tmp_path):
    whole = pickle.dumps({"array": np.zeros(1000)})
    (tmp_path / "w.pt").write_bytes(whole)
    assert "loading it would run code" in said(tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes(whole[:-100])
    assert "damaged or cut off" in said(tmp_path / "w.pt")


def test_an_old_module_that_was_cut_off_needs_code_or_is_damaged(tmp_path, network):
    file = tmp_path / "module.pt"
    torch.save(network, file, _use_new_zipfile_serialization=False)
    assert "loading it would run code" in said(file)
    file.write_bytes(file.read_bytes()[:600])
    assert "damaged or cut off" in said(file)


@pytest.mark.parametrize("name", FILES)
def test_what_is_downloaded_by_accident_is_named(tmp_path, name):
    file = tmp_path / name
    for page in (
        "<!DOCTYPE html>\n<html>",
        "\ufeff\n  <HTML><body>Sign in",
        "<?xml version='1.0'?>",
    ):
        file.write_text(page)
        assert " but a web page instead of the file; download" in said(file)
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    assert " but a Git LFS pointer without the data; run git lfs pull" in said(file)
    file.write_bytes(b"")
    assert said(file).endswith("is empty; copy or download it again")
    file.unlink()
    assert "there is no such file" in said(file)
    file.mkdir()
    assert "it is a directory; name a file" in said(file)


def test_a_file_of_another_kind_than_its_suffix_says_is_named(tmp_path, network):
    for name in FILES:
        whole = saved(tmp_path / name, network)
        for other in (*FILES, "w.bin", "w"):
            file = tmp_path / f"other_{other}"
            end = Path(name).suffix.replace("pth", "pt")
            if end == (file.suffix if file.suffix in (".npy", ".safetensors") else ".pt"):
                continue
            file.write_bytes(whole)
            assert said(file).endswith(f"; name it {file.with_suffix(end).name}")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_archives_and_programs_are_named(tmp_path, network):
    np.savez(tmp_path / "x.npz", real=np.zeros(3))
    (tmp_path / "x.npz").rename(tmp_path / "x.pt")
    assert "but an archive of NumPy arrays; name it x.npz" in said(tmp_path / "x.pt")
    (tmp_path / "w.pt.gz").write_bytes(gzip.compress(b"weights"))
    assert "but a gzip archive; unpack it" in said(tmp_path / "w.pt.gz")
    torch.jit.save(torch.jit.script(network), tmp_path / "program.pt")
    assert "but a TorchScript program; load it with torch.jit.load" in said(tmp_path / "program.pt")


@pytest.mark.parametrize("kind", [">f8", ">i2", "<f4", ">u4", "?"])
def test_numbers_in_any_order_of_bytes(tmp_path, kind):
    array = (np.arange(12.0).reshape(4, 3) - 3).astype("i4").astype(kind)
    for order in "CF":
        np.save(tmp_path / "x.npy", np.asarray(array, order=order))
        assert real_samples(tmp_path / "x.npy").tolist() == array.tolist()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([{}, 1], dtype=object), r"x.npy holds Python objects, but numbers are needed"),
        (np.array(["a", "b"]), "numbers of a type that PyTorch lacks, <U1; save it as float32"),
        (np.zeros(3, dtype=[("x", "f4")]), "numbers of a type that PyTorch lacks"),
        (np.zeros(3, dtype="M8[s]"), "numbers of a type that PyTorch lacks, datetime64"),
    ],
)
def test_arrays_of_no_numbers_are_refused(tmp_path, array, message):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        real_samples(tmp_path / "x.npy")


# --- checkpoints


@pytest.fixture
def checkpoint(tmp_path, network):
    """As training scripts save it: weights, an optimizer, arguments that are left out or not."""
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    network.requires_grad_(False)
    held = {
        "g_ema": network.state_dict(),
        "state": {"model": network.state_dict(), "optimizer": optimizer.state_dict()},
        "g_optim": optimizer.state_dict(),
        "iter": 3,
    }
    torch.save(held, tmp_path / "c.pt")
    torch.save({**held, "args": argparse.Namespace(width=4)}, tmp_path / "args.pt")
    return tmp_path / "c.pt"


@pytest.mark.parametrize("key", ["g_ema", "state.model"])
def test_weights_under_a_key(checkpoint, network, key, capsys):
    assert same(drs.weights(checkpoint, key=key), network)
    assert capsys.readouterr().err == ""


def test_a_key_that_has_a_dot_itself(tmp_path, network):
    torch.save({"net.G": network.state_dict()}, tmp_path / "c.pt")
    assert same(drs.weights(tmp_path / "c.pt", key="net.G"), network)


def test_a_missing_key_lists_what_is_there(checkpoint):
    with pytest.raises(ValueError, match="has no key") as caught:
        drs.weights(checkpoint, key="gema")
    assert str(caught.value) == (
        f"{checkpoint} has no key 'gema'; did you mean g_ema? It holds\n"
        "  'g_ema': a state dict of 7 tensors\n"
        "  'state': a dict of 2: 'model', 'optimizer'\n"
        "  'g_optim': a dict of 2: 'state', 'param_groups'\n"
        "  'iter': 3"
    )


def test_a_key_in_a_state_dict_is_left_out(tmp_path, network):
    torch.save(network.state_dict(), tmp_path / "w.pt")
    message = "has no key 'g_ema': it holds a state dict of 7 tensors; leave key out"
    with pytest.raises(ValueError, match=message):
        drs.weights(tmp_path / "w.pt", key="g_ema")


@pytest.mark.parametrize("names", [("model_state_dict",), ("netG", "netD")])
def test_without_a_key_it_is_said_which_hold_state_dicts(tmp_path, network, capsys, names):
    torch.save({"epoch": 1, **dict.fromkeys(names, network.state_dict())}, tmp_path / "c.pt")
    assert same(drs.weights(tmp_path / "c.pt")[names[0]], network)
    there = ", ".join(f"{name!r} (a state dict of 7 tensors)" for name in names)
    assert capsys.readouterr().err == (
        f"{tmp_path / 'c.pt'} holds state dicts under {there}; to take one: "
        f"drs.weights('c.pt', key={names[0]!r})\n"
    )


def test_a_key_of_no_state_dict(checkpoint, capsys):
    message = r"'iter' of .*c.pt must hold a state dict, got 3; it holds state dicts under 'g_ema'"
    with pytest.raises(ValueError, match=message):
        drs.weights(checkpoint, key="iter")
    drs.weights(checkpoint, key="state")
    assert "drs.weights('c.pt', key='state.model')" in capsys.readouterr().err


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_a_prefix_of_all_names(tmp_path, network, prefix, capsys):
    state = {f"{prefix}{name}": value for name, value in network.state_dict().items()}
    torch.save({"ema": state}, tmp_path / "c.pt")
    assert same(drs.weights(tmp_path / "c.pt", key="ema", strip=prefix), network)
    assert capsys.readouterr().err == ""
    assert drs.weights(tmp_path / "c.pt", key="ema").keys() == state.keys()
    assert capsys.readouterr().err == (
        f"all names in {tmp_path / 'c.pt'} begin with {prefix!r}; if load_state_dict does not "
        f"know them: drs.weights('c.pt', ..., strip={prefix!r})\n"
    )
    with pytest.raises(ValueError, match=r"no name in .* begins with strip='net\.'; .* like '"):
        drs.weights(tmp_path / "c.pt", key="ema", strip="net.")


def test_a_prefix_whose_loss_makes_two_names_one(tmp_path):
    torch.save({"a.w": torch.zeros(1), "w": torch.zeros(1)}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"without strip='a\.', two names .* are the same"):
        drs.weights(tmp_path / "c.pt", strip="a.")


def test_a_refused_class_is_named_and_may_be_admitted(checkpoint, network):
    file = checkpoint.with_name("args.pt")
    with pytest.raises(ValueError, match=r"such as argparse\.Namespace") as caught:
        drs.weights(file, key="g_ema")
    assert "admit them: drs.weights('args.pt', allow=[argparse.Namespace])" in str(caught.value)
    assert same(drs.weights(file, key="g_ema", allow=[argparse.Namespace]), network)
    with pytest.raises(ValueError, match=r"such as argparse\.Namespace"):
        drs.weights(file, key="g_ema")  # admitted for that call alone


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle"])
def test_code_is_run_only_if_the_sha256_of_the_file_is_trusted(tmp_path, network, how):
    file, state = tmp_path / "live.pkl", {"G_ema": network, "step": 3}
    if how == "pickle":
        file.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, file, _use_new_zipfile_serialization=how == "torch")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="loading it would run code") as caught:
        drs.weights(file, key="G_ema")
    assert f'To run its code all the same: trust_sha256="{sha256}"' in str(caught.value)
    assert "whatever it carries then runs as you" in str(caught.value)
    assert same(drs.weights(file, key="G_ema", trust_sha256=sha256), network)
    live = drs.weights(file, trust_sha256=sha256.upper())["G_ema"]
    assert isinstance(live, nn.Sequential)


def test_another_sha256_runs_nothing(tmp_path):
    file, marker = tmp_path / "evil.pkl", tmp_path / "marker"
    file.write_bytes(pickle.dumps(Malicious(marker)))
    with pytest.raises(ValueError, match="another file than the one that you trust, and nothing"):
        drs.weights(file, trust_sha256="0" * 64)
    assert not marker.exists()


def test_trusted_code_whose_project_is_away(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"cno_such_project_anywhere\nG\n.")
    sha256 = hashlib.sha256((tmp_path / "a.pkl").read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=r"No module named .*; put the folder of its project on"):
        drs.weights(tmp_path / "a.pkl", trust_sha256=sha256)


READS = """
import drs_fast as drs

def make(name="w.pt"):
    width = drs.weights(name)["0.weight"].shape[1]
    return drs.GAN(lambda z: z, lambda x: x[:, 0], width)
"""


def test_a_relative_path_is_beside_the_model_or_in_the_current_folder(
    tmp_path, network, monkeypatch
):
    (tmp_path / "project").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "project" / "reads_weights.py").write_text(READS)
    model = f"{tmp_path / 'project' / 'reads_weights.py'}:make"
    try:
        with pytest.raises(ValueError, match=f"no weights at {tmp_path / 'here' / 'w.pt'}"):
            drs.load(model)
        torch.save(network.state_dict(), tmp_path / "project" / "w.pt")
        assert drs.load(model).latent_dim == 3
        assert sys.modules["reads_weights"].make().latent_dim == 3  # called by hand
        torch.save(nn.Sequential(nn.Linear(5, 1)).state_dict(), tmp_path / "here" / "w.pt")
        assert drs.load(model).latent_dim == 5
    finally:
        sys.modules.pop("reads_weights", None)


# --- arguments of the function

TAKES = """
import drs_fast as drs

def make(path, width=2):
    return drs.GAN(lambda z: z, lambda x: x[:, 0], width)

GAN = make("")
"""


@pytest.fixture
def takes(tmp_path):
    (tmp_path / "takes_arguments.py").write_text(TAKES)
    yield f"{tmp_path / 'takes_arguments.py'}:"
    sys.modules.pop("takes_arguments", None)


def test_arguments_reach_the_function_and_its_name(takes):
    gan = drs.load(f"{takes}make", path="/data/ckpt.pt", width=7)
    assert gan.latent_dim == 7
    assert gan.name == "takes_arguments.py:make(path='ckpt.pt', width=7)"


@pytest.mark.parametrize(
    ("attribute", "given", "words"),
    [
        ("make", {}, r"make takes \(path, width=2\): missing a required argument: 'path'; give"),
        ("make", {"path": "", "widht": 3}, r"'widht'; did you mean width\?; give arguments as"),
        ("GAN", {"path": ""}, r"GAN is no function, so it takes no arguments, got \['path'\]"),
        ("mke", {}, r"has no function 'mke'; did you mean make\?"),
    ],
)
def test_arguments_that_it_does_not_take(takes, attribute, given, words):
    with pytest.raises(ValueError, match=words):
        drs.load(takes + attribute, **given)


def test_the_zoo_takes_no_arguments():
    with pytest.raises(ValueError, match="the zoo's digits takes no arguments, got width"):
        drs.load("digits", width=3)
    with pytest.raises(ValueError, match=r"got 'digit'; did you mean digits\?"):
        drs.load("digit")


def test_the_line_that_admits_numpy_s_numbers_works(tmp_path):
    """A pickle names `numpy.dtype`, but what must be admitted are the classes of the dtypes."""
    torch.save(
        {"w": torch.ones(2), "mean": np.arange(3.0), "k": np.float32([1])}, tmp_path / "a.pt"
    )
    with pytest.raises(ValueError, match=r"Float32DType, numpy\.dtypes\.Float64DType") as error:
        drs.weights(tmp_path / "a.pt")
    line = re.search(r"allow=\[(.*?)\]", str(error.value))[1]
    allow = []
    for path in line.split(", "):
        module, _, name = path.rpartition(".")
        allow.append(getattr(importlib.import_module(module), name))
    assert drs.weights(tmp_path / "a.pt", allow=allow)["mean"].tolist() == [0.0, 1.0, 2.0]
