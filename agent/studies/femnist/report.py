"""What the FeMNIST experiment found, in words, as JSON and as a page.

Nothing is trained or read here.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from candor.agent.reports.charts import Line, histogram, lines_by_round
from candor.agent.reports.html import card, escape, image, page, table
from candor.agent.studies.femnist.aggression import HIGH_PERCENTILE, Measured, Outcomes, Rule
from candor.agent.studies.femnist.experiment import Results

_INTRODUCTION: Final = (
    "Writers train one model together: at each step three of them send the gradient of all their "
    "training images, and the model moves by the average, weighted by their numbers of images. "
    "They compete: each is rewarded with the test loss of the final model. Group A, a third of "
    "them, adds noise, of mean square alpha squared to each tensor. Each pays the price C times "
    "what the rule names, to the two others of that step. After Dorner et al. 2023, appendix B.3."
)
RULES: Final[Mapping[Rule, str]] = {
    Rule.DISTANCE: "paying for the squared distance from the average, as in the paper",
    Rule.INFLUENCE: "paying for influence: the squared distance, times the square of one's "
    "weight in the average over an equal share",
}


def facts(results: Results, prices: Sequence[float]) -> dict[str, Any]:
    """What was found, in the types of JSON."""
    setting = results.setting
    return {
        "task": setting.task,
        "steps": setting.steps,
        "step_size": setting.step_size,
        "alpha_b": results.alpha_b,
        "seeds": list(results.seeds),
        "writers": results.writers,
        "diverged": [{"alpha": a, "seed": seed, "step": t} for a, seed, t in results.diverged],
        "rules": {rule: _measured(one, prices) for rule, one in results.measured.items()},
        "ok": results.holds,
    }


def _measured(measured: Measured, prices: Sequence[float]) -> dict[str, Any]:
    return {
        "outcomes": [_outcome(one, prices) for one in measured.outcomes],
        "damage": measured.damage,
        f"honest_charge_p{HIGH_PERCENTILE}": measured.honest_charge,
        "reward_falls_from_price": measured.falls_from,
        "honest_pay_little_below_price": measured.cheap_below,
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
            {"price": price, "mean": mean, "standard_error": error}
            for price in prices
            for mean, error in (one.reward(price),)
        ],
    }


def sentences(measured: Measured) -> list[str]:
    """What was found under a rule, in words."""
    low, high, last = measured.falls_from, measured.cheap_below, measured.outcomes[-1].alpha
    if last == 0:
        return ["No training with noise ended in finite numbers."]
    if measured.damage <= 0:
        return [
            f"Aggressiveness {last:g} does not harm the others in so few steps: there is nothing "
            "to deter. Give more --steps, or a larger --alpha."
        ]
    if math.isinf(low):
        return ["At no price does reward fall with each step of aggressiveness."]
    pays = low * measured.honest_charge
    return [
        f"From price {low:.2g} on, reward falls with each step of aggressiveness up to {last:g}.",
        f"At that price {HIGH_PERCENTILE} % of honest writers pay less than {pays:.2g}, and "
        f"aggressiveness {last:g} costs them {measured.damage:.2g} in test loss.",
        f"They pay less than a tenth of that below price {high:.2g}: "
        f"there {'are' if measured.holds else 'are no'} prices at which both hold.",
    ]


def divergences(results: Results) -> list[str]:
    """The trainings that were left out, in words; none if there are none."""
    runs = ", ".join(f"{a:g} (seed {seed}, step {t})" for a, seed, t in results.diverged)
    return [f"Diverged, and left out: aggressiveness {runs}."] if runs else []


def render(results: Results, prices: Sequence[float]) -> str:
    """The page; `prices` are those to draw, 0 among them for no penalties."""
    setting = results.setting
    runs = "1 run" if len(results.seeds) == 1 else f"{len(results.seeds)} runs"
    header = (
        "<header><p class=kind>Candor experiment</p><h1>FeMNIST among competitors</h1>"
        f"<p class=lead>{escape(setting.task)}, {results.writers} writers, {setting.steps:,} steps "
        f"of size {setting.step_size:g}, {runs} of each aggressiveness; noise of the others: "
        f"{results.alpha_b:g}</p></header>"
    )
    found = "".join(
        f"<h3>{escape(RULES[rule][0].upper() + RULES[rule][1:])}</h3>"
        + "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences(measured))
        for rule, measured in results.measured.items()
    )
    found += "".join(f"<p>{escape(sentence)}</p>" for sentence in divergences(results))
    blocks = [header, card("What was found", _INTRODUCTION, found)]
    for rule, measured in results.measured.items():
        enough = measured.falls_from
        blocks += [
            _rewards(rule, measured, prices),
            _payments(rule, measured, enough if 0 < enough < math.inf else max(prices)),
            _numbers(rule, measured, prices),
        ]
    return page("FeMNIST among competitors", blocks)


def _rewards(rule: Rule, measured: Measured, prices: Sequence[float]) -> str:
    lines = [
        Line(
            f"C = {price:g}" if price else "no penalties",
            [one.alpha for one in measured.outcomes],
            [one.reward(price)[0] for one in measured.outcomes],
            marked=price == 0,
        )
        for price in prices
    ]
    across = "aggressiveness of group A"
    reward = "reward of A: test loss less payments"
    draw = partial(lines_by_round, lines, reward, across=across)
    return card(
        f"Reward by aggressiveness: {rule}",
        "The test loss of the final model, which harms the competitors, less net payments: noise "
        f"pays where a line is above its left end. Here {RULES[rule]}.",
        image(draw, "mean reward of group A by its aggressiveness, a line for each price"),
    )


def _payments(rule: Rule, measured: Measured, price: float) -> str:
    references = {
        f"{HIGH_PERCENTILE} % pay less": price * measured.honest_charge,
        "a tenth of the damage": measured.damage / 10,
    }
    values = (price * measured.honest_charges).ravel().tolist()
    draw = partial(histogram, values, f"net payment at C = {price:.2g}", "writers", references)
    return card(
        f"What honest writers pay: {rule}",
        "When all are honest: each writer's net payment over all steps, in each run; below 0 it "
        "receives. At the price from which reward falls, if there is one. Damage is what "
        "the largest aggressiveness of group A costs in test loss.",
        image(draw, "histogram of the net payments of honest writers"),
    )


def _numbers(rule: Rule, measured: Measured, prices: Sequence[float]) -> str:
    return card(
        f"In numbers: {rule}",
        escape(NUMBERS),
        table(*numbers(measured, prices)),
    )


NUMBERS: Final = (
    "Reward: of group A, mean (± standard error): the test loss of the common model, which harms "
    "its competitors, less what A pays at price C. Noise pays where the reward is above that of "
    "alpha 0 in the same column; at C = 0 nobody pays, and it is the test loss itself. Test loss: "
    "lower is the better model; accuracy: higher. Pays: net, at price 1, in units of loss."
)


def numbers(
    measured: Measured, prices: Sequence[float]
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """What was measured as a table, columns and rows; those named #… hold numbers."""
    columns = ("#noise of A,\nalpha", "#runs", "#test\nloss", "#accuracy", "#A pays\nat C = 1")
    rows = [
        (
            f"{one.alpha:g}",
            f"{len(one.losses)}",
            f"{one.losses.mean():.4f}",
            f"{one.accuracies.mean():.1%}",
            f"{one.charges.mean():.4g}",
            *(_told(one, price) for price in prices),
        )
        for one in measured.outcomes
    ]
    return (*columns, *(f"#reward at\nC = {price:g}" for price in prices)), rows


def _told(one: Outcomes, price: float) -> str:
    """A reward with its standard error, where there is one."""
    mean, error = one.reward(price)
    return f"{mean:.4f}" + (f" ± {error:.4f}" if math.isfinite(error) else "")
