"""Thousands of rounds of real daemons, each started again now and then: what they take meanwhile.

    python -m tests.campaigns.soak --rounds 10000 --restarts 5 [--seconds 1200] [--keep DIR]

Every agent is started again so many times, at rounds that the seed draws between the twentieth part
of the run and its last tenth: every other time killed, else asked to leave. Every few seconds, of
each process: resident memory, descriptors, and bytes in its data directory, to `soak.jsonl`. Then:

    memory       no process grows by more than 50 MB after round 500 and its first minute, until the
                 last round; what it takes to export its ledgers then is told
    descriptors  no process has more than a few more at its end than it had then
    disk         bytes a round and agent, by file
    ledgers      audit without findings, both ends of an edge alike, nets that sum to 0
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import click

from candor.agent.runs.cluster_parts import task_settings
from candor.agent.runs.plan import Plan
from candor.agent.testbed.testbed import Testbed, prepare
from candor.topologies.cluster.file import AlgorithmSettings, PaymentSettings, RoundSettings
from tests.campaigns.crashes import RunVerdict, judge_ledgers

WARM_ROUNDS: Final = 500
WARM_S: Final = 60.0
"""Of a life: what it imports, and what it keeps of the windows under way, is there by then."""
GROWTH_BYTES_MAX: Final = 50_000_000
DESCRIPTORS_MORE_MAX: Final = 8
"""Connections of neighbours that come back are beside the old ones for a while."""
SAMPLE_S: Final = 5.0
POLL_S: Final = 0.1
LEAVES_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class Sample:
    """What one process took, `seconds` after the start of the run and `lived_s` after its own."""

    agent: str
    pid: int
    round: int
    seconds: float
    lived_s: float
    resident_bytes: int
    descriptors: int
    disk: dict[str, int] = field(default_factory=dict)

    @property
    def warm(self) -> bool:
        """Whether all is there that a run of any length needs."""
        return self.round >= WARM_ROUNDS and self.lived_s >= WARM_S


def restarts_drawn(
    agents: Iterable[str], rounds: int, times: int, seed: int
) -> list[tuple[int, str, bool]]:
    """When the foremost agent is in which round, who is started again, and whether it is killed."""
    rng = random.Random(seed)
    first, last = rounds // 20, rounds - rounds // 10
    drawn = [
        (rng.randint(first, last), agent, i % 2 == 0) for agent in agents for i in range(times)
    ]
    return sorted(drawn)


def growth(samples: Iterable[Sample]) -> int:
    """By how many bytes the memory of a life has grown since its first warm sample, at most over
    the lives."""
    lives = [[sample.resident_bytes for sample in life] for life in _lives(samples)]
    return max((max(life) - life[0] for life in lives), default=0)


def descriptors_more(samples: Iterable[Sample]) -> int:
    """By how many the descriptors at the end of a life are more than at its first warm sample."""
    lives = _lives(samples)
    return max((life[-1].descriptors - life[0].descriptors for life in lives), default=0)


def _lives(samples: Iterable[Sample]) -> list[list[Sample]]:
    """The warm samples of each process, in order."""
    found: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        if sample.warm:
            found[sample.pid].append(sample)
    return list(found.values())


def disk_by_round(samples: Iterable[Sample]) -> dict[str, float]:
    """Bytes a round that each file of a data directory has grown by, in the mean of the agents,
    between the first sample of an agent behind round 500 and its last."""
    ends: dict[str, tuple[Sample, Sample]] = {}
    for sample in samples:
        if sample.round >= WARM_ROUNDS:
            ends[sample.agent] = (ends.get(sample.agent, (sample,))[0], sample)
    grown, rounds = Counter[str](), 0
    for before, after in ends.values():
        rounds += after.round - before.round
        for name in after.disk | before.disk:
            grown[name] += after.disk.get(name, 0) - before.disk.get(name, 0)
    return {name: count / rounds for name, count in grown.most_common() if rounds and count}


def _sampled(bed: Testbed, began: dict[str, float], now_s: float) -> list[Sample]:
    samples = []
    for agent in bed.running():
        pid, status = bed.processes[agent].pid, bed.statuses[agent]
        if status.pid != pid:
            continue  # it has not said anything yet
        try:
            taken = _resident_bytes(pid), len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:  # it has just ended
            continue
        ages = now_s - bed.started_s, now_s - began[agent]
        samples.append(Sample(agent, pid, status.round, *ages, *taken, _disk(bed.data_dir(agent))))
    return samples


def _resident_bytes(pid: int) -> int:
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _disk(directory: Path) -> dict[str, int]:
    """Bytes by file, folders as one."""
    sizes = Counter[str]()
    for path in directory.rglob("*"):
        try:
            if path.is_file():
                sizes[path.relative_to(directory).parts[0]] += path.stat().st_size
        except OSError:  # a draft that has its place by now
            continue
    return dict(sizes)


def plan(agents: int, topology: str, rounds: int, seed: int) -> Plan:
    """A small model without pauses: as many rounds a second as the machine does."""
    return Plan(
        topology=topology,
        agents=agents,
        mixing="metropolis-hastings",
        seed=seed,
        task=task_settings("digits", seed, None, partition="dirichlet:0.5", batch_size=16),
        algorithm=AlgorithmSettings(local_steps=1),
        rounds=RoundSettings(rounds=rounds, deadline_s=10.0, start_deadline_s=120.0),
        payments=PaymentSettings(window=16),
        strategies={},
        evaluate_every=rounds,
        data_root=None,
    )


def soak(bed: Testbed, times: int, until_s: float, keep: Path) -> list[Sample]:
    """The run to its end, with everybody started again so many times; what it took."""
    cluster = bed.cluster
    owed = restarts_drawn(cluster.ids, cluster.rounds.rounds, times, cluster.seed)
    samples: list[Sample] = []
    bed.start()
    began = dict.fromkeys(cluster.ids, bed.started_s)
    due_s = bed.started_s
    with keep.open("w", encoding="utf-8") as file:
        while bed.running() and time.monotonic() < until_s:
            bed.refresh()
            foremost = max(status.round for status in bed.statuses.values())
            if owed and owed[0][0] <= foremost:
                _, agent, killed = owed.pop(0)
                _again(bed, agent, killed=killed)
                began[agent] = time.monotonic()
            if (now_s := time.monotonic()) >= due_s:
                due_s = now_s + SAMPLE_S
                taken = _sampled(bed, began, now_s)
                samples += taken
                file.writelines(json.dumps(asdict(sample)) + "\n" for sample in taken)
                file.flush()
            time.sleep(POLL_S)
    return samples


def _again(bed: Testbed, agent: str, *, killed: bool) -> None:
    """Start an agent again, unless it is done."""
    process = bed.processes[agent]
    if process.poll() == 0:
        return
    if not killed:
        process.terminate()
        try:
            process.wait(LEAVES_S)
        except subprocess.TimeoutExpired:
            click.echo(f"{agent} did not leave within {LEAVES_S:g} s", err=True)
    bed.restart(agent)


def judged(bed: Testbed, samples: list[Sample], verdict: RunVerdict) -> dict[str, Any]:
    """The figures; what is wrong goes to the verdict."""
    rounds = bed.cluster.rounds.rounds
    during = [sample for sample in samples if sample.round < rounds]
    grown, more = growth(during), descriptors_more(during)
    if grown > GROWTH_BYTES_MAX:
        verdict.failures.append(f"memory of a process grew by {grown / 1e6:.1f} MB")
    if more > DESCRIPTORS_MORE_MAX:
        verdict.failures.append(f"a process ended with {more} descriptors more")
    warm = [sample for sample in during if sample.warm]
    return {
        "rounds": {agent: status.round for agent, status in bed.statuses.items()},
        "restarted": sum(len({s.pid for s in samples if s.agent == a}) - 1 for a in bed.statuses),
        "warm_lives": len(_lives(during)),
        "memory_mb": [f(s.resident_bytes for s in warm) / 1e6 for f in (min, max)] if warm else [],
        "memory_growth_mb": grown / 1e6,
        "memory_growth_with_exports_mb": growth(samples) / 1e6,
        "descriptors": [f(s.descriptors for s in warm) for f in (min, max)] if warm else [],
        "descriptors_more": more,
        "disk_bytes_a_round": {n: round(b, 1) for n, b in disk_by_round(samples).items()},
    }


@click.command()
@click.option("--agents", default=8, show_default=True)
@click.option("--topology", default="ring", show_default=True)
@click.option("--rounds", default=10_000, show_default=True)
@click.option("--restarts", default=5, show_default=True, help="Of each agent.")
@click.option("--seed", default=1, show_default=True)
@click.option("--seconds", default=1200.0, show_default=True, help="Stop after these.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the run directory in here.")
def main(
    agents: int,
    topology: str,
    rounds: int,
    restarts: int,
    seed: int,
    seconds: float,
    keep: Path | None,
) -> None:
    """Watch what a long run with restarts takes of memory, descriptors and disk."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        run_dir = (keep or Path(scratch)) / f"soak-{seed}"
        bed = prepare(plan(agents, topology, rounds, seed), run_dir)
        verdict = RunVerdict(seed, rounds)
        try:
            samples = soak(bed, restarts, began + seconds, run_dir / "soak.jsonl")
        finally:
            late = bed.running()
            bed.stop()
        bed.refresh()
        verdict.failures += [f"{agent} did not end in time" for agent in late]
        verdict.failures += [f"{agent} ended with {code}" for agent, code in bed.failed().items()]
        bed.export_for_the_dead()
        judge_ledgers(run_dir, verdict)
        told = judged(bed, samples, verdict)
    verdict.seconds = time.monotonic() - began
    told |= {"windows": verdict.windows, "net_sum": verdict.net_sum}
    told |= {"seconds": round(verdict.seconds, 1), "failures": verdict.failures}
    click.echo(json.dumps(told, indent=2))
    sys.exit(1 if verdict.failures else 0)


if __name__ == "__main__":
    main()
