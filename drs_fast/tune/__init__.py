"""Other ways to run G and D: their weights, memory layout, code and precision."""
