"""What is known on one host of every agent of a cluster: statuses, neighbours' words, connections.

A daemon answers nobody but its neighbours, so that no status travels: of an agent whose data
directory is at hand there is its status; of any other what those at hand that are its neighbours
last saw of it, and whether somebody answers at its address. Nothing is asked of anybody beyond a
connection, with our keys a handshake, all within one deadline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from candor.agent.daemon.participation import seen_in
from candor.agent.daemon.reachability import Answer, dial_all, greet_all
from candor.agent.daemon.status import ENDS, NeighbourStatus, Status, is_running, read_status
from candor.network.identity import Identity
from candor.topologies.cluster.file import Cluster
from candor.topologies.specs.specs import ConfigurationError


@dataclass(frozen=True, slots=True)
class Member:
    """One agent. `status`, `running`, `data_dir`: None where its data directory is not at hand;
    `seen_by`: what its neighbours at hand see of it; `answers`: by endpoint what a dial came to,
    empty where none was made; `greeted`: whether with a handshake."""

    agent: str
    status: Status | None = None
    running: bool | None = None
    data_dir: Path | None = None
    seen_by: Mapping[str, NeighbourStatus] = field(default_factory=dict)
    answers: Mapping[str, Answer] = field(default_factory=dict)
    greeted: bool = False

    @property
    def round(self) -> int:
        """The last round that it is known to have been in, 0 of none."""
        if self.status is not None:
            return self.status.round
        return max((seen.last_round for seen in self.seen_by.values()), default=0)

    @property
    def state(self) -> str:
        """One word: its own, `died` where that is no more true; else its neighbours', the best of
        them, and `unknown` without."""
        if self.status is not None:
            dead = not self.running and self.status.state not in ENDS
            return "died" if dead else self.status.state
        words = {seen.state for seen in self.seen_by.values()}
        best_first = [word for word in ("present", "left", "late") if word in words]
        return next(iter((*best_first, *sorted(words), "unknown")))

    @property
    def seen(self) -> str:
        """How many of its neighbours at hand have it present, of how many; "" of none."""
        present = sum(seen.state == "present" for seen in self.seen_by.values())
        return f"{present}/{len(self.seen_by)}" if self.seen_by else ""

    @property
    def reached(self) -> str:
        """One word on whether it is there: `here` and running or not, or what a dial came to."""
        if self.status is not None:
            return "here"
        if not self.answers:
            return ""
        if any(answer.reason is None for answer in self.answers.values()):
            return "answers" if self.greeted else "open"
        return "silent"

    @property
    def unreachable(self) -> str | None:
        """Why it is not there, None where it is, was not dialled, or has left a run that it
        finished."""
        if self.reached != "silent" or self.state == "left":
            return None
        return "; ".join(f"{place}: {one.reason}" for place, one in self.answers.items())


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """All members, in the order of the cluster file, and notes on what could not be used."""

    cluster: Cluster
    members: Sequence[Member]
    notes: Sequence[str]

    @property
    def round(self) -> int:
        """The round of the foremost."""
        return max((one.round for one in self.members), default=0)

    @property
    def statuses(self) -> list[Status]:
        return [one.status for one in self.members if one.status is not None]

    @property
    def unreachable(self) -> dict[str, str]:
        """Who is not there, and why."""
        return {one.agent: why for one in self.members if (why := one.unreachable) is not None}

    def document(self) -> dict[str, Any]:
        """The object of `candor status CLUSTER --json` (docs/run-directory.md)."""
        parts = seen_in(self.statuses)
        return {
            "run_id": self.cluster.run_id,
            "fingerprint": self.cluster.fingerprint,
            "round": self.round,
            "rounds": self.cluster.rounds.rounds,
            "agents": {one.agent: self._told(one) for one in self.members},
            "unreachable": self.unreachable,
            "participation": {agent: asdict(part) for agent, part in parts.items()},
            "notes": list(self.notes),
        }

    def _told(self, one: Member) -> dict[str, Any]:
        status = one.status
        return {
            "here": status is not None,
            "running": one.running,
            "state": one.state,
            "round": one.round,
            "lag": self.round - one.round,
            "balance": status.balance if status else None,
            "last_error": status.last_error if status else None,
            "last_error_s": status.last_error_s if status else None,
            "seen_by": {agent: asdict(seen) for agent, seen in one.seen_by.items()},
            "reached": one.reached or None,
            "endpoints": {place: answer.reason for place, answer in one.answers.items()},
        }


def cluster_status(
    cluster: Cluster,
    data_dirs: Sequence[Path],
    identity: Identity | None = None,
    timeout_s: float | None = None,
) -> ClusterStatus:
    """What is known of all: from the data directories, and from connections to whom they do not
    tell of, done within `timeout_s`, None for none. With the `identity` of an agent its neighbours
    are greeted, the others only dialled.

    Raises:
        ConfigurationError: the keys are of none of the agents.
    """
    whose = None if identity is None else _owner(cluster, identity)
    notes: list[str] = []
    here: dict[str, tuple[Status, Path]] = {}
    for data_dir in data_dirs:
        try:
            status = read_status(data_dir)
        except ConfigurationError as exc:
            notes.append(str(exc))
            continue
        if status.fingerprint != cluster.fingerprint:
            notes.append(f"{data_dir}: of another run, or another revision of this one")
        elif status.agent in here:
            notes.append(f"{data_dir}: a second directory of {status.agent}, which is not shown")
        else:
            here[status.agent] = status, data_dir
    remote = [agent for agent in cluster.ids if agent not in here]
    greeted = {*cluster.neighbours(whose)} if whose else set()
    answers = _answers(cluster, remote, greeted, identity, timeout_s)
    members = []
    for agent in cluster.ids:
        own, lies_in = here.get(agent, (None, None))
        places = cluster.agent(agent).endpoints
        members.append(
            Member(
                agent,
                own,
                None if lies_in is None else is_running(lies_in),
                lies_in,
                {k: s.neighbours[agent] for k, (s, _) in here.items() if agent in s.neighbours},
                {place: answers[place] for place in places if place in answers},
                agent in greeted,
            )
        )
    return ClusterStatus(cluster, members, notes)


def _owner(cluster: Cluster, identity: Identity) -> str:
    public = identity.public.identity.hex()
    for agent in cluster.ids:
        if cluster.agent(agent).identity == public:
            return agent
    raise ConfigurationError("--keys: they are of no agent of the cluster file")


def _answers(
    cluster: Cluster,
    agents: Sequence[str],
    greeted: set[str],
    identity: Identity | None,
    timeout_s: float | None,
) -> dict[str, Answer]:
    if timeout_s is None or not agents:
        return {}
    places = {
        place: (agent, cluster.agent(agent).curve)
        for agent in agents
        for place in cluster.agent(agent).endpoints
    }
    if identity is None:
        return dial_all(places, timeout_s)
    servers = {place: curve for place, (agent, curve) in places.items() if agent in greeted}
    pair = identity.curve_public, identity.curve_secret
    return greet_all(servers, pair, timeout_s, others=places.keys() - servers.keys())
