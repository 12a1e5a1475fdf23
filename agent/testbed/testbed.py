"""The testbed: N real daemons as processes on this machine, watched to the end and summed up.

The daemons are the ones that run on hosts of their own: this module only makes their keys and
cluster file, starts and stops them, and reads what they leave behind.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from candor.agent.daemon import keys
from candor.agent.daemon.exports import write_exports
from candor.agent.daemon.journal import Format
from candor.agent.daemon.status import Status, read_status
from candor.agent.daemon.store import FILE_NAME as STORE_NAME
from candor.agent.daemon.store import Store
from candor.agent.exits import RunFailed
from candor.agent.runs import fault_log
from candor.agent.runs.cluster_parts import LOOPBACK, entry_of
from candor.agent.runs.declared import as_asked
from candor.agent.runs.placeholder_agents import stand_in_entries
from candor.agent.runs.plan import Plan, cluster_of, graph_of, make_run_dir
from candor.agent.testbed.churn import Churn, in_effect, round_to_know_by
from candor.agent.testbed.drawn_faults import KINDS, draw_faults, parse_drawing
from candor.agent.testbed.fault_file import FILE_NAME as FAULTS_NAME
from candor.agent.testbed.fault_file import dump_faults, load_faults
from candor.agent.testbed.faults import LINK_ACTIONS, MEMBERS, Fault
from candor.agent.testbed.holds import FILLS, STARTED, Holds
from candor.agent.testbed.links import Pair
from candor.agent.testbed.network import NETWORK_ACTIONS, Network
from candor.agent.testbed.nursery import FORKS, Nursery, NurseryChild
from candor.agent.testbed.proxy import HOST, Ports, Proxy
from candor.topologies.cluster.file import AgentEntry, Cluster, dump_cluster
from candor.topologies.specs.fields import split_endpoint
from candor.topologies.specs.files import private_files
from candor.topologies.specs.specs import ConfigurationError

STDERR_NAME: Final = "stderr.log"
POLL_S: Final = 0.1
STOP_S: Final = 10.0
# Below Linux's ephemeral range (from 32768): a port picked there may be some dialler's own by the
# time its daemon binds it.
PORTS: Final = range(20_000, 32_000)
PORT_TRIES: Final = 200
NAMED_MAX: Final = 8  # agents in a sentence


@dataclass(slots=True)
class Testbed:
    """The processes of a run, by agent; `statuses` is what each said last.

    `holds`: what the fault plan has done to them; `restarted` are those with more than one life.
    `network`: what is between neighbours, where the plan has faults of it. `launchers`: what starts
    an agent in place of Python. `churn`: who changes the members, where the
    plan does. `nursery`: forks all the others, once there is need. `log_format`: what is in
    `stderr.log`.
    """

    run_dir: Path
    cluster: Cluster
    plan: Plan
    processes: dict[str, "subprocess.Popen[bytes] | NurseryChild"] = field(default_factory=dict)
    statuses: dict[str, Status] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    holds: Holds = field(default_factory=Holds)
    restarted: set[str] = field(default_factory=set)
    network: Network | None = None
    dials: dict[Pair, int] = field(default_factory=dict)
    started_s: float = 0.0
    launchers: dict[str, Sequence[str]] = field(default_factory=dict)
    nursery: Nursery | None = None
    log_format: Format = "text"
    churn: Churn | None = None

    def data_dir(self, agent: str) -> Path:
        """Where an agent keeps its things."""
        return self.run_dir / "agents" / agent

    def start(self) -> None:
        """Start every daemon."""
        self.started_s = time.monotonic()
        if self.network is not None:
            self.network.proxy.start()
        for agent in self.cluster.ids:
            self._start(agent)

    def running(self) -> list[str]:
        """The agents whose process lives."""
        return [agent for agent, process in self.processes.items() if process.poll() is None]

    def failed(self) -> dict[str, int]:
        """Exit codes of the agents that ended badly, and not because the fault plan says so."""
        codes = {agent: process.poll() for agent, process in self.processes.items()}
        return {
            agent: code for agent, code in codes.items() if code and agent not in self.holds.held
        }

    def inject_faults(self) -> list[fault_log.Happened]:
        """Do what the plan has due, and keep a list of it in the run directory: it goes by the
        round of the foremost agent.

        Raises:
            RunFailed: the list cannot be written.
        """
        foremost = max((status.round for status in self.statuses.values()), default=0)
        seconds = time.monotonic() - self.started_s
        happened = []
        due = [fault for fault in self.faults if fault.due(foremost, seconds)]
        changes = [fault for fault in due if fault.action in MEMBERS and self._can_change()]
        changed = self._change(changes, foremost, seconds) if changes else ""
        for fault in changes + [fault for fault in due if fault.action not in MEMBERS]:
            self.faults.remove(fault)
            done = fault_log.Happened(
                *(round(seconds, 3), foremost, fault.action, fault.agents),
                f"{self._named(fault.agents)} {changed}"
                if fault in changes
                else self._perform(fault),
                of=None if fault.of is None else fault.of.action,
            )
            happened.append(done)
            if end := fault.end(seconds):
                self.faults.append(end)
        self.faults += self.holds.turn(self.processes, seconds)
        try:
            fault_log.append(self.run_dir, happened)
        except OSError as exc:
            raise RunFailed(f"{self.run_dir / fault_log.FILE_NAME}: {exc.strerror}") from exc
        return happened

    def _can_change(self) -> bool:
        """Whether the last change of members has come into effect, so that another one may."""
        return in_effect(self.cluster, self.statuses, self.running())

    def _change(self, faults: Sequence[Fault], foremost: int, seconds: float) -> str:
        """Change the members by one revision; answers from when on."""
        assert self.churn is not None, "a plan with such changes has one"
        by_action = {
            action: [a for fault in faults if fault.action == action for a in fault.agents]
            for action in MEMBERS
        }
        entries = _entries(by_action["join"], self.run_dir)
        by = round_to_know_by(foremost, seconds, len(self.cluster.ids))
        self.cluster = self.churn.next(self.cluster, entries, by_action["leave"], by)
        for agent in by_action["join"]:
            self._start(agent)
        return f"from round {self.cluster.after + 1} on"

    def _perform(self, fault: Fault) -> str:
        """Do what an event says; answers with what was done."""
        action = fault.action if fault.of is None else fault.of.action
        if action in NETWORK_ACTIONS:
            assert self.network is not None, "a plan with faults of the network has one"
            return self.network.perform(fault, self._named)
        told: dict[str, list[str]] = {}
        for agent in fault.agents:
            process, stderr = self.processes[agent], self.data_dir(agent) / STDERR_NAME
            done = self.holds.perform(fault, agent, process, stderr)
            if done in STARTED:
                self.restart(agent)
            told.setdefault(done, []).append(agent)
        return "; ".join(f"{self._named(agents)} {done}" for done, agents in told.items())

    def _named(self, agents: Collection[str]) -> str:
        if len(agents) == len(self.cluster.ids) > 1:
            return f"all {len(agents)} agents"
        named = list(agents)[:NAMED_MAX]
        more = [f"{len(agents) - len(named)} more"] if len(agents) > len(named) else []
        return ", ".join(named + more)

    def left_to_nobody(self) -> bool:
        """Whether the plan has held everybody who did not fail, so that nobody has finished."""
        present = [self.statuses[agent] for agent in self.cluster.ids]
        return not self.failed() and all(one.state != "done" for one in present)

    def never_due(self) -> list[str]:
        """The events of the plan, and the ends of some, that the run was too short for."""
        return [
            f"{'the end of ' if fault.of else ''}{(fault.of or fault).action} of "
            f"{self._named(fault.agents)} "
            + (f"at {fault.at_s:.1f} s" if fault.at_s is not None else f"in round {fault.at_round}")
            for fault in self.faults
        ]

    def all_held(self) -> bool:
        """Whether nobody works but whom the plan keeps from it, and it will revive somebody at a
        time: a run that somebody has finished has nobody to come back to."""
        if set(self.running()) - self.holds.idle:
            return False
        held = self.holds.held
        waiting = [fault for fault in self.faults if fault.revives() and fault.at_s is not None]
        finished = any(self.processes[agent].poll() == 0 for agent in self.cluster.ids)
        return not finished and any(not held.isdisjoint(fault.agents) for fault in waiting)

    def restart(self, agent: str, environment: Mapping[str, str] | None = None) -> None:
        """Start an agent anew on its data directory, killing it first if it lives; `environment`
        adds to this process's own."""
        self.processes[agent].kill()
        self.processes[agent].wait()
        self.holds.forget(agent)
        self._start(agent, environment)
        self.restarted.add(agent)

    def refresh(self) -> None:
        """Read what the daemons say, of whoever is or was in; `statuses` keeps their order."""
        found = {}
        for agent in self.cluster.memberships.identities:
            try:
                found[agent] = read_status(self.data_dir(agent))
            except ConfigurationError:
                found[agent] = self._not_yet(agent)
        self.statuses = found

    def _not_yet(self, agent: str) -> Status:
        cluster, task = self.cluster, self.cluster.task
        rounds = cluster.rounds.rounds
        return Status(
            *(cluster.run_id, agent, cluster.fingerprint, 0, "starting", 0, rounds),
            metric=task.metric_name,
            better=task.better_values,
        )

    def never_trained(self) -> list[str]:
        """Agents that ended badly before their first round: the run is not what was asked. Who was
        restarted has had one, and may just have been too late."""
        failed = [agent for agent in self.failed() if agent not in self.restarted]
        return [agent for agent in failed if self.statuses[agent].round == 0]

    def complaint(self, agent: str) -> str:
        """The last line that an agent wrote to standard error."""
        path = self.data_dir(agent) / STDERR_NAME
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "no message")
        return last.removeprefix("candor: error: ")

    def export_for_the_dead(self) -> None:
        """Export the ledgers of agents that ended without doing so themselves."""
        for agent in self.failed().keys() | self.holds.killed | self.holds.filled:
            key = keys.load(self.data_dir(agent) / "keys").signing_key
            path = self.data_dir(agent) / STORE_NAME
            if path.exists():
                with Store.open(path) as store:
                    write_exports(store, self.cluster, agent, key, self.data_dir(agent))

    def stop(self) -> None:
        """End every process: politely first, for at most `STOP_S`."""
        for agent in self.running():
            self.processes[agent].terminate()
            self.processes[agent].send_signal(signal.SIGCONT)  # a stopped one cannot end
        deadline_s = time.monotonic() + STOP_S
        for process in self.processes.values():
            try:
                process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self.nursery is not None:
            self.nursery.close()
            self.nursery = None
        if self.network is not None:
            self.network.proxy.close()

    def _start(self, agent: str, environment: Mapping[str, str] | None = None) -> None:
        data_dir, plan = self.data_dir(agent), self.plan
        arguments = {
            "--cluster": self.run_dir / "cluster.toml",
            "--id": agent,
            "--keys": data_dir / "keys",
            "--data-dir": data_dir,
            "--strategy": plan.strategies.get(agent, "honest"),
            "--evaluate-every": plan.evaluate_every,
            "--threads": 1,  # N agents share this machine's cores
            "--device": plan.device,
            "--log-level": "warning",
            "--log-format": self.log_format,
        }
        if plan.data_root is not None:
            arguments["--data-root"] = plan.data_root
        if plan.initial is not None:
            arguments["--initial"] = plan.initial
        words = [str(word) for pair in arguments.items() for word in pair]
        for (dialler, peer), port in self.dials.items():
            words += ["--dial", f"{peer}=tcp://{HOST}:{port}"] if dialler == agent else []
        words = ["agent", *words, "--record-sketches", "--exit-with-parent"]
        with private_files(), (data_dir / STDERR_NAME).open("ab") as errors:
            if FORKS and agent not in self.launchers:
                self.nursery = self.nursery or Nursery()
                started = self.nursery.start(words, errors.fileno(), environment or {})
                self.processes[agent] = started
                return
            # -P: what lies where the user stands comes last on the path of modules, not first.
            launcher = self.launchers.get(agent, (sys.executable, "-P", "-m"))
            self.processes[agent] = subprocess.Popen(
                [*launcher, "candor", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, **(environment or {})},
                # Ctrl-C in the terminal reaches this process alone, which then stops the others.
                start_new_session=True,
            )


