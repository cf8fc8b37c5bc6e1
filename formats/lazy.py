"""A mapping of names to tensors that makes each tensor on access."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T", covariant=True)


class Lazy(Mapping[str, T]):
    """Name -> tensor or bytes, in sorted order, which a function makes on every access; nothing is cached."""

    def __init__(
        self,
        names: Iterable[str],
        make: Callable[[str], T],
        like: Callable[[str], T] | None = None,
        digest: Callable[[str], str] | None = None,
        unchecked: Callable[[str], T] | None = None,
    ) -> None:
        self._names = dict.fromkeys(sorted(names))
        self._make = make
        self._like = like or make
        self.digest = digest
        """Name -> content digest (FMT-091), if `make` compares each tensor with it before it returns; or None."""
        self._unchecked = unchecked or make

    def __getitem__(self, name: str) -> T:
        """Return the tensor of a name. KeyError if there is none; otherwise whatever the function raises."""
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def like(self, name: str) -> T:
        """Return a tensor with the dtype and shape of `self[name]`; its values may differ, where those take work."""
        if name not in self._names:
            raise KeyError(name)
        return self._like(name)

    def unchecked(self, name: str) -> T:
        """Return the tensor of a name without comparing it with `digest`: the caller hashes it, and compares."""
        if name not in self._names:
            raise KeyError(name)
        return self._unchecked(name)

    def __contains__(self, name: object) -> bool:
        # defined here, because the one of Mapping would make the tensor
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def like(tensors: Mapping[str, T], name: str) -> T:
    """Return a tensor of the dtype and shape of `tensors[name]`, made with as little work as the mapping knows."""
    tensor: T = getattr(tensors, "like", tensors.__getitem__)(name)
    return tensor


def promised(tensors: Mapping[str, T], name: str) -> tuple[T, str | None]:
    """Return a tensor and its content digest (FMT-091), which the caller has to compare; None if none is known."""
    if isinstance(tensors, Lazy) and tensors.digest is not None:
        return tensors.unchecked(name), tensors.digest(name)
    return tensors[name], None
