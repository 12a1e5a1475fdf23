"""Attacks on privacy: what of an agent's records can be computed from what it shows.

    python -m tests.campaigns.privacy exports     # ten minutes: a ledger export, sealed and opened
    python -m tests.campaigns.privacy neighbour   # ten minutes: a neighbour that knows every update

The records are 64 patients of scikit-learn's breast cancer data, or 64 of its digits, the agent's
own; two other agents of a triangle have other ones. Every attack gives 64 guesses. A record counts
as found if one of them is within 1 % of it, relatively and in the Euclidean norm; the error of a
record is its distance to the nearest guess, and *chance* is the median of the same error of guesses
that are other people's records.

Exports are those of real daemons. What is *opened* shows claims, hence a trace of every update: of
models of up to 128 parameters the update itself. Attacks on it: the ratio of weights' and biases'
gradients (a batch of one shows its record so), and, where the trace is a fold, least squares over
what one record may have injected. What is *sealed* shows amounts: the attack fits the records of
all agents, by gradients through the whole run, to all amounts in the export. It is told everything
else: the initial model, which record was drawn when, and every label.

The neighbour knows the model before and the update of every round. Its attack fits the records to
the updates of all rounds at once, by gradients through the local steps; it too knows what was drawn
when, and the labels.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import click
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares
from sklearn.datasets import load_breast_cancer, load_digits
from torch import Tensor, nn

from candor.agent.learning.batches import draw_samples
from candor.agent.learning.initial import initial_parameters
from candor.agent.runs.cluster_parts import task_settings
from candor.agent.runs.placeholder_agents import stand_in_cluster
from candor.agent.simulation.vectorised import Simulation
from candor.agent.tasks.partition import Shard
from candor.mechanisms.evidence.sketch import SignSketch, TraceFold, signs_seed
from candor.mechanisms.ledger.export import parse_export
from candor.mechanisms.ledger.records import Record
from candor.mechanisms.payments.bills import SignedBill
from candor.topologies.cluster.file import Cluster, load_cluster

RECORDS: Final = 64
AGENTS: Final = 3
ROUNDS: Final = 160
STEP_SIZE: Final = 0.1
SEED: Final = 0
WITHIN: Final = 0.01
RULE: Final = "norm:1.0 + peer-prediction:1.0"  # what depends most smoothly on updates


class Case(NamedTuple):
    """A data set and the widths of the model's layers."""

    data: str
    widths: tuple[int, ...]

    @property
    def dim(self) -> int:
        return sum((a + 1) * b for a, b in zip(self.widths, self.widths[1:], strict=False))


CASES: Final = {
    "Logistic30": Case("patients", (30, 1)),
    "Linear128": Case("parity", (63, 2)),
    "Mlp1000": Case("digits", (64, 13, 10)),
    "Mlp100000": Case("digits", (64, 1333, 10)),
}


@cache
def records_of(data: str) -> tuple[Tensor, Tensor]:
    """All records of a data set (n, features), and their classes."""
    if data == "patients":
        table, labels = load_breast_cancer(return_X_y=True)
        table = (table - table.mean(0)) / table.std(0)
    else:
        table, labels = load_digits(return_X_y=True)
        table = table / 16.0
        if data == "parity":
            table, labels = table[:, 1:], labels % 2  # the first pixel is always empty
    order = np.random.default_rng(SEED).permutation(len(labels))
    rows = torch.from_numpy(table[order].astype(np.float32))
    return rows, torch.from_numpy(labels[order].astype(np.int64))


class _Task:
    """A perceptron on 64 records an agent; the metric is not of interest here."""

    case: Case

    def build_model(self) -> nn.Module:
        layers: list[nn.Module] = []
        for a, b in zip(self.case.widths, self.case.widths[1:], strict=False):
            layers += [nn.ReLU()] * bool(layers) + [nn.Linear(a, b)]
        return nn.Sequential(*layers)

    def load_data(self, shard: Shard, seed: int) -> tuple[Tensor, Tensor]:
        rows, labels = records_of(self.case.data)
        own = slice(RECORDS * shard.index, RECORDS * (shard.index + 1))
        return rows[own], labels[own]

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return loss_of(model(batch[0]), batch[1])

    def evaluate(self, model: nn.Module) -> float:
        return 0.5


