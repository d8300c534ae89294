"""A run goes on only where G and D still give the numbers that it was begun with."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from described import linear
from runs import QUICK, Counted, conditional, files, toy

import drs_fast as drs
from drs_fast import store
from drs_fast.cli import main as cli
from drs_fast.run import probe
from drs_fast.samplers.latent import Latent
from drs_fast.squeeze import Squeeze
from drs_fast.store.format import MANIFEST, sealed
from drs_fast.store.manifest import read_manifest

SCRIPTED = """
import torch, drs_fast as drs
def make():
    return drs.GAN(torch.jit.load({file!r}), lambda x: x[:, 0], 2)
"""
HIDDEN = """
import torch, drs_fast as drs
def make():
    return drs.GAN(lambda z: z * torch.load({file!r}), lambda x: x[:, 0], 2)
"""


def command(model, n, out):
    return ["generate", f"{model}:make", "-n", str(n), "--out", str(out), "--quiet"]


def save_script(k, file):
    torch.jit.save(torch.jit.script(linear(k, 2)), file)


def save_factor(k, file):
    torch.save(torch.tensor(float(k)), file)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("source", "save", "said"),
    [(SCRIPTED, save_script, "weights_sha256"), (HIDDEN, save_factor, "cannot see")],
    ids=["TorchScript", "a file read in forward"],
)
def test_a_run_is_not_continued_with_another_generator(tmp_path, capsys, source, save, said):
    file, model, out = tmp_path / "g.pt", tmp_path / "model.py", tmp_path / "run"
    model.write_text(source.format(file=str(file)))
    save(1, file)
    assert cli.main(command(model, 3000, out)) == 0
    before = files(out)
    save(2, file)
    assert cli.main(command(model, 6000, out)) == 7
    assert said in capsys.readouterr().err
    assert files(out) == before
    assert store.verify(out) == []
    save(1, file)
    assert cli.main(command(model, 6000, out)) == 0
    whole = tmp_path / "whole"
    assert cli.main(command(model, 6000, whole)) == 0
    assert files(out) == files(whole)


def test_what_enters_the_probe():
    scaled = drs.GAN(linear(1, 2), lambda x: x[:, 0], 2)
    gans = [
        toy(),
        conditional(),
        drs.GAN(lambda z: z, lambda x: x[:, 0], 2),
        drs.GAN(lambda z: z + 1.0, lambda x: toy().scores(x - 1.0), 2),
        scaled,
        scaled.on(precision="bf16"),
    ]
    found = [probe.sha256(gan) for gan in gans]
    assert len(set(found)) == len(found)
    assert found[0] == probe.sha256(toy().on(block=256))


def test_a_probe_costs_a_call_and_at_the_beginning_two(tmp_path):
    drs.generate(toy(), QUICK, 100, out=tmp_path)
    critic = Counted(toy().discriminator)
    gan = drs.GAN(toy().generator, critic, 2)
    manifest = drs.open(tmp_path).manifest
    model = manifest["model_sha256"]
    kept = {key: manifest[key] for key in ("weights_sha256", "model_sha256", "probe_sha256")}
    assert probe.kept(gan, model, manifest, False) == kept
    assert critic.rows == 128  # one small call
    assert probe.kept(gan, model, None, False) == kept
    assert critic.rows == 3 * 128


def test_a_complete_run_is_not_probed(tmp_path, monkeypatch):
    drs.generate(toy(), QUICK, 100, out=tmp_path)
    monkeypatch.setattr(probe, "sha256", lambda *given: pytest.fail("it was probed"))
    drs.generate(toy(), QUICK, 100, out=tmp_path)


def test_the_probe_survives_a_repair(tmp_path):
    drs.generate(toy(), QUICK, 100, out=tmp_path)
    before = files(tmp_path)
    (tmp_path / "chunk-00000000.safetensors").write_bytes(b"damaged")
    store.repair(tmp_path)
    drs.generate(toy(), QUICK, 100, out=tmp_path)
    assert files(tmp_path) == before


def test_a_run_of_before_goes_on_without_a_probe(tmp_path, monkeypatch):
    drs.generate(toy(), QUICK, 100, out=tmp_path)
    manifest = read_manifest(tmp_path)
    del manifest["probe_sha256"], manifest["weights_sha256"]
    (tmp_path / MANIFEST).write_bytes(sealed(manifest, indent=2))
    monkeypatch.setattr(probe, "sha256", lambda *given: pytest.fail("it was probed"))
    assert len(drs.generate(toy(), QUICK, 200, out=tmp_path)) == 200
    assert not {"probe_sha256", "weights_sha256"} & drs.open(tmp_path).manifest.keys()
    with pytest.raises(store.Conflict, match="earlier version"):
        drs.generate(drs.GAN(lambda z: z + 0, toy().discriminator, 2), QUICK, 300, out=tmp_path)


class Noisy(torch.nn.Module):
    """Not a function of its input, without random numbers."""

    def __init__(self):
        super().__init__()
        self._call = 0

    def forward(self, z):
        self._call += 1
        return z + 1e-3 * self._call


def test_a_model_that_is_no_function_is_warned_of_once_and_never_refused(tmp_path):
    def make():
        return drs.GAN(Noisy(), lambda x: x[:, 0], 2)

    with pytest.warns(UserWarning, match="on a second call") as said:
        drs.generate(make(), QUICK, 100, out=tmp_path)
    assert len(said) == 1
    assert said[0].filename == __file__
    assert drs.open(tmp_path).manifest["probe_sha256"] is None
    assert len(drs.generate(make(), QUICK, 200, out=tmp_path)) == 200
    assert drs.open(tmp_path).manifest["probe_sha256"] is None


class Averaging(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, z):
        self.mean.lerp_(z.mean(0), 0.1)
        self.calls = self.calls + 1
        return z - self.mean


@pytest.mark.parametrize(
    "make", [Averaging, lambda: torch.jit.script(torch.nn.Sequential(Averaging()))]
)
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:G or D gave other numbers")
def test_the_probe_changes_no_state(make):
    module = make()
    before = {name: (tensor, tensor.clone()) for name, tensor in module.named_buffers()}
    gan = drs.GAN(module, lambda x: x[:, 0], 2)
    assert probe.kept(gan, gan.sha256(), None, False)["probe_sha256"] is None
    for name, tensor in module.named_buffers():
        assert tensor is before[name][0]
        assert torch.equal(tensor, before[name][1])


class Tables(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.tables, self.hits, self.shapes = {}, [], set()

    def forward(self, z):
        self.tables[len(z)] = torch.ones(len(z), 1)
        self.hits.append(tuple(z.shape))
        self.shapes.add(z.shape)
        return z * self.tables[len(z)]


CACHE = {}


def with_global_cache():
    CACHE.clear()

    def generator(z):
        CACHE[len(z)] = torch.ones(len(z), 1)
        return z * CACHE[len(z)]

    return generator


def with_default():
    def generator(z, _cache={}):  # noqa: B006
        return z * _cache.setdefault(len(z), torch.ones(len(z), 1))

    return generator


def with_closure():
    cache, calls, once = {}, [0], set()

    def generator(z):
        calls[0] += 1
        once.add(z.shape)
        return z * cache.setdefault(len(z), torch.ones(len(z), 1))

    return generator


def with_attribute():
    def generator(z):
        generator.calls += 1
        return z

    generator.calls = 0
    return generator


class Buffer(torch.nn.Module):
    """A buffer that every call changes, and that no number depends on."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, z):
        self.calls.add_(1.0)
        return z


