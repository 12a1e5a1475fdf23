"""Members that join and leave a testbed's run while it runs, by revisions of its cluster file.

The testbed is the organiser: it signs the first file, and each further one when its fault plan has
a change due, for a round that all daemons can know of in time.
"""

import math
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from candor.agent.core.succession import check_continuable
from candor.agent.daemon import keys
from candor.agent.daemon.status import Status
from candor.topologies.cluster.file import AgentEntry, Cluster, dump_cluster, signed
from candor.topologies.cluster.requests import JoinRequest, make_request
from candor.topologies.cluster.revisions import amended, first_revision
from candor.topologies.specs.files import replace_file, validated

ORGANISER: Final = "organiser"
KNOWN_S: Final = 3.0
"""Until all daemons have looked at the file once and told each other, with a margin."""


class Churn:
    """Who signs the cluster file of the run in `run_dir`, and where its members' keys are."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._key = keys.generate(run_dir / ORGANISER).signing_key

    def first(self, cluster: Cluster) -> Cluster:
        """The first file, signed, that has been put together from entries without requests.

        Raises:
            ConfigurationError: such a run cannot go on with other members.
        """
        check_continuable(cluster)
        agents = tuple(self._request(entry).agent for entry in cluster.agents)
        fields = {name: getattr(cluster, name) for name in Cluster.model_fields}
        fields |= {"agents": agents, "revision": first_revision(self._key)}
        return signed(validated(Cluster, fields, f"run {cluster.run_id!r}"), self._key)

    def next(
        self,
        cluster: Cluster,
        joining: Sequence[AgentEntry],
        leaving: Sequence[str],
        after_round: int,
    ) -> Cluster:
        """The next revision, in the place of the file in the run directory.

        Raises:
            ConfigurationError: the graph does not fit the new members, or the run is over by then.
        """
        asked = [self._request(entry) for entry in joining]
        made = amended(cluster, self._key, joining=asked, leaving=leaving, after_round=after_round)
        replace_file(self._run_dir / "cluster.toml", dump_cluster(made).encode())
        return made

    def _request(self, entry: AgentEntry) -> JoinRequest:
        identity = keys.load(self._run_dir / "agents" / entry.id / "keys")
        return make_request(
            identity.signing_key,
            organiser=self._key.public.hex(),
            agent=entry.id,
            curve=identity.curve_public,
            endpoints=entry.endpoints,
            bind=entry.bind,
            serial=time.time_ns() // 1_000_000,
            weight=entry.weight,
        )


def round_to_know_by(foremost: int, seconds: float, agents: int) -> int:
    """A round by which all can know of a change that is signed now, in the round of the foremost
    agent after so many seconds: it travels from neighbour to neighbour meanwhile."""
    return foremost + 2 * agents + math.ceil(KNOWN_S * foremost / max(seconds, 1.0))


def in_effect(cluster: Cluster, statuses: Mapping[str, Status], running: Collection[str]) -> bool:
    """Whether all members that run go by this revision by now."""
    said = [statuses[agent].fingerprint for agent in running if agent in cluster.ids]
    return all(fingerprint == cluster.fingerprint for fingerprint in said)
