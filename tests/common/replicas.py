"""Networks that are called, and answer, like those of public projects; a few layers each."""

import torch
from torch import nn

SHAPE, SIDE, LATENT, CLASSES = (3, 8, 8), 8, 6, 3
PIXELS = 3 * SIDE * SIDE


def image(flat):
    return flat.tanh().view(-1, *SHAPE)


class BigGenerator(nn.Module):
    """Takes z and the embedding of a label, as of ajbrock/BigGAN-PyTorch."""

    dim_z, n_classes, resolution = LATENT, CLASSES, SIDE

    def __init__(self):
        super().__init__()
        self.shared = nn.Embedding(CLASSES, 4)
        self.linear = nn.Linear(LATENT + 4, PIXELS)

    def forward(self, z, embedded):
        return image(self.linear(torch.cat([z, embedded], 1)))


class BigDiscriminator(nn.Module):
    n_classes, resolution, D_wide = CLASSES, SIDE, True

    def __init__(self):
        super().__init__()
        self.embed, self.linear = nn.Embedding(CLASSES, PIXELS), nn.Linear(PIXELS, 1)

    def forward(self, x, y=None):
        h = x.flatten(1)
        return self.linear(h) + (self.embed(y) * h).sum(1, keepdim=True) / 8


class MimicryGenerator(nn.Module):
    def __init__(self, num_classes=None, loss_type="hinge"):
        super().__init__()
        self.nz, self.loss_type = LATENT, loss_type
        if num_classes is not None:
            self.num_classes = num_classes
            self.shift = nn.Embedding(num_classes, LATENT)
        self.linear = nn.Linear(LATENT, PIXELS)

    def forward(self, x, y=None):
        return image(self.linear(x if y is None else x + self.shift(y)))


class MimicryDiscriminator(nn.Module):
    """As of SNGAN; of SSGAN with rotations."""

    def __init__(self, loss_type="hinge", rotations=False, num_classes=None):
        super().__init__()
        self.ndf, self.loss_type, self.rotations = 4, loss_type, rotations
        if rotations:
            self.num_classes = 4
        if num_classes is not None:
            self.embed = nn.Embedding(num_classes, PIXELS)
        self.angle, self.linear = nn.Linear(PIXELS, 4), nn.Linear(PIXELS, 1)

    def forward(self, x, y=None):
        h = x.flatten(1)
        if y is not None:
            h = h * self.embed(y)
        return (self.linear(h), self.angle(h)) if self.rotations else self.linear(h)


class Mapping(nn.Module):
    def __init__(self, c_dim):
        super().__init__()
        self.c_dim, self.linear = c_dim, nn.Linear(LATENT + c_dim, LATENT)
        self.register_buffer("w_avg", torch.full((LATENT,), 0.1))

    def forward(self, z, c, truncation_psi=1, truncation_cutoff=None):
        if self.c_dim:
            assert c.dtype == torch.float32
            assert c.shape[1] == self.c_dim
            z = torch.cat([z, c], 1)
        return self.w_avg.lerp(self.linear(z), truncation_psi)