def loss_of(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits, or of one logit."""
    if outputs.shape[-1] == 1:
        return nn.functional.binary_cross_entropy_with_logits(outputs[..., 0], labels.float())
    return nn.functional.cross_entropy(outputs, labels)


class Logistic30(_Task):
    case = CASES["Logistic30"]


class Linear128(_Task):
    case = CASES["Linear128"]


class Mlp1000(_Task):
    case = CASES["Mlp1000"]


class Mlp100000(_Task):
    case = CASES["Mlp100000"]


class Found(NamedTuple):
    """How well guesses meet the records."""

    within: int
    error: float
    chance: float

    def __str__(self) -> str:
        return f"{self.within:>3} of {RECORDS}   {self.error:8.3f}   {self.chance:8.3f}"


def judged(case: Case, guesses: Tensor) -> Found:
    """Compare guesses (n, features) with the agent's records, and with others' records."""
    rows, _ = records_of(case.data)
    own, others = rows[:RECORDS].double(), rows[-RECORDS:].double()
    errors = _errors(own, guesses.double())
    chance = float(_errors(own, others).median())
    return Found(int((errors <= WITHIN).sum()), float(errors.median()), chance)


def _errors(own: Tensor, guesses: Tensor) -> Tensor:
    if not len(guesses):
        return torch.full((len(own),), float("inf"), dtype=torch.float64)
    apart: Tensor = torch.cdist(own, torch.nan_to_num(guesses, nan=1e9, posinf=1e9, neginf=-1e9))
    return apart.min(1).values / own.norm(dim=1)


# --- what a run shows -----------------------------------------------------------------------------


def run_daemons(name: str, window: int, folder: Path) -> Cluster:
    """Let three daemons train with batches of one, and leave their exports."""
    words = f"""testbed --agents {AGENTS} --topology complete --partition iid
        --task tests.campaigns.privacy:{name} --batch-size 1 --local-steps 1 --step-decay 0
        --step-size {STEP_SIZE} --rounds {ROUNDS} --window {window} --seed {SEED}
        --evaluate-every {ROUNDS} --run-dir {folder} --rule""".split()
    _candor(*words, RULE)
    return load_cluster(folder / "cluster.toml")


def _candor(*words: str) -> None:
    command = [sys.executable, "-m", "candor", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}")


def exported(folder: Path, agent: str, *more: str) -> list[Record]:
    """The records that an agent's exports show."""
    data, cluster = folder / "agents" / agent, folder / "cluster.toml"
    target = folder / "shown"
    target.mkdir(exist_ok=True)
    words = ["ledger", "export", str(data), "--cluster", str(cluster), "-o", str(target)]
    _candor(*words, "--keys", str(data / "keys"), *more)
    files = sorted(target.glob("*.jsonl"))
    return [record for path in files for record in parse_export(path.read_bytes()).records]


def bills_in(records: Sequence[Record]) -> dict[tuple[int, str], SignedBill]:
    """The bills in an export, by window and referee."""
    bills = [
        SignedBill.decode(item, may_be_sealed=True) for one in records for item in one.evidence
    ]
    return {(bill.bill().window, bill.bill().referee): bill for bill in bills}


# --- attacks on opened exports --------------------------------------------------------------------


def ratio_attack(case: Case, updates: NDArray[np.float64]) -> Tensor:
    """The records of updates (n, dim), each of a batch of one: weights over biases."""
    features, outputs = case.widths[0], case.widths[1]
    weights = updates[:, : features * outputs].reshape(-1, outputs, features)
    biases = updates[:, features * outputs : (features + 1) * outputs]
    best = np.abs(biases).argmax(1)
    some = np.arange(len(updates))
    with np.errstate(divide="ignore", invalid="ignore"):
        return torch.from_numpy(weights[some, best] / biases[some, best, None])


def fold_matrix(cluster: Cluster, window: int, dim: int) -> NDArray[np.float64]:
    """The map (r, dim) from an update to its trace, in a window."""
    run = bytes.fromhex(cluster.fingerprint)
    sketch = SignSketch(signs_seed(run, window), dim, cluster.payments.sketch_size)
    fold = TraceFold(run, window, sketch.size)
    return np.asarray(fold(sketch(np.eye(dim, dtype=np.float32))), np.float64).T


def bilinear_attack(
    case: Case, fold: NDArray[np.float64], trace: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """The record (features,) of one folded update of a perceptron of two layers and a batch of one:
    least squares over record, hidden layer and both layers' errors."""
    features, hidden, classes = case.widths
    sizes = np.cumsum([features, hidden, hidden])

    def update(z: NDArray[np.float64]) -> NDArray[np.float64]:
        x, below, h, above = np.split(z, sizes)
        return np.concatenate(
            [np.outer(below, x).ravel(), below, np.outer(above, h).ravel(), above]
        )

    best = None
    for _ in range(4):
        start = np.concatenate([rng.uniform(0, 0.6, features), rng.normal(0, 0.2, 2 * hidden)])
        start = np.concatenate([start, rng.normal(0, 0.3, classes)])
        fit = least_squares(lambda z: fold @ update(z) - trace, start, max_nfev=60)
        best = fit if best is None or fit.cost < best.cost else best
    assert best is not None
    return np.asarray(best.x[:features])


def attack_opened(case: Case, cluster: Cluster, records: Sequence[Record]) -> Tensor:
    """The guesses from the claims of the first agent."""
    agent, traces = cluster.ids[0], {}
    for bill in bills_in(records).values():
        for claim in (signed.claim() for signed in bill.claims):
            if claim.agent == agent:
                traces |= {one.round: np.frombuffer(one.trace, "<f4") for one in claim.rounds}
    shown = np.stack([traces[t] for t in sorted(traces)]).astype(np.float64)
    if case.dim <= shown.shape[1]:
        return ratio_attack(case, shown)
    if case.dim > 10_000:  # more unknowns in one record's update than a trace has values
        return torch.zeros(1, case.widths[0])
    rng, found = np.random.default_rng(SEED), []
    drawn = order_of(cluster, 0)
    for place in sorted(set(drawn)):  # each record once
        t = drawn.index(place) + 1
        fold = fold_matrix(cluster, (t - 1) // cluster.payments.window, case.dim)
        found.append(bilinear_attack(case, fold, traces[t].astype(np.float64), rng))
    return torch.from_numpy(np.stack(found))


def order_of(cluster: Cluster, agent: int) -> list[int]:
    """Which record an agent draws in each round, with batches of one."""
    lengths = np.full(AGENTS, RECORDS, np.int64)
    agents = range(AGENTS)
    return [
        int(draw_samples(cluster.seed, t, agents, lengths, 1)[agent, 0])
        for t in range(1, cluster.rounds.rounds + 1)
    ]


# --- the attack on sealed exports -----------------------------------------------------------------


def gradients_of(case: Case) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Gradients (n, dim) of the loss of parameters (n, dim) on batches of records (n, batch,
    features) of classes (n, batch), themselves differentiable."""

    def gradients(x: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        inputs, kept, low = rows, [], 0
        layers = []
        for a, b in zip(case.widths, case.widths[1:], strict=False):
            weight = x[:, low : low + a * b].reshape(-1, b, a)
            layers.append((weight, x[:, low + a * b : low + (a + 1) * b]))
            low += (a + 1) * b
        for i, (weight, bias) in enumerate(layers):
            kept.append(inputs)
            outputs = inputs @ weight.transpose(1, 2) + bias[:, None]
            inputs = outputs.relu() if i + 1 < len(layers) else outputs
        if case.widths[-1] == 1:
            errors = inputs.sigmoid() - labels[..., None]
        else:
            errors = inputs.softmax(-1) - nn.functional.one_hot(labels, case.widths[-1])
        errors = errors / rows.shape[1]
        found: list[Tensor] = []
        for i in reversed(range(len(layers))):
            found = [(errors.transpose(1, 2) @ kept[i]).flatten(1), errors.sum(1), *found]
            if i:
                errors = (errors @ layers[i][0]) * (kept[i] > 0)
        return torch.cat(found, 1)

    return gradients


def amounts_in(cluster: Cluster, records: Sequence[Record]) -> Tensor:
    """Every amount that exports show, in credits: (windows, referees, members, 2), 0 where none."""
    windows = -(-cluster.rounds.rounds // cluster.payments.window)
    shown = torch.zeros(windows, AGENTS, AGENTS, 2, dtype=torch.float64)
    for (window, referee), signed in bills_in(records).items():
        for row in signed.bill().rows:
            place = cluster.index(referee), cluster.index(row.member)
            shown[window, *place] = torch.tensor([row.transfer, row.charge]) / 1e6
    return shown


def amounts_of(case: Case, cluster: Cluster, start: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
    """The amounts of a whole run on the records (agents, RECORDS, features), as `amounts_in`."""
    gradients, x = gradients_of(case), start.repeat(AGENTS, 1)
    drawn = torch.tensor([order_of(cluster, agent) for agent in range(AGENTS)])  # (agents, rounds)
    agents, size, amounts, updates = torch.arange(AGENTS), cluster.payments.window, [], []
    for t in range(drawn.shape[1]):
        update = gradients(
            x, rows[agents, drawn[:, t]][:, None], labels[agents, drawn[:, t]][:, None]
        )
        x = (x - STEP_SIZE * update).mean(0).repeat(AGENTS, 1)  # on a triangle: the mean
        updates.append(update)
        if len(updates) == size:
            amounts.append(_billed(torch.stack(updates)))
            updates = []
    return torch.stack(amounts)


def _billed(updates: Tensor) -> Tensor:
    """The amounts (referees, members, 2) by `RULE` of a window's updates (rounds, agents, dim); on
    a triangle all are members of every neighbourhood."""
    energies = updates.square().sum(2).sum(0)
    penalties = (updates - updates.mean(1, keepdim=True)).square().sum(2).sum(0)
    out = []
    for referee in range(AGENTS):
        members = [agent for agent in range(AGENTS) if agent != referee]
        row = [torch.zeros(2, dtype=updates.dtype)] * AGENTS
        total = penalties[members].sum()
        for one in members:
            transfer = penalties[one] - (total - penalties[one]) / (len(members) - 1)
            row[one] = torch.stack([transfer, energies[one]])
        out.append(torch.stack(row))
    return torch.stack(out)


def attack_sealed(
    case: Case, cluster: Cluster, start: Tensor, records: Sequence[Record]
) -> tuple[Tensor, float, float]:
    """The guesses for the first agent's records, and the misfit of the amounts before and after,
    relative to the amounts."""
    shown = amounts_in(cluster, records)
    rows, labels = records_of(case.data)
    labels = labels[: AGENTS * RECORDS].reshape(AGENTS, RECORDS)
    # From records of the same kind: what everybody knows.
    first = rows[-AGENTS * RECORDS :].reshape(AGENTS, RECORDS, -1).double()
    guess = first.clone().requires_grad_()
    optimiser = torch.optim.Adam([guess], lr=0.02)
    misfits: list[float] = []
    for _ in range(120 if case.dim < 10_000 else 25):
        optimiser.zero_grad()
        apart = (amounts_of(case, cluster, start.double(), guess, labels) - shown).square().sum()
        misfits.append(float((apart.detach() / shown.square().sum()).sqrt()))
        apart.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return guess.detach()[0], misfits[0], min(misfits)


# --- the attack of a neighbour --------------------------------------------------------------------


def watched(
    name: str, batch: int, steps: int, rounds: int
) -> Iterator[tuple[Tensor, Tensor, NDArray[np.int64]]]:
    """Of each round: the first agent's model before (dim,), its update (dim,), and what it drew
    (steps, batch). Simulated: what neighbours know of a daemon is the same."""
    spec = f"tests.campaigns.privacy:{name}"
    task = task_settings(spec, SEED, None, batch_size=batch)
    cluster = stand_in_cluster("watched", task, "complete", AGENTS, rounds, seed=SEED)
    settings = {"step_size": STEP_SIZE, "local_steps": steps}
    algorithm = cluster.algorithm.model_copy(update=settings)
    cluster = cluster.model_copy(update={"algorithm": algorithm})
    simulation = Simulation(cluster, {}, measured=False)
    lengths = np.full(AGENTS, RECORDS, np.int64)
    for t in range(1, rounds + 1):
        before = simulation.parameters[0].clone()
        simulation.step()
        drawn = draw_samples(cluster.seed, t, range(AGENTS), lengths, batch * steps)[0]
        yield before, simulation._rows.reports[0].clone(), drawn.reshape(steps, batch)


def attack_neighbour(
    case: Case, seen: Sequence[tuple[Tensor, Tensor, NDArray[np.int64]]]
) -> Tensor:
    """Fit the records to all updates at once."""
    rows, labels = records_of(case.data)
    labels = labels[:RECORDS]
    gradients = gradients_of(case)
    before = torch.stack([x for x, _, _ in seen]).double()  # (rounds, dim)
    updates = torch.stack([u for _, u, _ in seen]).double()
    drawn = torch.from_numpy(np.stack([d for _, _, d in seen]))  # (rounds, steps, batch)
    scale = updates.square().sum(1, keepdim=True).clamp_min(1e-12)
    start = rows[-RECORDS:].double().clone()
    if drawn.shape[1:] == (1, 1):
        start[drawn[:, 0, 0]] = ratio_attack(case, updates.numpy())
        return start
    if case.widths[-1] == 1:
        start = gauss_newton(before, updates, drawn, labels, start)
    guess = torch.nan_to_num(start, nan=0.0, posinf=0.0, neginf=0.0).requires_grad_()
    optimiser = torch.optim.LBFGS([guess], 1.0, 60, line_search_fn="strong_wolfe", history_size=50)

    def misfit() -> Tensor:
        optimiser.zero_grad()
        x, total = before, torch.zeros_like(before)
        for step in range(drawn.shape[1]):
            some = drawn[:, step]
            found = gradients(x, guess[some], labels[some])
            x, total = x - STEP_SIZE * found, total + found
        apart = ((total - updates).square() / scale).sum()
        apart.backward()  # type: ignore[no-untyped-call]
        return apart

    optimiser.step(misfit)  # type: ignore[arg-type, no-untyped-call]
    return guess.detach()


def gauss_newton(
    before: Tensor, updates: Tensor, drawn: Tensor, labels: Tensor, guess: Tensor
) -> Tensor:
    """Logistic regression: all rounds' updates as equations in the records, solved by damped least
    squares (Levenberg and Marquardt). Local steps are taken for one large batch."""
    features = guess.shape[1]
    counts = torch.zeros(len(drawn), RECORDS, dtype=torch.float64)
    flat = drawn.flatten(1)
    counts.scatter_add_(1, flat, torch.ones(flat.shape, dtype=torch.float64))
    counts /= drawn.shape[2]
    weights, biases = before[:, :features], before[:, features]
    eye = torch.eye(features, dtype=torch.float64)

    def off(rows: Tensor) -> Tensor:
        errors = ((weights @ rows.T + biases[:, None]).sigmoid() - labels) * counts
        return torch.cat([errors @ rows, errors.sum(1, keepdim=True)], 1) - updates

    damping, apart = 1e-3, off(guess)
    for _ in range(40):
        probabilities = (weights @ guess.T + biases[:, None]).sigmoid()
        errors = (probabilities - labels) * counts
        slopes = probabilities * (1 - probabilities) * counts
        # (rounds, features + 1, RECORDS, features): each update by each record's coordinates.
        by = torch.einsum("tn,nf,tg->tfng", slopes, guess, weights)
        by += torch.einsum("tn,fg->tfng", errors, eye)
        last = torch.einsum("tn,tg->tng", slopes, weights)[:, None]
        jacobian = torch.cat([by, last], 1).reshape(-1, RECORDS * features)
        normal, pull = jacobian.T @ jacobian, jacobian.T @ apart.flatten()
        for _ in range(8):
            damped = normal + damping * torch.eye(len(normal), dtype=torch.float64)
            moved = guess - torch.linalg.solve(damped, pull).reshape(guess.shape)
            if (after := off(moved)).square().sum() < apart.square().sum():
                guess, apart, damping = moved, after, damping / 5
                break
            damping *= 10
        else:
            break
    return guess


# --- commands -------------------------------------------------------------------------------------


@click.group()
def main() -> None:
    """Attack privacy, and print what was found."""


@main.command()
@click.option("--case", "names", multiple=True, type=click.Choice(list(CASES)))
@click.option("--window", "windows", multiple=True, type=int, default=(16, 1))
def exports(names: tuple[str, ...], windows: tuple[int, ...]) -> None:
    """What one agent's ledger exports alone reveal, sealed and opened."""
    click.echo("model       parameters  window  export   within 1 %   median error     chance")
    for name in names or CASES:
        case = CASES[name]
        for window in windows:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary) / "run"
                cluster = run_daemons(name, window, folder)
                start = initial_parameters(globals()[name](), SEED)
                count = -(-ROUNDS // window)
                opened = exported(
                    folder, "a0", *(w for i in range(count) for w in ("--open", str(i)))
                )
                sealed = exported(folder, "a0")
            line = f"{name:<12}{case.dim:>10}{window:>8}"
            if window == 16:
                click.echo(f"{line}  opened   {judged(case, attack_opened(case, cluster, opened))}")
            guesses, first, last = attack_sealed(case, cluster, start, sealed)
            fitted = f"   (amounts off by {first:.3f}, fitted to {last:.4f})"
            click.echo(f"{line}  sealed   {judged(case, guesses)}{fitted}")


@main.command()
@click.option("--case", "names", multiple=True, type=click.Choice(list(CASES)))
def neighbour(names: tuple[str, ...]) -> None:
    """What a neighbour's knowledge of every update reveals."""
    click.echo(
        "model       parameters   batch   steps  rounds   within 1 %   median error     chance"
    )
    for name in names or CASES:
        case = CASES[name]
        rounds = ROUNDS if case.dim < 10_000 else 32
        for batch, steps in ((1, 1), (4, 1), (16, 1), (64, 1), (4, 4), (16, 4), (64, 16)):
            seen = list(watched(name, batch, steps, rounds))
            found = judged(case, attack_neighbour(case, seen))
            line = f"{name:<12}{case.dim:>10}{batch:>8}{steps:>8}{rounds:>8}"
            click.echo(f"{line}   {found}")


if __name__ == "__main__":
    main()