LEAVING = {
    "containers of a module": Tables,
    "a global": with_global_cache,
    "a default": with_default,
    "a closure": with_closure,
    "an attribute of a function": with_attribute,
    "a buffer": Buffer,
}


@pytest.mark.parametrize("build", LEAVING.values(), ids=LEAVING)
def test_what_a_call_leaves_behind_is_no_other_model(tmp_path, build):
    def make():
        return drs.GAN(build(), lambda x: x[:, 0], 2)

    whole, out, preview = tmp_path / "whole", tmp_path / "run", tmp_path / "preview"
    drs.generate(make(), QUICK, 3000, out=whole)
    gan = make()
    for n in (100, 3000):
        drs.generate(gan, QUICK, n, out=out, seed=0)
        drs.generate(gan, QUICK, 70, batch_size=512)
    assert files(out) == files(whole)
    drs.generate(make(), QUICK, 100, out=preview)
    gan = make()
    drs.generate(gan, QUICK, 100, batch_size=512)
    drs.generate(gan, QUICK, 3000, out=preview)
    assert files(preview) == files(whole)
    gan = make()
    drs.generate(gan, QUICK, 100, batch_size=512)
    drs.generate(gan, QUICK, 100, out=tmp_path / "late")
    assert len(drs.generate(make(), QUICK, 3000, out=tmp_path / "late")) == 3000


def test_a_complete_run_knows_another_model_whatever_calls_left(tmp_path):
    gan = drs.GAN(Tables(), lambda x: x[:, 0], 2)
    drs.generate(gan, QUICK, 100, out=tmp_path)
    before = files(tmp_path)
    assert len(drs.generate(gan, QUICK, 100, out=tmp_path)) == 100
    assert files(tmp_path) == before
    with pytest.raises(store.Conflict, match="probe_sha256"):
        drs.generate(drs.GAN(Tables(), lambda x: x[:, 1], 2), QUICK, 100, out=tmp_path)


