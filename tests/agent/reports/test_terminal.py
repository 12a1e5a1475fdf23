"""What the terminal shows: exact money, 80 columns, and no way for a name to steer it."""

import io
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from candor.agent.daemon.status import NeighbourStatus, Status
from candor.agent.reports.terminal import (
    format_bytes,
    live_table,
    payments_of,
    refusals,
    status_view,
    summary_view,
)

SUMMARY: dict[str, object] = {
    "run_id": "demo",
    "rounds": 60,
    "task": "digits",
    "topology": "ring",
    "partition": "iid",
    "accuracy": {"a0": 0.96, "a1": 0.95, "a3": 0.94},
    "centralised_accuracy": 0.972,
    "alone_accuracy": {"a0": 0.8, "a1": 0.7, "a3": 0.75},
    "mean_accuracy": 0.951,
    "min_accuracy": 0.944,
    "balances": {"a0": 1_000_001, "a1": 0, "a3": -1_000_001},
    "bytes_sent": {"a0": 12_400_000, "a1": 12_400_000, "a3": 12_400_000},
    "strategies": {"a3": "scale:3"},
    "edges": [
        {"lo": "a0", "hi": "a1", "balance_lo": 0},
        {"lo": "a0", "hi": "a3", "balance_lo": 1_000_001},
        {"lo": "a1", "hi": "a3", "balance_lo": -20},
    ],
    "audit": "ok",
}


def _shown(view: RenderableType, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(view)
    return out.getvalue()


def test_a_credit_limit_below_what_updates_cost_is_told() -> None:
    assert "credit limit" not in _words(summary_view(SUMMARY | {"beyond_credit": {"a0": 0}}))
    shown = _words(summary_view(SUMMARY | {"beyond_credit": {"a0": 2, "a1": 0, "a3": 58}}))
    assert "credit limit too low for 60 updates, which nobody mixed: a0 2, a3 58" in shown


def test_whose_updates_neighbours_refused_for_their_ratings_is_told() -> None:
    assert "neighbours' word" not in _words(summary_view(SUMMARY))
    shown = _words(summary_view(SUMMARY | {"misrated": {"a1": {"a0": 3, "a3": 2}}}))
    assert "a1 gave less than ratings earn" in shown
    assert "refused by a0 3 times, a3 2 times" in shown


def test_what_is_proven_of_whom_and_what_it_costs_is_told() -> None:
    assert "proven" not in _words(summary_view(SUMMARY))
    found = {"proven": ["a3: false-report in round 7: guilty"], "bonds": {"a3": 5_000_000}}
    shown = _words(summary_view(SUMMARY | found))
    assert "proven a3: false-report in round 7: guilty" in shown
    assert "bond a3 owes its bond of 5.000000 to its neighbours" in shown


def test_who_mixed_with_nobody_in_many_rounds_is_told() -> None:
    quiet = SUMMARY | {"rounds": 100, "alone_rounds": {"a0": 5, "a1": 0}}
    assert "nobody" not in _words(summary_view(quiet))
    shown = _words(summary_view(quiet | {"alone_rounds": {"a0": 80, "a1": 5}}))
    assert "a0 mixed with nobody in 80 of 100 rounds" in shown
    assert "a1 mixed with nobody" not in shown
    statuses = [_status("a0", alone_rounds=3), _status("a1")]
    shown = _words(status_view(statuses, {"a0": True, "a1": True}, "demo"))
    assert "a0 mixed with nobody in 3 of 7 rounds" in shown
    assert "a1 mixed with nobody" not in shown


def test_whom_a_rule_gives_no_weight_is_told_by_the_share_of_rounds() -> None:
    def seen(**rounds: int) -> dict[str, NeighbourStatus]:
        return {k: NeighbourStatus("served", 7, weightless_rounds=n) for k, n in rounds.items()}

    statuses = [
        _status("a0", neighbours=seen(a1=0, a2=7)),
        _status("a1", neighbours=seen(a0=1, a2=7)),
        _status("a2", neighbours=seen(a0=0, a1=0)),
    ]
    running = dict.fromkeys(("a0", "a1", "a2"), True)
    shown = _words(status_view(statuses, running, "demo"))
    assert "given no weight, of their neighbours' rounds: a2 in 100 %, a0 in 7 %" in shown
    assert "no weight" not in _words(status_view(statuses[2:], running, "demo"))


def test_who_took_part_in_which_share_of_rounds_is_told() -> None:
    def seen(**mixed: int) -> dict[str, NeighbourStatus]:
        return {
            agent: NeighbourStatus("late", rounds, due_rounds=7, mixed_rounds=rounds)
            for agent, rounds in mixed.items()
        }

    statuses = [
        _status("a0", neighbours=seen(a1=7, a2=4), performed_rounds=7),
        _status("a1", neighbours=seen(a0=7, a2=5), performed_rounds=7),
    ]
    told = (
        "2 of 3 agents took part throughout; a2 was mixed in 64 % of rounds by its neighbours, "
        "last seen in round 5"
    )
    assert told in _words(status_view(statuses, {"a0": True, "a1": True}, "demo"))
    stored = {"a2": {"share": 9 / 14, "performed": None, "due": 14, "mixed": 9, "last_round": 5}}
    whole = {"share": 1.0, "performed": 7, "due": 14, "mixed": 14, "last_round": 7}
    parts = {"a0": whole, "a1": whole, **stored}
    assert told in _words(summary_view(SUMMARY | {"participation": parts}))
    assert "took part" not in _words(summary_view(SUMMARY))


def test_whom_neighbours_give_little_is_told_the_least_first() -> None:
    def seen(**shares: float) -> dict[str, NeighbourStatus]:
        return {k: NeighbourStatus("served", 7, reputation=s, share=s) for k, s in shares.items()}

    statuses = [
        _status("a0", neighbours=seen(a1=0.5, a2=0.0)),
        _status("a1", neighbours=seen(a0=1.0, a2=0.5)),
        _status("a2", neighbours=seen(a0=1.0, a1=0.75)),
    ]
    running = dict.fromkeys(("a0", "a1", "a2"), True)
    told = "given by their neighbours, of a model: "
    assert f"{told}a2 25 %, a1 62 %" in _words(status_view(statuses, running, "demo"))
    rewards = {agent: {"reputation": 0.5, "share": 1.0} for agent in running}
    assert f"{told}all of it to everybody" in _words(summary_view({"rewards": rewards}))
    assert told not in _words(summary_view({}))


def _words(view: RenderableType) -> str:
    return " ".join(_shown(view).split())


def test_who_has_left_is_said_to_have_and_not_to_be_without_others() -> None:
    gone = NeighbourStatus("left", 7, 0, "left after round 7")
    status = _status("a0", state="done", neighbours={"a1": gone})
    (told,) = refusals(status)
    assert told.plain == "a0 left after round 7: the run goes on without it"


def _status(agent: str, **changes: object) -> Status:
    fields: dict[str, object] = {
        "run_id": "demo",
        "agent": agent,
        "fingerprint": "ab" * 32,
        "pid": 1,
        "state": "training",
        "round": 7,
        "rounds": 60,
    }
    return Status(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (12_400_000, "12.4 MB"),
        (960_000, "960 kB"),
        (3e15, "3000.0 TB"),
    ],
)
def test_bytes_are_in_decimal_units(count: float, text: str) -> None:
    assert format_bytes(count) == text


