"""A decorator that gives a function a sandbox of its own."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from . import _spec as spec

P = ParamSpec("P")
R = TypeVar("R")

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._async._sandbox import AsyncSandbox
    from ._options import SandboxOptions
    from ._sync._sandbox import Sandbox

    class Decorator(Protocol):
        """Takes the sandbox away from a function's parameters."""

        @overload
        def __call__(
            self, function: Callable[Concatenate[AsyncSandbox, P], Awaitable[R]], /
        ) -> Callable[P, Coroutine[Any, Any, R]]: ...

        @overload
        def __call__(self, function: Callable[Concatenate[AsyncSandbox, P], R], /) -> Callable[P, R]: ...

        @overload
        def __call__(self, function: Callable[Concatenate[Sandbox, P], R], /) -> Callable[P, R]: ...

        @overload
        def __call__(self, function: Callable[..., R], /) -> Callable[..., R]: ...


@overload
def sandboxed(
    function: Callable[Concatenate[AsyncSandbox, P], Awaitable[R]], /
) -> Callable[P, Coroutine[Any, Any, R]]: ...


@overload
def sandboxed(function: Callable[Concatenate[AsyncSandbox, P], R], /) -> Callable[P, R]: ...


@overload
def sandboxed(function: Callable[Concatenate[Sandbox, P], R], /) -> Callable[P, R]: ...


@overload
def sandboxed(*, parameter: str = "sandbox", **options: Unpack[SandboxOptions]) -> Decorator: ...


def sandboxed(function: Any = None, /, *, parameter: str = "sandbox", **options: Any) -> Any:
    """Makes a function run with a fresh sandbox, which is gone when it returns or raises.

        @sandboxed(image="python:3.12", network=["pip"])
        def run_tests(sandbox: Sandbox, code: str) -> str:
            sandbox.files.write("test_it.py", code)
            return sandbox.commands.run("pytest -q").stdout

        run_tests("def test(): assert 1")

    The parameter ``sandbox``, or of the name that ``parameter`` says, is filled in: it is
    neither in the signature nor in the annotations of what is returned, so that frameworks
    for agents that make schemas of functions do not show it to a model. Type checkers follow
    where it is the first parameter. A coroutine function and an asynchronous generator get an
    AsyncSandbox, everything else a Sandbox; that of a generator lives until it is exhausted
    or closed. Takes what Sandbox takes, but for ``keep`` and ``reuse``.
    """
    spec.check("parameter", parameter, str)
    for taken in ("keep", "reuse", "transport"):
        if taken in options:
            raise TypeError(f"{taken} is not for sandboxed: its sandboxes end with the function")
    # Wrong options are told here, and not with the first call.
    _class(False)(**{"url": "unix:///not-used", **options})

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        return _wrap(function, parameter, options)

    return decorate if function is None else decorate(function)


def _class(asynchronous: bool) -> type[Any]:
    if asynchronous:
        from ._async._sandbox import AsyncSandbox

        return AsyncSandbox
    from ._sync._sandbox import Sandbox

    return Sandbox


def _wrap(function: Callable[..., Any], parameter: str, options: dict[str, Any]) -> Callable[..., Any]:
    if not callable(function):
        raise TypeError(f"sandboxed is for functions, not for {type(function).__name__}")
    injected = _Injected(function, parameter)
    wrapper: Any

    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            call = injected.bind(args, kwargs)
            async with _class(True)(**options) as sandbox:
                pieces = call(sandbox)
                try:
                    async for piece in pieces:
                        yield piece
                finally:
                    await pieces.aclose()

    elif inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            call = injected.bind(args, kwargs)
            async with _class(True)(**options) as sandbox:
                return await call(sandbox)

    elif inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            call = injected.bind(args, kwargs)
            with _class(False)(**options) as sandbox:
                return (yield from call(sandbox))

    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            call = injected.bind(args, kwargs)
            with _class(False)(**options) as sandbox:
                return call(sandbox)

    wrapper.__signature__ = injected.signature
    wrapper.__annotations__ = injected.annotations
    return cast("Callable[..., Any]", wrapper)


class _Injected:
    """A function without one of its parameters, which is filled in."""

    def __init__(self, function: Callable[..., Any], parameter: str) -> None:
        self._function = function
        self._name = parameter
        whole = inspect.signature(function)
        if parameter not in whole.parameters:
            hint = "give it one, or name it with parameter="
            raise TypeError(f"{_name(function)} has no parameter {parameter!r} for the sandbox; {hint}")
        self._kind = whole.parameters[parameter].kind
        self._index = list(whole.parameters).index(parameter)
        self._check(whole.parameters[parameter].annotation)
        self.annotations = _resolved(function, parameter)
        others = [p for name, p in whole.parameters.items() if name != parameter]
        self.signature = inspect.Signature(
            [p.replace(annotation=self.annotations.get(p.name, p.annotation)) for p in others],
            return_annotation=self.annotations.get("return", whole.return_annotation),
        )

    def _check(self, annotation: object) -> None:
        if self._kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise TypeError(f"{self._name!r} of {_name(self._function)} is not one parameter")
        function = self._function
        kinds = ["Sandbox", "AsyncSandbox"]
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            kinds.reverse()
        name = str(getattr(annotation, "__name__", annotation)).rsplit(".", 1)[-1]
        if name == kinds[1]:
            raise TypeError(f"{_name(function)} gets {kinds[0]} for {self._name!r}, not {kinds[1]}")

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[Any], Any]:
        """Returns the call, once its arguments are known to fit, which needs no sandbox."""
        bound = self.signature.bind(*args, **kwargs)
        if self._name in kwargs:
            raise TypeError(f"{_name(self._function)} is given its {self._name!r} by itself")
        at, keyword = self._index, self._kind is inspect.Parameter.KEYWORD_ONLY
        if self._kind is inspect.Parameter.POSITIONAL_ONLY:
            bound.apply_defaults()
            args, kwargs = bound.args, bound.kwargs
        elif len(args) < at:  # those before it were given by their names
            keyword = True

        def call(sandbox: Any) -> Any:
            if keyword:
                return self._function(*args, **kwargs, **{self._name: sandbox})
            return self._function(*args[:at], sandbox, *args[at:], **kwargs)

        return call


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", function))


def _resolved(function: Callable[..., Any], parameter: str) -> dict[str, Any]:
    """Returns the annotations but for the parameter's. Those that are text are looked up
    where the function is: who sees the wrapper would look for them here."""
    annotations = {k: v for k, v in getattr(function, "__annotations__", {}).items() if k != parameter}
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    for name, value in annotations.items():
        if isinstance(value, str):
            bare = types.SimpleNamespace(__annotations__={name: value})
            try:
                annotations[name] = typing.get_type_hints(bare, scope, include_extras=True)[name]
            except Exception:  # noqa: BLE001, S112 - a name that only type checkers know stays text
                continue
    return annotations
