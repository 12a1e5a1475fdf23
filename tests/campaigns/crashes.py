"""Kill real daemons over and over, and judge what their ledgers say when the run is over.

    python -m tests.campaigns.crashes --kills 200 --each-failpoint 20 [--seed S] [--seconds 1800]

Every life of a daemon ends in one of these ways, drawn at random from those still owed: `kill -9`
at a random instant (start-up and re-entry included), or a SIGKILL of its own at a failpoint of
`agent.daemon.failpoints`, reached a random number of times before. It is started again at once, on
the same data directory. A run's last rounds are left in peace, so that all can settle. Then:

    audit       `candor ledger audit` of the run has no finding
    equal       the two ends of every edge hold the same records, byte for byte
    sum         the nets of all agents sum to 0
    catch-up    of a life on an edge: from its start, or its neighbour's when that is later, until
                session and ledger are in step (`ledger_synced` in both journals' terms), below 10 s

Instants depend on the machine, so a seed replays the choice of victims and ends, not the schedule.
"""

import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import click

from candor.agent.daemon import failpoints
from candor.agent.daemon.status import Status
from candor.agent.runs.cluster_parts import task_settings
from candor.agent.runs.ledger_audit import audit_run_directory
from candor.agent.runs.plan import Plan
from candor.agent.testbed.testbed import Testbed, prepare
from candor.topologies.cluster.file import AlgorithmSettings, PaymentSettings, RoundSettings

KILL: Final = "kill -9"
CATCH_UP_MAX_S: Final = 10.0
POLL_S: Final = 0.02
PAUSE_S: Final = (0.1, 1.5)  # between two lives that are to end at random instants
FAILPOINT_REACHED_MAX: Final = 8
PEACE_ROUNDS: Final = 100  # at a run's end: some 17 s, of which a restart takes four
FINISH_S: Final = 120.0
COMPLAINTS: Final = (
    "Traceback",
    '"ledger_frozen"',
    '"channel_frozen"',
    '"claim_refused"',
    '"lateness_refused"',
    "disput",
)


@dataclass(slots=True)
class Life:
    """One start of one agent; `end` is how it is meant to end, None for "with the run"."""

    agent: str
    began_s: float  # wall clock, as in the journals
    end: str | None
    ended: bool = False


@dataclass(slots=True)
class RunVerdict:
    """What a run was put through and what came out; `failures` is empty when all is well."""

    seed: int
    rounds: int
    seconds: float = 0.0
    ends: Counter[str] = field(default_factory=Counter)
    windows: int = 0
    net_sum: int = 0
    catch_up_s: list[float] = field(default_factory=list)
    in_step_s: list[float] = field(default_factory=list)  # the part after both had started up
    failures: list[str] = field(default_factory=list)