@pytest.mark.parametrize("variants", [(), ("channels_last",)], ids=["as it is", "tuned"])
def test_the_model_is_hashed_before_it_is_called(tmp_path, monkeypatch, variants):
    calls = []
    generator, critic = torch.nn.Identity(), torch.nn.Linear(2, 1)
    torch.nn.init.constant_(critic.weight, 1.0)
    generator.register_forward_hook(lambda *given: calls.append("called"))
    gan = drs.GAN(generator, critic, 2)
    monkeypatch.setattr(drs.GAN, "sha256", lambda gan: calls.append("hashed") or "0" * 64)
    drs.generate(gan, QUICK, 100, out=tmp_path, tune=variants)
    assert calls[0] == "hashed"


@pytest.mark.parametrize(("classes", "changed"), [(10, 9), (128, 127), (100, 57), (1000, 7)])
def test_every_class_is_in_the_probe(tmp_path, classes, changed):
    def make(k):
        # A number in a private attribute of an object, which no walk takes for data.
        class Shifted(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self._shift = k

            def forward(self, z, y):
                return z + self._shift * (y == changed)[:, None]

        return drs.GAN(Shifted(), lambda x, y: x[:, 0], 2, labels=classes)

    drs.generate(make(0.0), QUICK, 100, out=tmp_path)
    with pytest.raises(store.Conflict, match="probe_sha256"):
        drs.generate(make(1.0), QUICK, 200, out=tmp_path)
    assert len(drs.generate(make(0.0), QUICK, 200, out=tmp_path)) == 200


@pytest.mark.parametrize(
    "given", [{"only": 501}, {"label_weights": [float(k == 501) for k in range(1000)]}]
)
def test_only_classes_that_are_proposed_are_in_the_probe(tmp_path, given):
    def make(k):
        def generator(z, y):
            return z + float(k) * (y == 501)[:, None]

        return drs.GAN(generator, lambda x, y: x[:, 0], 2, labels=1000)

    drs.generate(make(0), QUICK, 100, out=tmp_path, **given)
    with pytest.raises(store.Conflict, match="probe_sha256"):
        drs.generate(make(1), QUICK, 200, out=tmp_path, **given)
    assert len(drs.generate(make(0), QUICK, 200, out=tmp_path, **given)) == 200


def test_weights_of_a_class_that_is_not_in_the_probe_are_seen(tmp_path):
    def make(k):
        table = torch.nn.Embedding(1000, 2)
        with torch.no_grad():
            table.weight.zero_()[501] = k
        return drs.GAN(lambda z, y: z + table(y), lambda x, y: x[:, 0], 2, labels=1000)

    assert probe.sha256(make(0)) == probe.sha256(make(1))
    drs.generate(make(0), QUICK, 100, out=tmp_path)
    with pytest.raises(store.Conflict, match="weights_sha256"):
        drs.generate(make(1), QUICK, 200, out=tmp_path)


def test_many_classes_are_evenly_spread():
    seen = []
    gan = drs.GAN(lambda z, y: seen.append(y) or z, lambda x, y: x[:, 0], 2, labels=1000)
    probe.sha256(gan)
    assert torch.cat(seen).diff().tolist() == pytest.approx([1000 / 128] * 127, abs=1.0)


def test_small_blocks_hold_no_more_rows_than_a_run():
    critic = Counted(lambda x: x[:, 0])
    most = []
    gan = drs.GAN(lambda z: most.append(len(z)) or z, critic, 2, block=16)
    assert probe.sha256(gan) == probe.sha256(gan)
    assert max(most) == 16
    assert critic.rows == 256


class Style(torch.nn.Module):
    """Adds noise, as StyleGAN does, by numbers that no walk takes for data."""

    def __init__(self, k, noise=torch.randn):
        super().__init__()
        self._gain, self._w, self.noise = k, {"a": torch.full((2,), float(k))}, noise

    def forward(self, z):
        return z + 0.1 * self._gain * self._w["a"] * self.noise(z.shape)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_model_with_noise_of_its_own_has_a_probe(tmp_path):
    def make(k):
        return drs.GAN(Style(k), lambda x: x[:, 0], 2, noise="own")

    with pytest.warns(UserWarning, match="on a second call") as said:
        drs.generate(make(1), QUICK, 100, out=tmp_path)
    assert len(said) == 1
    assert said[0].filename == __file__
    assert drs.open(tmp_path).manifest["probe_sha256"] is not None
    with pytest.raises(store.Conflict, match="probe_sha256"):
        drs.generate(make(2), QUICK, 200, out=tmp_path)
    torch.randn(7)
    assert len(drs.generate(make(1), QUICK, 200, out=tmp_path)) == 200


def test_a_probe_leaves_the_random_numbers_as_they_are():
    gan = drs.GAN(Style(1), lambda x: x[:, 0], 2)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = probe.sha256(gan)
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(3)
    assert probe.sha256(gan) == first != probe.sha256(gan, seed=1)


def noise_of_numpy(shape):
    return torch.tensor(np.random.default_rng().normal(size=shape), dtype=torch.float32)


@pytest.mark.filterwarnings("ignore:G or D gave other numbers")
def test_without_a_probe_all_that_is_found_must_be_the_same(tmp_path):
    def make(k):
        model = Style(1, noise_of_numpy)
        model.k = k
        return drs.GAN(model, lambda x: x[:, 0], 2)

    drs.generate(make(1), QUICK, 100, out=tmp_path)
    assert drs.open(tmp_path).manifest["probe_sha256"] is None
    assert len(drs.generate(make(1), QUICK, 200, out=tmp_path)) == 200
    with pytest.raises(store.Conflict, match="model_sha256") as refused:
        drs.generate(make(2), QUICK, 300, out=tmp_path)
    assert "no function of its input" in str(refused.value)


def weighted(k, code=1.0):
    layer = linear(k, 2)
    return drs.GAN(lambda z: layer(z) * code, lambda x: x[:, 0], 2)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"k": 2}, {"weights_sha256", "model_sha256", "probe_sha256"}),
        ({"k": 1, "code": 2.0}, {"model_sha256", "probe_sha256"}),
    ],
    ids=["weights", "code"],
)
def test_a_refusal_names_what_differs(tmp_path, change, named):
    drs.generate(weighted(1), QUICK, 100, out=tmp_path)
    with pytest.raises(store.Conflict, match="choose another directory") as refused:
        drs.generate(weighted(**change), QUICK, 200, out=tmp_path)
    lines = str(refused.value).splitlines()
    assert {line.partition(":")[0].strip() for line in lines if ": there " in line} == named


