"""Who deviates in a run, and what they know of it: from the cluster file and the strategies."""

from collections.abc import Mapping

from candor.agent.algorithms.catalogue import aggregator_of, phases_of
from candor.agent.algorithms.steps import step_schedule
from candor.agent.learning.reporting import Reporting
from candor.mechanisms.strategies.sending import KnownRun
from candor.topologies.cluster.file import Cluster


def reporting_of(cluster: Cluster, specs: Mapping[str, str], only: str | None = None) -> Reporting:
    """How all agents of a run report and send in a simulation, or on its host `only` this one;
    strategies by id, the others are honest.

    Raises:
        ConfigurationError: a strategy, the algorithm or an id is not usable.
    """
    around = tuple(tuple(map(cluster.index, cluster.neighbours(a))) for a in cluster.ids)
    known = KnownRun(
        bytes.fromhex(cluster.run),
        cluster.payments.window,
        cluster.payments.sketch_size,
        cluster.algorithm.max_byzantine or 1,
        aggregator_of(cluster.algorithm),
        phases_of(cluster.algorithm),
        around,
        step_schedule(cluster.algorithm.step_size, cluster.algorithm.step_decay),
    )
    if only is not None:
        spec = {0: specs[only]} if only in specs else {}
        return Reporting(cluster.seed, [cluster.index(only)], spec, known=known)
    by_row = {cluster.index(agent): spec for agent, spec in specs.items()}
    return Reporting(cluster.seed, range(len(cluster.ids)), by_row, around, known)