def test_payments_go_from_payer_to_receiver_the_largest_first() -> None:
    assert payments_of(SUMMARY["edges"]) == [("a3", "a0", 1_000_001), ("a1", "a3", 20)]
    assert payments_of(None) == []
    assert payments_of([{"lo": "a0"}, 5, {"lo": "a0", "hi": "a1", "balance_lo": "x"}]) == []


def test_the_live_table_has_a_row_for_each_agent_in_order() -> None:
    table = live_table(
        [
            _status("a1", train_loss=0.51, test_accuracy=0.9, injected_norm=3.0, balance=-20),
            _status("a0", state="done", bytes_sent=600, bytes_received=400),
        ],
        "digits on a ring",
    )
    words = _words(table)
    assert words.startswith("digits on a ring agent state round loss acc norm balance bytes")
    assert "a1 training 7/60 0.510 90.0 % 3.00 -0.000020 0 B a0 done 7/60 - - - 0.000000" in words


RMSE: dict[str, object] = {
    "metric": "rmse",
    "better": "lower",
    "metrics": {"rmse": 1.23456, "r2": 0.5},
}


def test_the_live_table_of_another_metric_names_it() -> None:
    table = live_table([_status("a0", test_accuracy=1.23456, **RMSE), _status("a1", **RMSE)], "")
    assert _lines(table) == [
        "agent  state     round  loss   rmse  norm   balance  bytes",
        "───────────────────────────────────────────────────────────",
        "a0     training   7/60     -  1.235     -  0.000000    0 B",
        "a1     training   7/60     -      -     -  0.000000    0 B",
        "loss: in training, lower is better; rmse: of test samples,",
        "lower is better; norm: of the own update; balance: credits,",
        "above 0 received; bytes: sent and received",
    ]


def test_the_metric_on_own_data_has_a_column() -> None:
    statuses = [
        _status("a0", test_accuracy=12345.6, local_metric=0.5, **RMSE),
        _status("a1", test_accuracy=2, **RMSE),
    ]
    view = status_view(statuses, {"a0": True, "a1": True}, "")
    assert _lines(view) == [
        "agent  state     round  loss     rmse  own   balance  bytes  peers",
        "───────────────────────────────────────────────────────────────────",
        "a0     training   7/60     -  1.2e+04  0.5  0.000000    0 B    0/0",
        "a1     training   7/60     -        2    -  0.000000    0 B    0/0",
        "loss: in training, lower is better; rmse: of test samples, lower is",
        "better; own: rmse on own data; balance: credits, above 0 received;",
        "bytes: sent and received",
    ]
    accuracy = status_view([_status("a0", test_accuracy=0.5, local_metric=0.25)], {"a0": True}, "")
    assert "50.0 % 25.0 %" in _words(accuracy)


