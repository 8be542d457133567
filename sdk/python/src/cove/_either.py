"""A method that the class has as well, with another meaning."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

P = ParamSpec("P")
Q = ParamSpec("Q")
S = TypeVar("S")
R = TypeVar("R")
C = TypeVar("C")


class either(Generic[S, P, R, Q, C]):
    """Makes ``thing.method()`` one function and ``Thing.method(...)`` another."""

    def __init__(self, method: Callable[Concatenate[S, P], R], of_class: Callable[Q, C]) -> None:
        functools.update_wrapper(self, method)  # type: ignore[arg-type] # for what reads documentation
        self._method = method
        self._of_class = of_class

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> Callable[Q, C]: ...

    @overload
    def __get__(self, instance: S, owner: type[Any]) -> Callable[P, R]: ...

    def __get__(self, instance: S | None, owner: type[Any]) -> Any:
        if instance is None:
            return self._of_class
        return functools.partial(self._method, instance)
