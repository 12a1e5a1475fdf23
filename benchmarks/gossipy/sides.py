"""The two simulators behind one face: rounds go in; models come out, to see what they learned.

Equal on both sides: the agents' samples (64 each), the model and its first parameters, the random
4-regular graph, batches of 32, one SGD step of one step size an agent and round, nothing evaluated.

Different: a Candor agent mixes with all four neighbours in every round, by Metropolis weights. A
gossipy node pushes its model to one neighbour drawn at random, and whoever receives one averages
the two models and makes a step (PUSH, MERGE_UPDATE): one message and one step a node and round, on
average over the nodes. Candor draws batches with replacement, gossipy without. gossipy's nodes
make one more step before the first round. gossipy works on one core; Candor is timed on one, and on
all that there are.
"""

import logging
import os
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import MappingProxyType, ModuleType
from typing import Final, Protocol

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from candor.agent.runs.placeholder_agents import STEP_SIZE
from candor.agent.simulation.vectorised import Simulation
from candor.agent.tasks import resolve_task
from candor.agent.tasks.base import Batch, Task
from candor.agent.tasks.checked import build_model
from candor.agent.tasks.partition import Shard
from candor.network.memory import keep_freed_memory
from candor.topologies.cluster.file import Cluster

BATCH: Final = 32
TIMESTEPS: Final = 100  # of a gossipy round; its own examples have as many
EXAMINED: Final = 32  # agents whose models are looked at, evenly spread
CORES: Final = os.cpu_count() or 1


class Side(Protocol):
    """A simulator with its agents made."""

    def advance(self, rounds: int) -> None:
        """Simulate so many rounds."""
        ...

    def models(self) -> Iterable[nn.Module]:
        """Some of the agents' models."""
        ...


class CandorSide:
    """`candor simulate`'s own rounds, without payments."""

    def __init__(self, cluster: Cluster, threads: int = 1) -> None:
        keep_freed_memory(all_of_it=True)  # as `candor simulate` does
        self._simulation = Simulation(cluster, {}, device="cpu", measured=False, threads=threads)
        self._model = build_model(resolve_task(cluster.task.name), cluster.seed)

    def advance(self, rounds: int) -> None:
        for _ in range(rounds):
            self._simulation.step()

    def models(self) -> Iterator[nn.Module]:
        named = self._simulation.named()
        for row in _examined(len(self._simulation.parameters)):
            self._model.load_state_dict({name: tensor[row] for name, tensor in named.items()})
            yield self._model


class GossipySide:
    """gossipy's GossipSimulator of as many GossipNodes."""

    def __init__(self, cluster: Cluster) -> None:
        # Its data module imports torchvision, for downloads that are not made here.
        sys.modules.setdefault("torchvision", ModuleType("torchvision"))
        import gossipy
        from gossipy import simul
        from gossipy.core import AntiEntropyProtocol, CreateModelMode, StaticP2PNetwork
        from gossipy.data import DataDispatcher
        from gossipy.data.handler import ClassificationDataHandler
        from gossipy.model import TorchModel
        from gossipy.model.handler import TorchModelHandler
        from gossipy.node import GossipNode

        class Wrapped(TorchModel):
            """Candor's module as a model of gossipy's, whose first parameters stay as they are."""

            def __init__(self, model: nn.Module) -> None:
                super().__init__()
                self.model = model

            def init_weights(self) -> None:
                pass

            def forward(self, x: Tensor) -> Tensor:
                return self.model(x)

        logging.disable(logging.INFO)
        simul.track = _without_bar  # its progress bar writes to stdout and takes time
        gossipy.set_seed(cluster.seed)
        task, agents = resolve_task(cluster.task.name), len(cluster.ids)
        net = Wrapped(build_model(task, cluster.seed))
        inputs, labels = _samples(task, cluster.seed, range(agents))
        data = DataDispatcher(
            ClassificationDataHandler(inputs, labels, test_size=0), agents, False, auto_assign=False
        )
        own = np.arange(len(labels)).reshape(agents, -1)
        data.set_assignments(own.tolist(), None)
        handler = TorchModelHandler(
            net,
            torch.optim.SGD,
            {"lr": STEP_SIZE},
            nn.functional.cross_entropy,
            local_epochs=0,  # one step on one batch
            batch_size=BATCH,
            create_model_mode=CreateModelMode.MERGE_UPDATE,
        )
        network = StaticP2PNetwork(agents, _adjacency(cluster))
        self._nodes = GossipNode.generate(data, network, handler, TIMESTEPS, sync=True)
        self._simulator = simul.GossipSimulator(
            self._nodes, data, TIMESTEPS, AntiEntropyProtocol.PUSH
        )
        self._simulator.init_nodes()

    def advance(self, rounds: int) -> None:
        self._simulator.start(rounds)

    def models(self) -> Iterator[nn.Module]:
        for row in _examined(len(self._nodes)):
            yield self._nodes[row].model_handler.model


ALL_CORES: Final = f"candor, {CORES} cores"
SIDES: Final[Mapping[str, Callable[[Cluster], Side]]] = MappingProxyType(
    {
        "gossipy": GossipySide,
        "candor": CandorSide,
        ALL_CORES: partial(CandorSide, threads=CORES),
    }
)


def accuracy(side: Side, cluster: Cluster) -> float:
    """The mean share, 0 to 1, of unseen samples that the examined models classify correctly."""
    task = resolve_task(cluster.task.name)
    with torch.no_grad():
        return statistics.fmean(task.evaluate(model) for model in side.models())


def _samples(task: Task, seed: int, indices: Iterable[int]) -> Batch:
    """The samples of some agents, one after the other's."""
    parts = [task.load_data(Shard(index, 1), seed) for index in indices]
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


def _adjacency(cluster: Cluster) -> "sparse.csr_matrix":
    """Who hears whom, (agents, agents), in the form that gossipy tells by its type."""
    pairs = [
        (row, cluster.index(neighbour))
        for row, agent in enumerate(cluster.ids)
        for neighbour in cluster.neighbours(agent)
    ]
    rows, columns = np.array(pairs).T
    shape = (len(cluster.ids), len(cluster.ids))
    return sparse.csr_matrix((np.ones(len(pairs)), (rows, columns)), shape)


def _examined(agents: int) -> Iterable[int]:
    return range(0, agents, -(-agents // EXAMINED))


def _without_bar(steps: Iterable[int], description: str) -> Iterator[int]:
    del description
    yield from steps
