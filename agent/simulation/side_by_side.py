"""Several runs of one cluster as one: its graph as often as there are runs, which do not meet.

Small models cost a simulation calls, not arithmetic; a round of twelve runs of ten agents takes a
few times what a round of one does. Each run's rows see the batches, signs and weights that they
would see alone, so what comes of it is the same, rounding of products aside that are computed
together.
"""

from typing import Final

from candor.agent.algorithms.catalogue import aggregator_of, rewards_of
from candor.agent.tasks.base import AnyTask, is_loop, is_policy_task
from candor.mechanisms.strategies.specs import alters_data, attacks, names_in, parse_strategy
from candor.topologies.cluster.file import Cluster
from candor.topologies.schedules.schedules import FIXED
from candor.topologies.specs.specs import is_import_path

RUNS_MAX: Final = 1000


def fits(cluster: Cluster, task: AnyTask, strategy: str) -> bool:
    """Whether runs in which some follow this strategy can be side by side: rows do not depend on
    what agents are called, samples are nobody's doing, and all neighbours are sent the same. What
    keeps something of its own, and code of the user's own, which may, runs alone."""
    own = any(map(is_import_path, [*names_in(strategy), cluster.task.name, cluster.algorithm.name]))
    if own or is_loop(task) or is_policy_task(task):
        return False
    made = parse_strategy(strategy, simulated=True)
    plain = cluster.graph.schedule == FIXED and aggregator_of(cluster.algorithm) is None
    return plain and rewards_of(cluster) is None and not attacks(made) and not alters_data(made)


def side_by_side(cluster: Cluster, runs: int) -> Cluster:
    """A cluster of the agents of so many runs, run after run, whose evidence has the signs of the
    one cluster. It is none that anybody could join."""
    assert 1 <= runs <= RUNS_MAX
    if runs == 1:
        return cluster
    names = [f"{run:03d}." for run in range(runs)]  # in order, as rows are summed in order of id
    agents = [
        one.model_copy(update={"id": name + one.id}) for name in names for one in cluster.agents
    ]
    edges = [(name + u, name + v) for name in names for u, v in cluster.graph.edges]
    copied = {"edges": tuple(edges), "weights": cluster.graph.weights * runs}
    stated = {name: getattr(cluster, name) for name in type(cluster).model_fields}
    graph = cluster.graph.model_copy(update=copied)
    made = Cluster.model_construct(**stated | {"agents": tuple(agents), "graph": graph})
    made.__dict__["fingerprint"] = cluster.fingerprint
    return made
