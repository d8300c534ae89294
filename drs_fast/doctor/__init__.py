"""What is wrong with a GAN, and what to do about it."""
