"""The model that every agent starts from: built by the task, or read from a file."""

from torch import Tensor, nn

from candor.agent.learning.layout import Layout, frozen_digest, layout_of, tensors_of
from candor.agent.learning.measuring import check_metric, stated_metric
from candor.agent.learning.saved import load_saved
from candor.agent.tasks.base import Modelled
from candor.agent.tasks.checked import build_model, faults_of
from candor.topologies.cluster.file import TaskSettings, model_digest
from candor.topologies.specs.files import FilePath
from candor.topologies.specs.specs import ConfigurationError


def initial_model(
    task: Modelled, seed: int, saved: FilePath | None = None
) -> tuple[nn.Module, Layout]:
    """The model every agent starts from, on the processor, and what of it travels.

    Args:
        task: what builds it.
        seed: the run's; the model depends on it alone.
        saved: a file to start from instead, see `load_saved`.

    Raises:
        ConfigurationError: it cannot be built or trained; or what was saved cannot be read, is
            another model's, or not finite.
    """
    model = build_model(task, seed)
    with faults_of("build_model"):  # a module's own state_dict() may be anything
        layout = layout_of(task, model)
    if saved is not None:
        return load_saved(saved, model), layout
    held = tensors_of(model)
    if broken := [name for name in layout.names if not bool(held[name].isfinite().all())]:
        raise ConfigurationError(
            f"task: build_model() gave a model that is not finite ({broken[0]}); give every "
            "parameter a number: torch.empty() gives none"
        )
    return model, layout


def built_again(task: Modelled, seed: int, model: nn.Module) -> nn.Module:
    """Another model with the numbers of one; built, for what is in a module cannot always be
    copied, and the file that it may be from need not be read twice.

    Raises:
        ConfigurationError: it cannot be built, or is of another shape.
    """
    other = build_model(task, seed)
    with faults_of("build_model"):  # whose second model may have other layers than its first
        other.load_state_dict(model.state_dict())
    return other


def initial_parameters(task: Modelled, seed: int, saved: FilePath | None = None) -> Tensor:
    """What travels of the model every agent starts from (dim,); raises as `initial_model` does."""
    model, layout = initial_model(task, seed, saved)
    return layout.of(model)


def stated_of(task: Modelled, seed: int, saved: FilePath | None = None) -> dict[str, object]:
    """What a cluster file states of a task: the fields of `TaskSettings` that follow from it."""
    model, layout = initial_model(task, seed, saved)
    return {
        "parameters": layout.dim,
        "model_digest": model_digest(layout.of(model).numpy()),
        "frozen_digest": frozen_digest(layout, model),
        **stated_metric(task),
    }


def verified_initial_parameters(
    task: Modelled, settings: TaskSettings, seed: int, saved: FilePath | None = None
) -> Tensor:
    """What travels of the initial model (dim,), which must be the one the cluster file states, as
    must its frozen parameters.

    Raises:
        ConfigurationError: it is another model than the file's author had, or unusable; or the task
            measures something else.
    """
    check_metric(task, settings)
    model, layout = initial_model(task, seed, saved)
    x = layout.of(model)
    digest = model_digest(x.numpy())
    here = f"task {settings.name!r} builds" if saved is None else f"{saved}: holds"
    mend = (
        "use the same task code and torch version everywhere, or give --initial FILE if the "
        "run starts from a saved model"
        if saved is None
        else "the file must be the very one that the organiser gave"
    )
    if len(x) != settings.parameters or digest != settings.model_digest:
        raise ConfigurationError(
            f"{here} another initial model ({len(x)} parameters, digest {digest[:12]}…) than the "
            f"cluster file states ({settings.parameters}, {settings.model_digest[:12]}…); {mend}"
        )
    if frozen_digest(layout, model) != settings.frozen_digest:
        raise ConfigurationError(
            f"{here} other frozen parameters than the cluster file states, or shares others; {mend}"
        )
    return x
