"""Small networks that are fitted: draws, optimiser, data."""