@private_files()
def prepare(plan: Plan, run_dir: Path) -> Testbed:
    """Make the run directory: keys, ports and cluster file.

    Raises:
        ConfigurationError: a bad setting, samples that cannot be trained on, or the directory is
            not empty.
    """
    from candor.agent.learning.rows import check_samples, usable_device  # imports torch

    plan = replace(plan, device=str(usable_device(plan.device)))
    _, ids = graph_of(plan)
    stand_in = cluster_of(plan, run_dir, stand_in_entries)
    faults, remark = _planned(plan, ids, stand_in.rounds.rounds)
    check_samples(stand_in, plan.data_root, plan.initial, metric=True)
    make_run_dir(run_dir)
    joining = [agent for fault in faults if fault.action == "join" for agent in fault.agents]
    for agent in (*ids, *joining):
        keys.generate(run_dir / "agents" / agent / "keys")
    counted = replace(plan, weights=as_asked(stand_in.agents))  # data are read once
    cluster = cluster_of(counted, run_dir, partial(_entries, run_dir=run_dir))
    churn = None
    if any(fault.action in MEMBERS for fault in faults):
        churn = Churn(run_dir)
        cluster = churn.first(cluster)
    (run_dir / "cluster.toml").write_text(dump_cluster(cluster), encoding="utf-8")
    bed = Testbed(run_dir, cluster, plan, faults=list(faults), churn=churn)
    if remark:
        (run_dir / FAULTS_NAME).write_text(dump_faults(faults, ids, remark), encoding="utf-8")
    if any(fault.action in LINK_ACTIONS for fault in faults):
        bed.dials, proxy = _relayed(cluster)
        bed.network = Network(proxy)
    return bed


