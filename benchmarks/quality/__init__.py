"""Quality: the samplers' laws, and samplers side by side."""
