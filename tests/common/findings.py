"""The doctor's findings, as its code names them."""

import re

from pages import ROOT

SOURCES = sorted((ROOT / "drs_fast/doctor").glob("*.py"))


def codes():
    """The short names of all that the doctor can find."""
    found = {"underconfident"}  # the other half of a conditional
    for source in SOURCES:
        for code in re.findall(r'Finding\(\s*f?"([^"]+)"', source.read_text()):
            found |= {code.replace("{role}", role) for role in ("generator", "discriminator")}
    return found
