"""Other people's GANs, and other sources, as a `GAN`."""
