"""How good: laws, and samplers side by side."""
