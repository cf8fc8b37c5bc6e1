"""A mapping of names to tensors that makes each tensor on access."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T", covariant=True)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Supports(Generic[T]):
    """Supports that need not be decoded, because a tensor of another mapping has the same ones."""

    origin: Callable[[str], Hashable]
    """Returns what the support of a name is decoded from, None if it has none; equal origins mean equal supports."""
    load: Callable[[str, T], T]
    """Makes the tensor of a name, which takes the support of another tensor whose origin is equal."""


class Lazy(Mapping[str, T]):
    """A mapping in sorted order whose values, tensors or bytes, a function makes on each access; nothing is cached."""

    def __init__(
        self,
        names: Iterable[str],
        make: Callable[[str], T],
        like: Callable[[str], T] | None = None,
        digest: Callable[[str], str] | None = None,
        unchecked: Callable[[str], T] | None = None,
        supports: Supports[T] | None = None,
    ) -> None:
        self._names = dict.fromkeys(sorted(names))
        self._make = make
        self._like = like or make
        self.digest = digest
        """Returns the content digest (FMT-091) of a name; None unless `make` compares each tensor with its digest."""
        self._unchecked = unchecked or make
        self.supports = supports
        """None if supports are made anew on each access."""

    def __getitem__(self, name: str) -> T:
        """Return the tensor of a name. KeyError if there is none; otherwise whatever the function raises."""
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def like(self, name: str) -> T:
        """Return a tensor with the dtype and shape of `self[name]`; its values may differ, because that saves work."""
        if name not in self._names:
            raise KeyError(name)
        return self._like(name)

    def unchecked(self, name: str) -> T:
        """Return the tensor of a name without comparing it with `digest`; the caller must hash and compare it."""
        if name not in self._names:
            raise KeyError(name)
        return self._unchecked(name)

    def __contains__(self, name: object) -> bool:
        # because Mapping.__contains__ would make the tensor
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
    """Return a tensor and the content digest (FMT-091) that the caller must compare with it; None if it is unknown."""
    if isinstance(tensors, Lazy) and tensors.digest is not None:
        return tensors.unchecked(name), tensors.digest(name)
    return tensors[name], None


def watched(tensors: Mapping[str, V], progress: Callable[[str, int], None]) -> Lazy[V]:
    """Return a mapping that calls `progress`, with the name and the number of all, when a tensor is first read."""
    names_read = set[str]()

    def read(name: str, tensor: V) -> V:
        if name not in names_read:
            names_read.add(name)
            progress(name, len(tensors))
        return tensor

    return Lazy(
        tensors,
        lambda name: read(name, tensors[name]),
        lambda name: like(tensors, name),
        tensors.digest if isinstance(tensors, Lazy) else None,
        lambda name: read(name, promised(tensors, name)[0]),
    )
