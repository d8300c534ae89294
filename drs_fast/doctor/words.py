"""Numbers as the doctor says them: three digits."""

import math


def number(value: float) -> str:
    """Three significant digits, and whole numbers above 999 with commas: 0.123, 12.3, 4,096."""
    value = float(value)
    if not math.isfinite(value) or abs(value) < 1000 or abs(value) >= 1e9:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value.is_integer() else f"{float(f'{value:.3g}'):,.0f}"


def percent(share: float) -> str:
    """A share in percent."""
    return f"{100.0 * share:.3g} %"