def test_the_summary_of_another_metric_says_which_values_are_better() -> None:
    summary: dict[str, object] = {
        "run_id": "demo",
        "task": "my_task:Sales",
        "rounds": 60,
        "metric": "rmse",
        "better": "lower",
        "accuracy": {"a0": 1.23456, "a1": 12.5},
        "mean_accuracy": 6.8672,
        "min_accuracy": 12.5,
        "local_metric": {"a0": 1.0, "a1": 2.5},
        "centralised_accuracy": 1.1,
        "centralised_work": 1.0,
        "alone_accuracy": {"a0": 3.0, "a1": 4.0},
        "balances": {"a0": 0, "a1": 0},
        "simulated": True,
    }
    assert _lines(summary_view(summary)) == [
        "demo: my_task:Sales, 60 rounds",
        "mean rmse              6.867",
        "worst rmse              12.5  lower is better",
        "on own data, mean       1.75  of each agent's model on data that it alone has",
        "one model on all data    1.1  trained on as many samples as all agents together",
        "agents alone, mean       3.5",
        "",
        "agent  strategy   rmse  own data   balance  sent",
        "─────────────────────────────────────────────────",
        "a0     honest    1.235         1  0.000000     -",
        "a1     honest     12.5       2.5  0.000000     -",
        "rmse: lower is better; balance: credits, above 0",
        "received",
    ]


def _lines(view: RenderableType) -> list[str]:
    return [line.rstrip() for line in _shown(view).rstrip().splitlines()]


@pytest.mark.parametrize("own", [None, -1.23456e8])
def test_the_tables_fit_eighty_columns_at_the_credit_limit(own: float | None) -> None:
    named = {} if own is None else {"metric": "mean_absolute_error", "local_metric": own}
    status = _status(
        "a10",
        **named,
        state="settling",
        round=1000,
        rounds=1000,
        train_loss=1234.5678,
        test_accuracy=own or 1.0,
        injected_norm=123.45,
        balance=-1_000_000_000,
        bytes_sent=123_456_789,
        neighbours={"a1": NeighbourStatus("mixing"), "a2": NeighbourStatus("out", reason="late")},
    )
    shown = _shown(status_view([status], {"a10": False}, "run demo"))
    assert "a10 died 1000/1000" in " ".join(shown.split())
    assert "-1000.000000" in shown
    assert "1/2" in shown
    assert all(len(line.rstrip()) <= 80 for line in shown.splitlines())
    assert ("mean_a…" in shown) == ("-1e+08 -1e+08" in " ".join(shown.split())) == bool(own)
    assert "123 MB" in shown
    assert shown.count("…") == bool(own)


@pytest.mark.parametrize("state", ["done", "failed"])
def test_a_daemon_that_said_it_ended_is_not_called_stopped(state: str) -> None:
    words = _words(status_view([_status("a0", state=state)], {"a0": False}, "run demo"))
    assert f"a0 {state}" in words
    assert "not running" not in words


def test_the_summary_says_how_good_it_is_who_paid_and_whether_it_adds_up(tmp_path: Path) -> None:
    (tmp_path / "report.html").touch()
    words = _words(summary_view(SUMMARY, tmp_path))
    assert "demo: digits, ring, iid, 60 rounds" in words
    assert "mean accuracy 95.1 % lowest accuracy 94.4 %" in words
    assert "one model on all data 97.2 % agents alone, mean 75.0 %" in words
    assert "a3 scale:3 94.0 % -1.000001 12.4 MB" in words
    assert "a0 honest 96.0 % 1.000001 12.4 MB" in words
    assert "a3 paid a0 1.000001 a1 paid a3 0.000020" in words
    assert "ledger audit ok" in words
    shown = _shown(summary_view(SUMMARY, tmp_path), width=400)
    assert str(tmp_path / "report.html") in shown


def test_a_violated_ledger_is_not_passed_over() -> None:
    assert "ledger audit violated" in _words(summary_view(SUMMARY | {"audit": "violated"}))


def test_a_summary_with_nothing_in_it_still_shows() -> None:
    assert "ledger audit not done" in _words(summary_view({}))


def test_many_payments_are_counted_and_not_listed() -> None:
    edges = [{"lo": "a0", "hi": f"b{i}", "balance_lo": i + 1} for i in range(30)]
    words = _words(summary_view(SUMMARY | {"edges": edges}))
    assert "and 18 smaller payments" in words


def test_a_name_can_neither_style_nor_steer_the_terminal() -> None:
    attack = "[red]x[/red]\x1b[2J\r\n"
    status = _status("a0", neighbours={"a1": NeighbourStatus("out", reason=attack)})
    shown = _shown(status_view([status], {"a0": True}, attack))
    attacked = {"strategies": {"a3": attack}, "task": attack, "metric": attack}
    summary = _shown(summary_view(SUMMARY | attacked))
    shown += _shown(live_table([_status("a0", metric=attack)], ""))
    assert "[red]x[/red]?[2J??" in shown
    assert "\x1b" not in shown + summary
    assert "\r" not in shown + summary