class Synthesis(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(LATENT, PIXELS)

    def forward(self, w, noise_mode="random", force_fp32=False):
        noise = torch.randn(len(w), 1) if noise_mode == "random" else 0.5 * (noise_mode == "const")
        return image(self.linear(w) + noise)


class StyleGenerator(nn.Module):
    """As of NVlabs/stylegan2-ada-pytorch and stylegan3: a one-hot label, noise unless told."""

    def __init__(self, c_dim=0):
        super().__init__()
        self.z_dim, self.c_dim, self.img_resolution = LATENT, c_dim, SIDE
        self.mapping, self.synthesis = Mapping(c_dim), Synthesis()

    def forward(self, z, c, truncation_psi=1, truncation_cutoff=None, **synthesis):
        return self.synthesis(self.mapping(z, c, truncation_psi, truncation_cutoff), **synthesis)


class MinibatchStdLayer(nn.Module):
    """Adds how much the members of a group differ; they are as far apart as there are groups."""

    def __init__(self, group_size=4):
        super().__init__()
        self.group_size = group_size

    def forward(self, h):
        groups = h.view(min(self.group_size, len(h)), -1, h.shape[1])
        spread = groups.std(0, correction=0).mean(1, keepdim=True)
        return torch.cat([h, spread.repeat(len(groups), 1)], 1)


class StyleDiscriminator(nn.Module):
    def __init__(self, c_dim=0, coupled=True):
        super().__init__()
        self.c_dim, self.img_resolution = c_dim, SIDE
        coupling = [MinibatchStdLayer()] if coupled else []
        inputs = PIXELS + c_dim
        self.b4 = nn.Sequential(*coupling, nn.Linear(inputs + coupled, 16), nn.Tanh())
        self.out = nn.Linear(16, 1)
        nn.init.normal_(self.out.weight)

    def forward(self, img, c, force_fp32=False):
        h = img.flatten(1)
        return self.out(self.b4(torch.cat([h, c], 1) if self.c_dim else h))


class RosinalityGenerator(nn.Module):
    """Takes a list of styles, and returns an image and its latent."""

    def __init__(self):
        super().__init__()
        self.size, self.style_dim = SIDE, LATENT
        self.style, self.linear = nn.Linear(LATENT, LATENT), nn.Linear(LATENT, PIXELS)
        self.noises = nn.Module()
        self.noises.register_buffer("noise_0", torch.randn(1, PIXELS))

    def forward(self, styles, truncation=1, truncation_latent=None, randomize_noise=True):
        (z,) = styles
        style = self.style(z)
        if truncation < 1:
            style = truncation_latent + truncation * (style - truncation_latent)
        noise = torch.randn(len(z), PIXELS) if randomize_noise else self.noises.noise_0
        return image(self.linear(style) + noise), None


class RosinalityDiscriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.stddev_group, self.stddev = 4, MinibatchStdLayer()
        self.final_linear = nn.Sequential(nn.Linear(PIXELS + 1, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x):
        return 4 * self.final_linear(self.stddev(x.flatten(1)))


class R3Model(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, x, c):
        return self.linear(x.flatten(1) if c is None else torch.cat([x.flatten(1), c], 1))


class R3Generator(nn.Module):
    """As of brownvc/R3GAN: a one-hot label, and one number per sample from the critic."""

    def __init__(self, c_dim=0):
        super().__init__()
        self.z_dim, self.c_dim, self.img_resolution = LATENT, c_dim, SIDE
        self.Model = R3Model(LATENT + c_dim, PIXELS)

    def forward(self, x, c):
        return image(self.Model(x, c))


class R3Discriminator(nn.Module):
    def __init__(self, c_dim=0):
        super().__init__()
        self.Model = R3Model(PIXELS + c_dim, 1)

    def forward(self, x, c):
        return self.Model(x, c).view(len(x))


class StudioGenerator(nn.Module):
    """As of PyTorch-StudioGAN: a label in any case, and what `eval` says."""

    def __init__(self, conditional):
        super().__init__()
        self.shift = nn.Embedding(CLASSES, LATENT) if conditional else None
        self.linear = nn.Linear(LATENT, PIXELS)

    def forward(self, z, label, eval=False):
        assert eval
        assert label.dtype == torch.int64
        return image(self.linear(z if self.shift is None else z + self.shift(label)))


class StudioDiscriminator(nn.Module):
    def __init__(self, conditional):
        super().__init__()
        self.embed = nn.Embedding(CLASSES, PIXELS) if conditional else None
        self.linear = nn.Linear(PIXELS, 1)

    def forward(self, x, label, eval=False, adc_fake=False):
        assert eval
        assert label.dtype == torch.int64
        h = x.flatten(1)
        score = self.linear(h).squeeze()
        if self.embed is not None:
            score = score + (self.embed(label) * h).sum(1)
        return {"h": h, "adv_output": score, "label": label}


# What is in src/ of PyTorch-StudioGAN, in so far as it is used.
STUDIO = {
    "config.py": """
import json
from types import SimpleNamespace


class Configurations:
    def __init__(self, cfg_file):
        self.DATA = SimpleNamespace(num_classes=3, img_size=8)
        self.MODEL = SimpleNamespace(
            backbone="resnet", z_dim=6, z_prior="gaussian", info_type="N/A", apply_g_ema=False,
            g_cond_mtd="W/O", d_cond_mtd="W/O",
        )
        self.LOSS = SimpleNamespace(adv_loss="vanilla")
        self.OPTIMIZATION, self.STYLEGAN = SimpleNamespace(), SimpleNamespace()
        self.MODULES, self.RUN = SimpleNamespace(), SimpleNamespace()
        with open(cfg_file) as file:
            for part, values in json.load(file).items():
                vars(getattr(self, part)).update(values)
""",
    "models/__init__.py": "",
    "models/model.py": """
import copy

from replicas import StudioDiscriminator, StudioGenerator


def load_generator_discriminator(
    DATA, OPTIMIZATION, MODEL, STYLEGAN, MODULES, RUN, device, logger
):
    assert not RUN.mixed_precision
    conditional = MODEL.g_cond_mtd != "W/O"
    made, critic = StudioGenerator(conditional), StudioDiscriminator(conditional)
    average = copy.deepcopy(made) if MODEL.apply_g_ema else None
    return made, None, None, critic, average, None, None, None
""",
}
