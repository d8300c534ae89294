"""TimeGAN, by a replica of the interface of public ones: networks of (x, lengths)."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import drs_fast as drs

STEPS, NOISE, HIDDEN, FEATURES = 7, 3, 5, 2


class Recurrent(nn.Module):
    """(n, steps, d) and lengths (n,) -> (n, steps, outputs), or (n, steps) for one output."""

    def __init__(self, inputs, outputs, bounded=True):
        super().__init__()
        self.rnn = nn.GRU(inputs, HIDDEN, batch_first=True)
        self.linear = nn.Linear(HIDDEN, outputs)
        self.bounded, self.outputs = bounded, outputs

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        read, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=STEPS)
        made = self.linear(read)
        made = made.sigmoid() if self.bounded else made
        return made[..., 0] if self.outputs == 1 else made


def networks():
    return {
        "generator": Recurrent(NOISE, HIDDEN),
        "supervisor": Recurrent(HIDDEN, HIDDEN),
        "discriminator": Recurrent(HIDDEN, 1, bounded=False),
        "recovery": Recurrent(HIDDEN, FEATURES, bounded=False),
    }


def test_timegan():
    parts, embedder = networks(), Recurrent(FEATURES, HIDDEN)
    sequences = torch.rand(300, STEPS, FEATURES)
    gan = drs.adapters.timegan(
        **parts, latent_shape=(STEPS, NOISE), embedder=embedder, real=sequences
    )
    z = drs.ops.latents(gan, drs.Rng(0), 200)
    assert 0.0 <= z.min() < 0.01 < 0.99 < z.max() < 1.0
    x, logit = gan.logits(z)
    lengths = torch.full((200,), STEPS)
    with torch.no_grad():
        made = parts["generator"](z.reshape(200, STEPS, NOISE), lengths)
        hidden = parts["supervisor"](made, lengths)
        torch.testing.assert_close(x, hidden)
        torch.testing.assert_close(logit, parts["discriminator"](hidden, lengths)[:, -1])
        torch.testing.assert_close(gan.decoded(x), parts["recovery"](hidden, lengths))
        known, _ = gan.real_samples(300)
        torch.testing.assert_close(known, embedder(sequences, torch.full((300,), STEPS)))
    assert not gan.decoded(x).requires_grad
    assert gan.decoded(x).shape == (200, STEPS, FEATURES)


def test_a_run_follows_from_its_rows():
    gan = drs.adapters.timegan(**networks(), latent_shape=(STEPS, NOISE))
    runs = [drs.generate(gan, drs.samplers.DRS(), 300, batch_size=size) for size in (128, 1024)]
    assert runs[0].ids.equal(runs[1].ids)
    assert runs[0].x.equal(runs[1].x)
    assert runs[0].x.shape == (300, STEPS, FEATURES)


def test_networks_without_lengths():
    made = [nn.Linear(NOISE, HIDDEN), nn.Identity(), nn.Linear(HIDDEN, 1), nn.Linear(HIDDEN, 2)]
    gan = drs.adapters.timegan(*made, latent_shape=(STEPS, NOISE), lengths=False, prior="normal")
    x, logit = gan.logits(torch.zeros(4, STEPS * NOISE))
    torch.testing.assert_close(logit, made[2](x)[:, -1, 0].detach())
    assert gan.decoded(x).shape == (4, STEPS, 2)
    assert gan.prior == "normal"


def test_real_sequences_need_an_embedder():
    with pytest.raises(ValueError, match="give both real sequences and their embedder, or neither"):
        drs.adapters.timegan(
            **networks(), latent_shape=(STEPS, NOISE), real=torch.rand(9, STEPS, FEATURES)
        )
