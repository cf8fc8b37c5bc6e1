"""A mapping whose values are made when they are looked up."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")


class Lazy(Mapping[str, T]):
    """Name -> value, in the order of the names. A function makes the value at every access; nothing is cached."""

    def __init__(self, names: Collection[str], make: Callable[[str], T]) -> None:
        """Take the names, and the function that makes the value of one of them."""
        self._names = dict.fromkeys(names)
        self._make = make

    def __contains__(self, name: object) -> bool:
        # Mapping's own method would make the value
        return name in self._names

    def __getitem__(self, name: str) -> T:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
