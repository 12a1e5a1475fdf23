"""What to do about a task that fails: advice for the messages that torch and Python often give."""

import re
from typing import Final

_HINTS: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), hint)
    for pattern, hint in (
        (
            r"more than 1 value per channel",
            "BatchNorm needs two samples or more: a larger --batch-size, or drop_last=True in the "
            "DataLoader",
        ),
        (
            r"evaluate(_local)?\(\) failed.*does not require grad",
            "it is called without gradients; where it needs them, put torch.enable_grad() around",
        ),
        (
            r"does not require grad",
            "nothing that is trained leads to the loss; is there a detach(), .item() or no_grad()?",
        ),
        (
            r"backward through the graph a second time|escaped from inside a function",
            "something computed from parameters is kept between steps; compute it in each, or "
            "detach() it",
        ),
        (
            r"target -?\d+ is out of bounds|index.* out of (range|bounds)",
            "labels are whole numbers from 0 to the number of classes less one",
        ),
        (
            r"mat1 and mat2 shapes|size mismatch|to have \d+ channels|shapes cannot be multiplied",
            "the samples are of another shape than the model's first layer takes",
        ),
        (
            r"same dtype|scalar type|found dtype|not implemented for '(long|int|byte|char|half)",
            "give samples the type of the parameters, such as x.float(), and labels .long()",
        ),
        (r"same device", "move the samples to the device of the model's parameters"),
        (r"no such file|not find the file", "say where the data lie with --data-root"),
        (r"out of memory|can't allocate", "use a smaller --batch-size or a smaller model"),
        (
            r"lacks the method",
            "a task has build_model, load_data, loss and evaluate; or build_model, train and "
            "evaluate; or, of an environment, build_model and make_environment",
        ),
        (
            r"no parameter that requires a gradient",
            "leave requires_grad of what should be learned as torch sets it",
        ),
        (r"gave shape .* not a scalar", "give the mean over the batch: .mean()"),
        (
            r"loss\(\) gave a \w+, not a tensor",
            "give the tensor itself, without .item() or float()",
        ),
        (
            r"evaluate(_local)?\(\) failed.*(could not convert|float\(\) argument|converted to)",
            "give one number, or a dict of numbers by name",
        ),
        (
            r"train\(\) failed.*(could not convert|float\(\) argument|converted to Scalar)",
            "give the mean loss as a number, or nothing",
        ),
        (
            r"the loader gives no batch",
            "use fewer agents, a smaller --batch-size, or drop_last=False",
        ),
        (
            r"(took|moved|changed) .*it must change it in place",
            "copy.deepcopy() it for what is not training",
        ),
        (r"must give a tuple of tensors", "return x, y: each a tensor with one row a sample"),
        (
            r"data differ in shape",
            "bring all shards' samples into one shape before load_data() gives them",
        ),
        (
            r"one and the same length above 0",
            "look at what the file or the partition gives that agent; use fewer agents",
        ),
        (
            r"PathLike object, not NoneType",
            "the data root is None where neither --data-root nor $CANDOR_DATA_ROOT says it",
        ),
        (
            r"TypeError: \S*\b(build_model|load_data|loss|train|eval|evaluate|evaluate_local|"
            r"prepare)\(\) .*(positional argument|unexpected keyword)",
            "docs/howto/tasks.md has the arguments that each method is given",
        ),
    )
)


def advised(message: str) -> str:
    """The message of a task that cannot be used, and what to do about it if that is known."""
    for pattern, hint in _HINTS:
        if message.startswith("task") and pattern.search(message):
            return f"{message}; {hint}"
    if " failed (" in message and ";" not in message:
        return f"{message}; call it by itself in Python to see more"
    return message