class Campaign:
    """A run under fire: `owed` says how many lives are to end how, and is counted down."""

    def __init__(self, bed: Testbed, owed: Counter[str], rng: random.Random) -> None:
        self.bed = bed
        self.lives: list[Life] = []
        self._owed = owed
        self._rng = rng
        self._present: dict[str, Life] = {}
        self._next_kill_s = 0.0
        # More at once would leave nobody to enter again from: a run that stops everywhere is over.
        self._away_max = max(1, len(bed.cluster.ids) * 3 // 8)

    def run(self, ends: Counter[str], until_s: float) -> None:
        """Keep ending lives until the run's last rounds or `until_s` (monotonic)."""
        bed = self.bed
        bed.started_s = time.monotonic()
        for agent in bed.cluster.ids:
            bed._start(agent)
            self._born(agent, KILL)
        while not self._quiet(until_s):
            bed.refresh()
            self._bury(ends)
            self._maybe_kill(ends)
            time.sleep(POLL_S)
        for agent, life in list(self._present.items()):
            if life.end not in (None, KILL):  # armed: it must not die in the rounds of peace
                while self._away() >= self._away_max and bed.running():
                    bed.refresh()
                    self._bury(ends, peace=True)
                    time.sleep(POLL_S)
                self._bury(ends, peace=True)
                if self._present[agent] is life:
                    self._kill(agent, ends, None)
        self._bury(ends, peace=True)
        deadline_s = time.monotonic() + FINISH_S
        while bed.running() and time.monotonic() < deadline_s:
            time.sleep(POLL_S)

    def _quiet(self, until_s: float) -> bool:
        foremost = max((status.round for status in self.bed.statuses.values()), default=0)
        spent = not +self._owed and all(life.end is None for life in self._present.values())
        late = foremost > self.bed.cluster.rounds.rounds - PEACE_ROUNDS
        return spent or late or time.monotonic() > until_s

    def _born(self, agent: str, end: str | None) -> None:
        self._present[agent] = Life(agent, time.time(), end)
        self.lives.append(self._present[agent])

    def _bury(self, ends: Counter[str], *, peace: bool = False) -> None:
        """Start again whoever died at its failpoint."""
        for agent, life in list(self._present.items()):
            code = self.bed.processes[agent].poll()
            if code == -9 and life.end not in (None, KILL):
                ends[str(life.end)] += 1
                self._owed[str(life.end)] -= 1
                self._restart(agent, None if peace else self._draw())

    def _maybe_kill(self, ends: Counter[str]) -> None:
        """Kill an agent at random, now and then; an armed one only when it seems never to fire."""
        now = time.monotonic()
        if now < self._next_kill_s or self._away() >= self._away_max or not +self._owed:
            return
        self._next_kill_s = now + self._rng.uniform(*PAUSE_S)
        open_ = [agent for agent, life in self._present.items() if life.end in (None, KILL)]
        if open_:
            self._kill(self._rng.choice(open_), ends, self._draw())

    def _kill(self, agent: str, ends: Counter[str], next_end: str | None) -> None:
        if self.bed.processes[agent].poll() is None:
            ends[KILL] += 1
            self._owed[KILL] -= 1
            self._restart(agent, next_end)

    def _restart(self, agent: str, end: str | None) -> None:
        environment = {}
        if end not in (None, KILL):
            count = self._rng.randint(1, FAILPOINT_REACHED_MAX)
            environment[failpoints.FAILPOINT] = f"{end}:{count}"
        self._present[agent].ended = True
        self._born(agent, end)
        self.bed.restart(agent, environment)

    def _draw(self) -> str | None:
        """How the next life is to end: what is owed and not promised to another life yet."""
        promised = Counter(str(life.end) for life in self._present.values())
        left = {
            end: count - (promised[end] if end != KILL else 0) for end, count in self._owed.items()
        }
        choices = sorted(end for end, count in left.items() if count > 0)
        weights = [left[end] for end in choices]
        return self._rng.choices(choices, weights)[0] if choices else None

    def _away(self) -> int:
        """How many agents do not take part in rounds at the moment."""
        return sum(not self._trains(self.bed.statuses[agent]) for agent in self._present)

    def _trains(self, status: Status) -> bool:
        process = self.bed.processes[status.agent]
        return status.pid == process.pid and status.state in ("training", "mixing")


def plan(agents: int, topology: str, rounds: int, seed: int, rule: str) -> Plan:
    """A small model and short windows, so that there is always something being settled."""
    return Plan(
        topology=topology,
        agents=agents,
        mixing="metropolis-hastings",
        seed=seed,
        task=task_settings(
            "tests.paced:PacedDigits", seed, None, partition="dirichlet:0.5", batch_size=16
        ),
        algorithm=AlgorithmSettings(local_steps=1),
        rounds=RoundSettings(rounds=rounds, deadline_s=2.0, start_deadline_s=60.0),
        payments=PaymentSettings(window=4, rule=rule),
        strategies={},
        evaluate_every=rounds,
        data_root=None,
    )


def one_run(
    plan: Plan,
    run_dir: Path,
    owed: Counter[str],
    until_s: float,
    catch_up_max_s: float = CATCH_UP_MAX_S,
) -> RunVerdict:
    """One run under fire, to its end, and the verdict on it; leaves no process behind."""
    began = time.monotonic()
    bed = prepare(plan, run_dir)
    verdict = RunVerdict(plan.seed, plan.rounds.rounds)
    campaign = Campaign(bed, owed, random.Random(plan.seed))
    try:
        campaign.run(verdict.ends, until_s)
    finally:
        hung = bed.running()
        bed.stop()
    verdict.failures += [f"{agent} did not end" for agent in hung]
    verdict.failures += [f"{agent} ended with {code}" for agent, code in bed.failed().items()]
    bed.export_for_the_dead()
    lives = [asdict(life) for life in campaign.lives]
    (run_dir / "lives.json").write_text(json.dumps(lives, indent=1), encoding="utf-8")
    judge_ledgers(run_dir, verdict)
    _judge_journals(bed, campaign.lives, verdict, catch_up_max_s)
    verdict.seconds = time.monotonic() - began
    return verdict


def judge_ledgers(run_dir: Path, verdict: RunVerdict) -> None:
    """Audit a run directory, and compare the ends of every edge; the verdict has what is wrong."""
    cluster, audit = audit_run_directory(run_dir)
    verdict.failures += [f"audit: {finding}" for finding in audit.findings]
    verdict.windows = sum(edge.windows for edge in audit.edges)
    verdict.net_sum = sum(audit.nets.values())
    if verdict.net_sum:
        verdict.failures.append(f"the nets sum to {verdict.net_sum}")
    for lo, hi in sorted(tuple(sorted(edge)) for edge in cluster.graph.edges):
        one, two = (_records(run_dir / "agents" / agent, lo, hi) for agent in (lo, hi))
        if one != two:
            lengths = f"{len(one)} and {len(two)} records"
            verdict.failures.append(f"{lo}-{hi}: its ends differ ({lengths})")


def _records(data_dir: Path, lo: str, hi: str) -> list[bytes]:
    """The lines of an export between the header, which names the exporter, and its signature."""
    return (data_dir / "ledger" / f"{lo}-{hi}.jsonl").read_bytes().splitlines()[1:-1]


def _judge_journals(bed: Testbed, lives: list[Life], verdict: RunVerdict, max_s: float) -> None:
    journals = {agent: _journal(bed.data_dir(agent) / "log.jsonl") for agent in bed.cluster.ids}
    for agent in bed.cluster.ids:
        told = (bed.data_dir(agent) / "stderr.log").read_text(encoding="utf-8", errors="replace")
        told += "\n".join(json.dumps(event) for event in journals[agent])
        verdict.failures += [f"{agent} says {word}" for word in COMPLAINTS if word in told]
    firsts = {life.agent: life for life in reversed(lives)}
    for life in lives:
        if firsts[life.agent] is not life:  # the first one waits for all to be there
            taken = _catch_ups(life, lives, journals)
            verdict.catch_up_s += [whole for whole, _ in taken]
            verdict.in_step_s += [part for _, part in taken]
    slow = [taken for taken in verdict.catch_up_s if taken >= max_s]
    if slow:
        verdict.failures.append(f"{len(slow)} catch-ups of {max_s:g} s or more: {max(slow):.1f} s")


def _catch_ups(
    life: Life, lives: list[Life], journals: dict[str, list[dict[str, Any]]]
) -> list[tuple[float, float]]:
    """Of each edge that came in step in this life, seconds since the later start of its two ends,
    and since the later of them was up; an edge may be cut short by the life's end."""
    same = [other.began_s for other in lives if other.agent == life.agent]
    until_s = min((s for s in same if s > life.began_s), default=float("inf"))
    taken = []
    for event in journals[life.agent]:
        at_s = event["time_s"]
        if event["event"] == "ledger_synced" and life.began_s <= at_s < until_s:
            ends = (life.agent, event["peer"])
            began_s = [o.began_s for o in lives if o.agent in ends and o.began_s <= at_s]
            up_s = [
                e["time_s"]
                for end in ends
                for e in journals[end]
                if e["event"] == "started" and e["time_s"] <= at_s
            ]
            taken.append((at_s - max(began_s), at_s - max(up_s)))
    return taken


def _journal(path: Path) -> list[dict[str, Any]]:
    """The events of all lives; a line that a SIGKILL cut short is no event."""
    events = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events


def as_dict(verdict: RunVerdict) -> dict[str, Any]:
    """A verdict as JSON."""
    taken = verdict.catch_up_s
    return {
        "seed": verdict.seed,
        "rounds": verdict.rounds,
        "seconds": round(verdict.seconds, 1),
        "ends": dict(verdict.ends),
        "windows": verdict.windows,
        "net_sum": verdict.net_sum,
        "catch_ups": len(taken),
        "catch_up_median_s": round(statistics.median(taken), 2) if taken else None,
        "catch_up_max_s": round(max(taken), 2) if taken else None,
        "in_step_median_s": round(statistics.median(verdict.in_step_s), 2) if taken else None,
        "in_step_max_s": round(max(verdict.in_step_s), 2) if taken else None,
        "failures": verdict.failures,
    }


def table(verdicts: list[RunVerdict], owed: Counter[str]) -> str:
    """One line a run, then a line for each way to die, then what failed."""
    lines = ["seed  killed  windows  sum  catch-up median / max  verdict"]
    for verdict in verdicts:
        told = as_dict(verdict)
        catch_up = f"{told['catch_up_median_s']} / {told['catch_up_max_s']} s"
        lines.append(
            f"{verdict.seed:>4}  {verdict.ends.total():>6}  {verdict.windows:>7}  "
            f"{verdict.net_sum:>3}  {catch_up:>21}  {'FAILED' if verdict.failures else 'ok'}"
        )
    ends = sum((verdict.ends for verdict in verdicts), Counter[str]())
    lines += [f"{end:<16} {ends[end]:>4} done, {max(0, owed[end])} owed" for end in sorted(owed)]
    taken = [one for verdict in verdicts for one in verdict.catch_up_s]
    if taken:
        lines.append(
            f"catch-up over {len(taken)} edges of restarted agents: "
            f"median {statistics.median(taken):.2f} s, max {max(taken):.2f} s"
        )
        parts = [one for verdict in verdicts for one in verdict.in_step_s]
        lines.append(
            "of which after both ends had started up: "
            f"median {statistics.median(parts):.2f} s, max {max(parts):.2f} s"
        )
    lines += [f"seed {v.seed}: {failure}" for v in verdicts for failure in v.failures]
    return "\n".join(lines)


@click.command()
@click.option("--kills", default=200, show_default=True, help="Of random agents, at random.")
@click.option("--each-failpoint", default=20, show_default=True, help="Deaths at each failpoint.")
@click.option("--agents", default=8, show_default=True)
@click.option("--topology", default="ring", show_default=True)
@click.option("--rounds", default=700, show_default=True, help="Of one run.")
@click.option("--rule", default=PaymentSettings().rule, show_default=True)
@click.option("--seed", default=1, show_default=True, help="Of the first run; then one more each.")
@click.option("--seconds", default=1800.0, show_default=True, help="No further kill after these.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep run directories in here.")
@click.option("--json", "as_json", is_flag=True)
def main(
    kills: int,
    each_failpoint: int,
    agents: int,
    topology: str,
    rounds: int,
    rule: str,
    seed: int,
    seconds: float,
    keep: Path | None,
    as_json: bool,
) -> None:
    """Kill daemons until all deaths that are owed have happened, run after run."""
    owed = Counter({KILL: kills, **dict.fromkeys(failpoints.NAMES, each_failpoint)})
    until_s = time.monotonic() + seconds
    verdicts: list[RunVerdict] = []
    with tempfile.TemporaryDirectory() as scratch:
        while +owed and time.monotonic() < until_s:
            number = seed + len(verdicts)
            click.echo(f"seed {number}: {(+owed).total()} deaths owed", err=True)
            run_dir = (keep or Path(scratch)) / f"seed-{number}"
            run_plan = plan(agents, topology, rounds, number, rule)
            verdicts.append(one_run(run_plan, run_dir, owed, until_s))
            click.echo(json.dumps(as_dict(verdicts[-1])), err=True)
    report = {"runs": list(map(as_dict, verdicts)), "owed": dict(+owed)}
    click.echo(json.dumps(report) if as_json else table(verdicts, owed))
    sys.exit(1 if any(verdict.failures for verdict in verdicts) else 0)


if __name__ == "__main__":
    main()
