"""How numbers, durations and sizes are written for people."""

from __future__ import annotations

import math

DECIMALS = 3
KILO = 1000.0


def decimals(value: float) -> str:
    """A measured value with three decimals, and fewer where it is large: `1.234`, `57.10`, `1234`."""
    if not math.isfinite(value):
        return str(value)
    # At least three digits after the first, and at most so many decimals.
    places = DECIMALS - sum(abs(value) >= power for power in (10, 100, 1000))
    shown = f"{value:.{places}f}"
    return shown.removeprefix("-") if float(shown) == 0 else shown


def signed(value: float) -> str:
    """A change with its sign: `+0.045`, `-0.321`; no change has none."""
    shown = decimals(value)
    return shown if value <= 0 or not math.isfinite(value) or float(shown) == 0 else f"+{shown}"


def plus_minus(stderr: float | None) -> str:
    """A standard error, `±0.021`; nothing where it is unknown."""
    return "" if stderr is None else f"±{decimals(stderr)}"


def with_error(shown: str, stderr: float | None) -> str:
    """A number as it is shown, with its standard error where that is known: `0.893 ±0.021`."""
    return shown if stderr is None else f"{shown} {plus_minus(stderr)}"


def between(low: float, high: float) -> str:
    """An interval, rounded outwards so that what lies in it still does: `0.28 to 1.17`."""
    # 100 * 0.29 is 28.999999999999996: what float64 lacks is no reason to round a bound outwards by another hundredth.
    return f"{math.floor(100 * low + 1e-9) / 100:.2f} to {math.ceil(100 * high - 1e-9) / 100:.2f}"


def percent(share: float) -> str:
    """A share of 1 in whole percent, rounded down: only what is complete is 100%."""
    return f"{math.floor(100 * min(max(share, 0.0), 1.0) + 1e-9)}%"


def count(value: float) -> str:
    """A count or a rate with about three digits: `7.4`, `185`, `1.2k`, `3.4M`."""
    for unit in ("", "k", "M", "G"):
        # What would be rounded to 1000 is one of the next unit.
        if abs(value) < KILO - 0.5:
            return f"{value:.0f}{unit}" if abs(value) >= 10 or value == int(value) else f"{value:.1f}{unit}"
        value /= KILO
    return f"{value:.1f}T"


def size(octets: float) -> str:
    """A number of bytes in decimal units: `512 B`, `3.1 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if octets < KILO - 0.5:
            return f"{octets:.0f} {unit}" if octets >= 10 or unit == "B" else f"{octets:.1f} {unit}"
        octets /= KILO
    return f"{octets:.1f} TB"


def duration(seconds: float) -> str:
    """A time span with its two largest units: `0.4s`, `12s`, `2m 10s`, `1h 03m`, `2d 04h`."""
    if seconds < 9.95:  # from there on one decimal would say 10.0
        return f"{max(seconds, 0.0):.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h {minutes:02d}m"
    return f"{hours // 24}d {hours % 24:02d}h"
