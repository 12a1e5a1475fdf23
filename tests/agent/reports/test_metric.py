"""How a metric reads: accuracy in per cent, any other under its own name, with its direction."""

import math

import pytest

from candor.agent.reports.metric import (
    LETTERS_MAX,
    NARROW,
    Metric,
    format_share,
    format_value,
    mean_of,
    reached,
)

RMSE = Metric("rmse", higher_is_better=False)


def test_accuracy_is_told_in_per_cent_and_another_metric_with_four_digits() -> None:
    assert Metric().text(0.9512) == Metric().cell(0.9512) == "95.1 %"
    assert RMSE.text(1.234567) == RMSE.cell(1.234567) == "1.235"
    assert RMSE.text(-123456.0) == "-1.235e+05"
    assert (format_share(None), format_share(0.5), format_value(None)) == ("-", "50.0 %", "-")
    assert format_value(math.nan) == format_value(-math.inf) == "-"


@pytest.mark.parametrize("value", [-1.2345e-300, 1e300, -12345.678, 0.00012345, -0.98765, 99999.0])
def test_a_cell_is_narrow_and_rounded_not_cut(value: float) -> None:
    cell = RMSE.cell(value)
    assert len(cell) <= NARROW
    assert float(cell) == pytest.approx(value, rel=0.5)


def test_what_says_nothing_is_of_accuracy() -> None:
    assert Metric.of({}) == Metric.of({"metric": None, "better": None}) == Metric()
    assert Metric.of({"metric": 7, "better": []}) == Metric()
    assert Metric.of({"metric": "rmse", "better": "lower"}) == RMSE
    assert Metric.of({"metric": "r2"}) == Metric("r2", higher_is_better=True)


def test_words_follow_the_direction() -> None:
    assert (RMSE.direction, RMSE.worst) == ("lower is better", "worst rmse")
    assert (Metric().direction, Metric().worst) == ("higher is better", "lowest accuracy")
    assert (RMSE.quantity, RMSE.drawn(0.5)) == ("rmse", 0.5)
    assert (Metric().quantity, Metric().drawn(0.5)) == ("accuracy (%)", 50.0)
    assert (RMSE.short, Metric().short) == ("rmse", "acc")


def test_a_name_out_of_a_file_is_short_and_printable() -> None:
    name = Metric.of({"metric": "\x1b[2J\ud800" + "x" * 500}).name
    assert name.startswith("?[2J?xxx")
    assert len(name) == LETTERS_MAX
    assert len(Metric.of({"metric": "mean_absolute_error"}).short) == NARROW


def test_a_value_may_be_one_number_or_one_an_agent() -> None:
    assert mean_of(0.5) == 0.5
    assert mean_of({"a0": 0.5, "a1": 1}) == 0.75
    assert mean_of({"a0": 0.5, "a1": None}) is mean_of({}) is mean_of(None) is None


def test_what_was_reached_has_the_metrics_name() -> None:
    summary: dict[str, object] = {
        "mean_accuracy": 2.0,
        "min_accuracy": 3.0,
        "local_metric": {"a0": 1.0, "a1": 2.0},
        "centralised_accuracy": None,
    }
    assert reached(summary, RMSE) == {
        "mean rmse": 2.0,
        "worst rmse": 3.0,
        "on own data, mean": 1.5,
        "one model on all data": None,
    }