def _planned(plan: Plan, ids: Sequence[str], rounds: int) -> tuple[Sequence[Fault], str]:
    """The faults of a run, read or drawn, and where they are from; none and "" without a plan."""
    if plan.faults is None:
        return (), ""
    kinds = KINDS if FILLS else tuple(kind for kind in KINDS if kind != "disk_full")
    drawing = parse_drawing(str(plan.faults), plan.seed, kinds)
    if drawing is None:
        faults = load_faults(Path(plan.faults), ids, rounds)
    else:
        faults = draw_faults(drawing, ids, rounds)
    if any(fault.action == "disk_full" for fault in faults) and not FILLS:
        raise ConfigurationError(f"{plan.faults}: disk_full works on Linux only")
    if drawing is not None:
        return (
            faults,
            f"Drawn as {drawing} of {rounds} rounds; give this file to do the same again.",
        )
    return faults, "The fault plan of this run."


def _relayed(cluster: Cluster) -> tuple[dict[Pair, int], Proxy]:
    """A proxy between all neighbours, and at which of its ports one dials the other."""
    pairs = [pair for u, v in cluster.graph.edges for pair in ((u, v), (v, u))]
    dials = dict(zip(pairs, free_ports(len(pairs)), strict=True))
    daemons = {agent: split_endpoint(cluster.agent(agent).endpoint)[1] for agent in cluster.ids}
    ports = {pair: Ports(port, daemons[pair[1]]) for pair, port in dials.items()}
    return dials, Proxy(ports, cluster.seed)


