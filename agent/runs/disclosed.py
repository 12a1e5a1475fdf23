"""Rounds that an agent has shown, done again by whoever was shown them: no data set is needed.

What is shown is held against itself: the agent has signed it whole, the samples lead to the root
that the round's start names, and that start to the salts of its statements. See
`mechanisms.evidence.disclosures`, and `agent.runs.replay` for what is done again.
"""

from contextlib import suppress

from candor.agent.learning.committed import batch_of, places_of
from candor.agent.runs.replay import Host, Kept, Replayed, Replayer
from candor.agent.tasks.base import Batch
from candor.agent.tasks.partition import Shard
from candor.mechanisms.evidence.attestations import Told
from candor.mechanisms.evidence.disclosures import Shown, ShownRound, shown_bytes_max
from candor.mechanisms.evidence.sample_tree import Samples
from candor.mechanisms.evidence.sketch import window_of
from candor.topologies.cluster.file import Cluster
from candor.topologies.encoding.canonical import MalformedError
from candor.topologies.specs.specs import ConfigurationError


def judged(cluster: Cluster, proof: ShownRound, host: Host) -> Replayed:
    """Do a shown round again. Where what is signed is no round of the run, it cannot be told.

    Raises:
        MalformedError: the agent has not signed this; it is nobody's word.
        ConfigurationError: the task cannot be used here.
    """
    agent, run = proof.agent, bytes.fromhex(cluster.fingerprint)
    if cluster.payments.disclose is None:
        raise MalformedError("in this run no rounds are shown")
    publics = {entry.id: bytes.fromhex(entry.identity) for entry in cluster.agents}
    most = shown_bytes_max(
        cluster.task.parameters, len(cluster.neighbours(agent)) if agent in publics else 0
    )
    said = proof.disclosure(run, publics.get(agent), most)
    sketch_bytes = 8 * min(cluster.task.parameters, cluster.payments.sketch_size)
    try:
        shown = Shown.decode(proof.shown, sketch_bytes=sketch_bytes)
        return _replayed(cluster, agent, said.window, said.round, shown, host)
    except MalformedError as exc:
        return Replayed(said.round, Told.UNKNOWN, str(exc))


def _replayed(
    cluster: Cluster, agent: str, window: int, number: int, shown: Shown, host: Host
) -> Replayed:
    start, samples = shown.start, shown.start.samples
    if start.round != number or number > cluster.rounds.rounds:
        raise MalformedError("it is of another round")
    if window_of(number, cluster.payments.window) != window:
        raise MalformedError("its round is of another window")
    if not (shown.samples and all(one.leads_to(samples) for one in shown.samples)):
        return Replayed(
            number, Told.FALSE, "a sample that it shows is none of those that it committed to"
        )
    enough = cluster.algorithm.local_epochs is None or len(shown.samples) == samples.count
    places = [one.place for one in shown.samples]
    if not enough or places != places_of(cluster, agent, number, samples.count):
        return Replayed(number, Told.FALSE, "it does not show the samples of the round's batches")
    data = batch_of(shown.samples, samples.count)

    def given(_shard: Shard, _seed: int) -> Batch:
        return data

    try:
        replayer = Replayer(cluster, agent, samples, host, given)
    except ConfigurationError as exc:
        if _works(cluster, agent, host):
            raise MalformedError(f"no round is done with the samples that it shows: {exc}") from exc
        raise
    return replayer.replayed(Kept(start, shown.round, shown.following, shown.said))


def _works(cluster: Cluster, agent: str, host: Host) -> bool:
    """Whether the task can be used here with data of its own, of the agent or of a neighbour: who
    judges is one. Else it is not the agent's fault that its samples are of no use."""
    for other in (agent, *cluster.neighbours(agent)):
        with suppress(ConfigurationError):
            Replayer(cluster, other, Samples(), host)
            return True
    return False
