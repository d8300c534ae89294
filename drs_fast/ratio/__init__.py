"""A log density ratio from any critic, or from samples alone."""