def test_the_same_model_in_other_code_goes_on(tmp_path):
    """As another Python compiles it: the weights and the numbers are the same."""
    layer, out, whole = linear(1, 2), tmp_path / "run", tmp_path / "whole"
    one = drs.GAN(lambda z: layer(z), lambda x: x[:, 0], 2)
    other = drs.GAN(lambda z: layer.forward(z + 0.0), lambda x: x.select(1, 0), 2)
    assert one.sha256() != other.sha256()
    drs.generate(one, QUICK, 3000, out=whole)
    drs.generate(one, QUICK, 100, out=out)
    drs.generate(other, QUICK, 3000, out=out)
    assert files(out) == files(whole)


ENVIRONED = """
from os import environ
import torch, drs_fast as drs
def g(z):
    return z * float(environ.get("SOME_FACTOR", "1"))
def make():
    return drs.GAN(g, lambda x: x[:, 0], 2)
"""


def test_the_environment_is_no_model_data(tmp_path, monkeypatch, capsys):
    model, out = tmp_path / "model.py", tmp_path / "run"
    model.write_text(ENVIRONED)
    assert cli.main(command(model, 100, out)) == 0
    manifest = read_manifest(out)
    monkeypatch.setenv("SOMETHING_ELSE", "1")
    assert cli.main(command(model, 200, out)) == 0
    assert cli.main(command(model, 200, tmp_path / "again")) == 0
    assert read_manifest(tmp_path / "again")["model_sha256"] == manifest["model_sha256"]
    monkeypatch.setenv("SOME_FACTOR", "2")
    assert cli.main(command(model, 300, out)) == 7
    assert "probe_sha256" in capsys.readouterr().err


def table(k):
    """Class 501 is not in the probe of 1000 classes."""
    rows = torch.zeros(1000, 2)
    rows[501] = k
    return rows


class Lookup(torch.nn.Module):
    def __init__(self, rows, buffer):
        super().__init__()
        if buffer:
            self.register_buffer("_rows", rows, persistent=False)
        else:
            self._rows = rows

    def forward(self, z, y):
        return z + self._rows[y]


@dataclasses.dataclass(frozen=True)
class Looked:
    rows: torch.Tensor

    def __call__(self, z, y):
        return z + self.rows[y]


def looked_up(k):
    rows = table(k)
    return lambda z, y: z + rows[y]


