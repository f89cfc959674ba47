"""Errors of the user's model and loss, apart from those that another attempt may not meet: lack of memory, a broken
connection between ranks."""

from collections.abc import Iterator
from contextlib import contextmanager

from ...storage.errors import FoldstreamError, ModelError
from ...storage.programs.user_code import describe_error

PASSING = "gloo/", "NCCL", "out of memory", "not enough memory", "can't allocate memory"
"""What a plain RuntimeError of torch says where it is no error of the model."""
UNUSED = "find_unused_parameters"  # in DistributedDataParallel's message about parameters without a gradient


@contextmanager
def errors_of_model(what: str) -> Iterator[None]:
    """Raise ModelError, with the line of the user's code if there is one, for an error that another attempt would meet
    too. `what` names what is done inside, as "the forward pass"."""
    try:
        yield
    except FoldstreamError:
        raise
    except Exception as error:  # user code may raise anything
        if may_pass(error):
            raise
        if UNUSED in str(error):
            raise ModelError(
                f"{what}: some parameters got no gradient in a batch, which several workers must know of; start a new "
                f"run with --set {UNUSED}=true"
            ) from error
        raise ModelError(f"{what}: {describe_error(error)}") from error


def may_pass(error: Exception) -> bool:
    """Whether an error that a model's pass has raised may not recur."""
    import torch
    import torch.distributed as dist

    if isinstance(error, torch.AcceleratorError):
        return "device-side assert" not in str(error)  # an index out of range, for one
    if isinstance(error, MemoryError | OSError | torch.OutOfMemoryError | dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in PASSING)
