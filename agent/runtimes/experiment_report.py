"""What the FeMNIST experiment found, in words, as JSON and as a page.

Nothing is trained or read here.
"""

import math
from collections.abc import Sequence
from typing import Any

from agent.charts import Line, histogram, lines_by_round
from agent.page import card, escape, image, page, table
from agent.runtimes.experiment import Results
from mechanisms.aggression import HIGH_PERCENTILE, Outcomes

_INTRODUCTION = (
    "Writers train one model together: at each step three of them send the gradient of all their "
    "training images, and the model moves by the average. They compete: each is rewarded with the "
    "test loss of the final model. Group A, a third of them, adds noise, of mean square alpha "
    "squared to each tensor. Each pays the price C times its squared distance from the average, to "
    "the two others of that step. After Dorner et al. 2023, appendix B.3."
)


def facts(results: Results, prices: Sequence[float]) -> dict[str, Any]:
    """What was found, in the types of JSON: nothing that is not finite, which is null."""
    setting, measured = results.setting, results.measured
    return {
        "task": setting.task,
        "steps": setting.steps,
        "step_size": setting.step_size,
        "alpha_b": results.alpha_b,
        "seeds": list(results.seeds),
        "writers": measured.honest_charges.shape[1],
        "outcomes": [_outcome(one, prices) for one in measured.outcomes],
        "diverged": [{"alpha": a, "seed": seed, "step": t} for a, seed, t in results.diverged],
        "damage": measured.damage,
        "honest_pays": [
            {"price": price, f"p{HIGH_PERCENTILE}": price * measured.honest_charge}
            for price in prices
        ],
        "reward_falls_from_price": _finite(measured.falls_from),
        "honest_pay_little_below_price": _finite(measured.cheap_below),
        "ok": measured.holds,
    }


def _outcome(one: Outcomes, prices: Sequence[float]) -> dict[str, Any]:
    return {
        "alpha": one.alpha,
        "runs": len(one.losses),
        "loss": float(one.losses.mean()),
        "accuracy": float(one.accuracies.mean()),
        "charge_at_price_1": float(one.charges.mean()),
        "rewards": [
            {"price": price, "mean": mean, "standard_error": _finite(error)}
            for price in prices
            for mean, error in (one.reward(price),)
        ],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def sentences(results: Results, prices: Sequence[float]) -> list[str]:
    """What was found, in words."""
    measured, price = results.measured, max(prices)
    low, high, last = measured.falls_from, measured.cheap_below, measured.outcomes[-1].alpha
    diverged = ", ".join(f"{a:g} (seed {seed}, step {t})" for a, seed, t in results.diverged)
    left_out = [f"Diverged, and left out: aggressiveness {diverged}."] if diverged else []
    if last == 0:
        return ["No training with noise ended in finite numbers.", *left_out]
    falls = (
        f"From price {low:.2g} on, reward falls with each step of aggressiveness up to {last:g}."
        if math.isfinite(low)
        else "At no price does reward fall with each step of aggressiveness."
    )
    pays = (
        f"At price {price:g}, {HIGH_PERCENTILE} % of honest writers pay less than "
        f"{price * measured.honest_charge:.2g}; aggressiveness {last:g} costs them "
        f"{measured.damage:.2g} in test loss."
    )
    both = (
        f"Below price {high:.2g} they pay less than a tenth of that: "
        f"there {'are' if measured.holds else 'are no'} prices at which both hold."
    )
    return [falls, pays, both, *left_out]


def render(results: Results, prices: Sequence[float]) -> str:
    """The page; `prices` are those to draw, 0 among them for no penalties."""
    setting, measured = results.setting, results.measured
    runs = "1 run" if len(results.seeds) == 1 else f"{len(results.seeds)} runs"
    header = (
        "<header><p class=kind>Candor experiment</p><h1>FeMNIST among competitors</h1>"
        f"<p class=lead>{escape(setting.task)}, {measured.honest_charges.shape[1]} writers, "
        f"{setting.steps:,} steps of size {setting.step_size:g}, {runs} of each aggressiveness; "
        f"noise of the others: {results.alpha_b:g}</p></header>"
    )
    found = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences(results, prices))
    return page(
        "FeMNIST among competitors",
        [
            header,
            card("What was found", _INTRODUCTION, found),
            _rewards(results, prices),
            _payments(results, max(prices)),
            _numbers(results, prices),
        ],
    )


def _rewards(results: Results, prices: Sequence[float]) -> str:
    outcomes = results.measured.outcomes
    lines = [
        Line(
            f"C = {price:g}" if price else "no penalties",
            [one.alpha for one in outcomes],
            [one.reward(price)[0] for one in outcomes],
            marked=price == 0,
        )
        for price in prices
    ]
    drawing = lines_by_round(lines, "mean reward of group A", across="aggressiveness of group A")
    return card(
        "Reward by aggressiveness",
        "The test loss of the final model less net payments. Without penalties noise pays; at a "
        "price high enough it costs.",
        image(drawing, "mean reward of group A by its aggressiveness, a line for each price"),
    )


def _payments(results: Results, price: float) -> str:
    measured = results.measured
    references = {
        f"{HIGH_PERCENTILE} % pay less": price * measured.honest_charge,
        "a tenth of the damage": measured.damage / 10,
    }
    values = (price * measured.honest_charges).ravel().tolist()
    drawing = histogram(values, f"net payment at C = {price:g}", "writers", references)
    return card(
        "What honest writers pay",
        "When all are honest: each writer's net payment over all steps, in each run; below 0 it "
        "receives. Damage is what the largest aggressiveness of group A costs in test loss.",
        image(drawing, "histogram of the net payments of honest writers"),
    )


def _numbers(results: Results, prices: Sequence[float]) -> str:
    columns = ["#alpha", "#runs", "#test loss", "#accuracy", "#charge at C = 1"]
    rows = [
        [
            f"{one.alpha:g}",
            f"{len(one.losses)}",
            f"{one.losses.mean():.4f}",
            f"{one.accuracies.mean():.1%}",
            f"{one.charges.mean():.4g}",
            *(_told(one, price) for price in prices),
        ]
        for one in results.measured.outcomes
    ]
    headers = [f"#reward, C = {price:g}" for price in prices]
    return card("In numbers", "Rewards ± standard error.", table([*columns, *headers], rows))


def _told(one: Outcomes, price: float) -> str:
    """A reward with its standard error, where there is one."""
    mean, error = one.reward(price)
    return f"{mean:.4f}" + (f" ± {error:.4f}" if math.isfinite(error) else "")
