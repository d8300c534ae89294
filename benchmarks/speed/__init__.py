"""How fast: ops, whole runs, Squeeze, calibration."""
