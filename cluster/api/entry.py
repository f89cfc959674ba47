"""Python functions whose keywords are the fields of a request."""

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature
from typing import Any, ParamSpec, TypeVar

from ...storage.options import Options
from ..bars import showing_progress
from ..requests import Keywords, Session

P = ParamSpec("P")
Request = TypeVar("Request", bound=Options)
Result = TypeVar("Result")


def entry(
    call: Callable[P, Options], request: type[Request]
) -> Callable[[Callable[[Request, Session], Result]], Callable[P, Result]]:
    """Turn a function of a request and a session into a function of the request's fields, by position or by keyword.

    `call` is a class with the fields of the request and of `Keywords`, from which type checkers take the function's
    parameters.
    """

    def decorate(function: Callable[[Request, Session], Result]) -> Callable[P, Result]:
        fields = request.model_fields
        positional = [name for name, field in fields.items() if field.kw_only is False]

        @wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> Result:
            if len(args) > len(positional):
                raise TypeError(f"{function.__name__}() takes {len(positional)} positional arguments, not {len(args)}")
            values: dict[str, Any] = dict(zip(positional, args, strict=False))
            if twice := values.keys() & kwargs.keys():
                raise TypeError(f"{function.__name__}() got multiple values for argument '{min(twice)}'")
            values |= kwargs
            keywords = {name: values.pop(name) for name in Keywords.model_fields if name in values}
            own = Keywords.parse(keywords)
            with showing_progress(own.listener, own.progress) as listener:
                return function(request.parse(values), Session(listener=listener, client=own.client))

        called.__signature__ = signature_of(request)  # type: ignore[attr-defined]
        return called

    return decorate


def signature_of(request: type[Options]) -> Signature:
    """The signature to show in help() and notebooks."""
    parameters = [
        Parameter(
            name,
            Parameter.POSITIONAL_OR_KEYWORD if field.kw_only is False else Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.is_required() else field.get_default(call_default_factory=True),
            annotation=field.annotation,
        )
        for kind in (request, Keywords)
        for name, field in kind.model_fields.items()
    ]
    return Signature(sorted(parameters, key=lambda one: (one.kind, one.default is not Parameter.empty)))
