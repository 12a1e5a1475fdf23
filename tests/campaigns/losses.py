"""Take from real daemons what they have on disk, and measure how soon they are mixed again.

    python -m tests.campaigns.losses --loss copy --times 10
    python -m tests.campaigns.losses --loss ledger --times 3 --away-s 25

In one run of a ring, one agent after the other is killed, loses something, and is started again:

    copy      its data directory is put back as it was 1 to 10 s before
    ledger    the ledger database is deleted
    snapshot  window.bin is deleted
    both      these two and the checkpoints are deleted

It is back once all its neighbours mix it and go on doing so, in seconds after its process began.
Then: nobody accuses anybody, the ledgers of all edges are equal, and the audit has no finding.
"""

import json
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import click

from candor.agent.daemon.checkpoint import CHECKPOINT_NAME, DURABLE_NAME
from candor.agent.daemon.snapshot import FILE_NAME as SNAPSHOT_NAME
from candor.agent.runs.ledger_audit import audit_run_directory
from candor.agent.testbed.testbed import Testbed, prepare
from candor.topologies.cluster.file import PaymentSettings
from tests.campaigns.crashes import plan

LOSSES: Final = {
    "copy": (),
    "ledger": ("ledger.sqlite*",),
    "snapshot": (SNAPSHOT_NAME,),
    "both": ("ledger.sqlite*", SNAPSHOT_NAME, CHECKPOINT_NAME, DURABLE_NAME),
}
AGE_S: Final = (1.0, 10.0)
POLL_S: Final = 0.1
WARM_ROUNDS: Final = 24  # before the first loss
STEADY_ROUNDS: Final = 6  # that neighbours must have mixed it since
LAG_MAX: Final = 3
ACCUSED: Final = ("misbehaviour_proven", "claim_refused", "bill_refused", "ledger_frozen")


@dataclass(frozen=True, slots=True)
class Return:
    """What became of one loss: `back_s` is None where the agent was not back in time."""

    agent: str
    age_s: float
    back_s: float | None
    why: str = ""


def lose(bed: Testbed, agent: str, loss: str, age_s: float, away_s: float) -> float:
    """Kill an agent, take from it, start it again; answers when (monotonic)."""
    data_dir, copy = bed.data_dir(agent), bed.run_dir / f"{agent}.copy"
    if loss == "copy":
        _copy(data_dir, copy)
        time.sleep(age_s)
    bed.processes[agent].kill()
    bed.processes[agent].wait()
    for pattern in LOSSES[loss]:
        for path in data_dir.glob(pattern):
            path.unlink()
    if loss == "copy":
        shutil.rmtree(data_dir)
        copy.rename(data_dir)
    time.sleep(away_s)
    bed.restart(agent)
    return time.monotonic()


def _copy(data_dir: Path, copy: Path) -> None:
    """A copy of a data directory in use, the database by its own means."""
    shutil.copytree(data_dir, copy, ignore=shutil.ignore_patterns("ledger.sqlite*", "*.tmp*"))
    database = sqlite3.connect(data_dir / "ledger.sqlite")
    with closing(database), closing(sqlite3.connect(copy / "ledger.sqlite")) as target:
        database.backup(target)


def back(bed: Testbed, agent: str, began_s: float, patience_s: float) -> tuple[float | None, str]:
    """When all neighbours mix an agent again, in seconds since `began_s`; or why not."""
    since: dict[str, int] = {}
    first_s: float | None = None
    neighbours = bed.cluster.neighbours(agent)
    why = ""
    while time.monotonic() < began_s + patience_s:
        bed.refresh()
        if bed.processes[agent].poll() is not None:
            return None, f"it ended: {bed.complaint(agent)}"
        seen = {p: bed.statuses[p].neighbours.get(agent) for p in neighbours}
        mixing = [
            p
            for p, s in seen.items()
            if s is not None
            and s.state == "present"
            and s.last_round >= bed.statuses[p].round - LAG_MAX
            and bed.statuses[agent].pid == bed.processes[agent].pid
        ]
        if len(mixing) < len(neighbours):
            since, first_s = {}, None
            why = "; ".join(f"{p}: {s.state}, {s.reason}" for p, s in seen.items() if s is not None)
        elif first_s is None:
            first_s = time.monotonic() - began_s
            since = {p: bed.statuses[p].round for p in neighbours}
        elif all(bed.statuses[p].round >= since[p] + STEADY_ROUNDS for p in neighbours):
            return first_s, ""
        time.sleep(POLL_S)
    return None, why


def campaign(
    bed: Testbed, loss: str, times: int, away_s: float, seed: int, patience_s: float
) -> list[Return]:
    """Loss after loss in one run, each of another agent as long as there are any."""
    chance, ids = random.Random(seed), list(bed.cluster.ids)
    found = []
    bed.start()
    until_round(bed, WARM_ROUNDS)
    for at in range(times):
        agent = ids[3 * at % len(ids)]
        age_s = chance.uniform(*AGE_S) if loss == "copy" else 0.0
        began_s = lose(bed, agent, loss, age_s, away_s)
        back_s, why = back(bed, agent, began_s, patience_s)
        found.append(Return(agent, age_s, back_s, why))
        told = "not back" if back_s is None else f"back after {back_s:.1f} s"
        click.echo(f"{agent}: {loss} {age_s:.1f} s old: {told} {why}", err=True)
    return found


def until_round(bed: Testbed, number: int) -> None:
    """Wait until all are in a round."""
    bed.refresh()
    while min(status.round for status in bed.statuses.values()) < number:
        time.sleep(POLL_S)
        bed.refresh()


def faults_of(bed: Testbed) -> list[str]:
    """What must not be in a run of honest agents, whatever they lost."""
    faults = []
    for agent in bed.cluster.ids:
        journal = (bed.data_dir(agent) / "log.jsonl").read_text(encoding="utf-8")
        faults += [f"{agent} says {event}" for event in ACCUSED if f'"{event}"' in journal]
    bed.export_for_the_dead()
    _, audit = audit_run_directory(bed.run_dir)
    return faults + [f"audit: {finding}" for finding in audit.findings]


@click.command()
@click.option("--loss", type=click.Choice(list(LOSSES)), default="copy", show_default=True)
@click.option("--times", default=10, show_default=True)
@click.option("--agents", default=10, show_default=True)
@click.option("--window", default=16, show_default=True)
@click.option("--away-s", default=0.0, show_default=True, help="Between death and return.")
@click.option("--patience-s", default=60.0, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the run directory here.")
def main(
    loss: str,
    times: int,
    agents: int,
    window: int,
    away_s: float,
    patience_s: float,
    seed: int,
    keep: Path | None,
) -> None:
    """Take from agents what they have, one after the other."""
    shape = plan(agents, "ring", 100_000, seed, PaymentSettings().rule)
    shape = replace(shape, payments=shape.payments.model_copy(update={"window": window}))
    with tempfile.TemporaryDirectory() as scratch:
        bed = prepare(shape, keep or Path(scratch) / "run")
        try:
            found = campaign(bed, loss, times, away_s, seed, patience_s)
        finally:
            bed.stop()
        faults = faults_of(bed)
    came = sorted(one.back_s for one in found if one.back_s is not None)
    told = {
        "loss": loss,
        "window": window,
        "back": len(came),
        "of": len(found),
        "median_s": round(came[len(came) // 2], 1) if came else None,
        "max_s": round(came[-1], 1) if came else None,
        "faults": faults,
    }
    click.echo(json.dumps(told))
    sys.exit(0 if len(came) == len(found) and not faults else 1)


if __name__ == "__main__":
    main()