def looked_up_in_an_array(k):
    rows = table(k).numpy()
    return lambda z, y: z + torch.from_numpy(rows)[y]


def looked_up_in_a_class(k):
    class Class:
        ROWS = (table(k),)

        def __call__(self, z, y):
            return z + self.ROWS[0][y]

    return Class()


BESIDE = {
    "an attribute": lambda k: Lookup(table(k), buffer=False),
    "a buffer that is not saved": lambda k: Lookup(table(k), buffer=True),
    "a dataclass": lambda k: Looked(table(k)),
    "a closure": looked_up,
    "an array": looked_up_in_an_array,
    "a class": looked_up_in_a_class,
    "a partial": lambda k: functools.partial(lambda rows, z, y: z + rows[y], table(k)),
}


@pytest.mark.parametrize("make", BESIDE.values(), ids=BESIDE)
def test_tensors_beside_the_state_dict_are_weights(tmp_path, make):
    one, same, other = (drs.GAN(make(k), lambda x, y: x[:, 0], 2, labels=1000) for k in (1, 1, 2))
    assert probe.sha256(one) == probe.sha256(other)
    drs.generate(one, QUICK, 100, out=tmp_path)
    for gan in (one, same):
        drs.generate(gan, QUICK, 200, out=tmp_path)
    with pytest.raises(store.Conflict, match="weights_sha256"):
        drs.generate(other, QUICK, 300, out=tmp_path)


class Counting(torch.nn.Module):
    """Counts its calls in a tensor that no state_dict holds, and in an array."""

    def __init__(self):
        super().__init__()
        self.calls, self.more = torch.zeros(()), np.zeros(1)

    def forward(self, z):
        self.calls.add_(1.0)
        self.more += 1.0
        return z


COUNTING = {
    "G": lambda: drs.GAN(Counting(), lambda x: x[:, 0], 2),
    "a prior": lambda: drs.GAN(lambda z: z, lambda x: x[:, 0], 2, prior=Counting()),
    "a prior's buffer": lambda: drs.GAN(lambda z: z, lambda x: x[:, 0], 2, prior=Buffer()),
    "a link's buffer": lambda: drs.GAN(lambda z: z, lambda x: x[:, 0], 2, link=Buffer()),
}


@pytest.mark.parametrize("make", COUNTING.values(), ids=COUNTING)
def test_counters_are_no_weights(tmp_path, make):
    gan = make()
    for n, given in ((100, gan), (200, gan), (300, make())):
        assert len(drs.generate(given, QUICK, n, out=tmp_path)) == n


UNUSUAL = {
    "without numbers": lambda: torch.ones(3, device="meta"),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "sparse rows": lambda: torch.eye(3).to_sparse_csr(),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "ragged": lambda: torch.nested.nested_tensor(
        [torch.ones(2), torch.ones(3)], layout=torch.jagged
    ),
    "of oneDNN": lambda: torch.ones(4).to_mkldnn(),
}


class Holding(Buffer):
    def __init__(self, held):
        super().__init__()
        self.register_buffer("held", held)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested:UserWarning")
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
@pytest.mark.parametrize("held", UNUSUAL.values(), ids=UNUSUAL)
def test_a_buffer_may_be_any_tensor(tmp_path, held):
    for n in (100, 200):
        gan = drs.GAN(Holding(held()), lambda x: x[:, 0], 2)
        assert len(drs.generate(gan, QUICK, n, out=tmp_path)) == n


class Hidden(torch.nn.Module):
    """A number in a private attribute, which no walk takes for data."""

    def __init__(self, k):
        super().__init__()
        self._k = k

    def forward(self, z, y=None):
        return self._k * z[:, 0]


@pytest.mark.parametrize("labels", [None, 3])
@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: Squeeze(one, use_bound=False)])
def test_the_critic_of_latents_is_probed(tmp_path, labels, wrap):
    def generated(k, n):
        gan = toy() if labels is None else conditional()
        return drs.generate(gan, wrap(Latent(Hidden(k), burn_in=1024)), n, out=tmp_path)

    generated(1.0, 100)
    assert len(generated(1.0, 200)) == 200
    with pytest.raises(store.Conflict, match="probe_sha256"):
        generated(3.0, 300)


def test_a_model_may_be_built_in_inference_mode(tmp_path):
    def make():
        return drs.GAN(looked_up(1), lambda x, y: x[:, 0], 2, labels=1000)

    drs.generate(make(), QUICK, 100, out=tmp_path)
    with torch.inference_mode():
        gan = make()
    assert len(drs.generate(gan, QUICK, 200, out=tmp_path)) == 200
