"""Numbers as people read them."""

from __future__ import annotations

import pytest

from dem_build.report import quantities


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.2344, "1.234"),
        (57.104, "57.10"),
        (123.46, "123.5"),
        (1234.5678, "1235"),
        (-0.0001, "0.000"),
        (float("nan"), "nan"),
    ],
)
def test_measured_values_keep_about_four_digits(value, shown):
    assert quantities.decimals(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.045, "+0.045"), (-0.321, "-0.321"), (0.0, "0.000"), (0.0002, "0.000")]
)
def test_changes_have_a_sign_and_no_change_has_none(value, shown):
    assert quantities.signed(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.6, "1m 00s"),
        (130, "2m 10s"),
        (3599.7, "1h 00m"),
        (187200, "2d 04h"),
    ],
)
def test_time_spans_show_their_two_largest_units(seconds, shown):
    assert quantities.duration(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(7.44, "7.4"), (185.3, "185"), (999.6, "1.0k"), (25123, "25k"), (3.4e6, "3.4M"), (40, "40")],
)
def test_counts_keep_about_two_digits(value, shown):
    assert quantities.count(value) == shown


@pytest.mark.parametrize(("octets", "shown"), [(512, "512 B"), (3.1e9, "3.1 GB"), (999.9e6, "1.0 GB")])
def test_sizes_are_decimal(octets, shown):
    assert quantities.size(octets) == shown


@pytest.mark.parametrize(("share", "shown"), [(0.999, "99%"), (1.0, "100%"), (0.29, "29%"), (-1, "0%")])
def test_only_what_is_complete_is_a_hundred_percent(share, shown):
    assert quantities.percent(share) == shown


def test_an_interval_is_rounded_outwards():
    assert quantities.between(0.378, 1.161) == "0.37 to 1.17"
    assert quantities.between(0.29, 0.58) == "0.29 to 0.58"
