"""What the writer of a run on disk is told, where tests and benchmarks write one without a GAN."""

from typing import Any

SPEC: dict[str, Any] = {
    "rng_version": 1,
    "model_sha256": "0" * 64,
    "sampler": {"name": "DRS", "law_version": 1},
    "seed": 7,
    "batch_size": 64,
    "device": "cpu",
    "precision": "fp32",
    "save": ["x", "logit"],
    "label_weights": None,
}


def tried(rows: int) -> dict[str, int]:
    """The counters of a shard made from this many rows."""
    return {"rows": rows, "calls": rows, "invalid": 0, "above": 0}