def _entries(ids: Sequence[str], run_dir: Path) -> list[AgentEntry]:
    """The agents with a free port each."""
    entries = []
    for agent, port in zip(ids, free_ports(len(ids)), strict=True):
        key_path = run_dir / "agents" / agent / "keys"
        entries.append(entry_of(agent, key_path, f"tcp://{LOOPBACK}:{port}"))
    return entries


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on at the moment.

    Raises:
        ConfigurationError: there are not enough.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, min(len(PORTS), PORT_TRIES + count)):
        if len(found) == count:
            break
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    if len(found) < count:
        raise ConfigurationError(f"{count} ports are needed, and only {len(found)} are free")
    return found


@contextmanager
def stopping_on_signals(testbed: Testbed) -> Iterator[None]:
    """Leave no process behind, whatever ends this one: Ctrl-C, SIGTERM or an error."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        testbed.stop()


def watch(
    testbed: Testbed,
    show: Callable[[list[Status]], None],
    tell: Callable[[fault_log.Happened], None] = lambda _: None,
) -> None:
    """Wait until every daemon has ended, showing how far they are and telling what is done to them.

    Raises:
        ConfigurationError: one could not start; the others are stopped by the caller.
    """
    while set(testbed.running()) - testbed.holds.idle or testbed.all_held():
        testbed.refresh()
        for happened in testbed.inject_faults():
            tell(happened)
        for agent in testbed.never_trained():
            raise ConfigurationError(f"the run did not start: {testbed.complaint(agent)}")
        show(list(testbed.statuses.values()))
        time.sleep(POLL_S)
    testbed.refresh()
    for agent in testbed.never_trained():
        raise ConfigurationError(f"the run did not start: {testbed.complaint(agent)}")
    show(list(testbed.statuses.values()))
