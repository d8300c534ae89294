"""Speed: ops, whole runs, Squeeze, calibration."""
