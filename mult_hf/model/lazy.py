"""A dictionary whose values are computed when they are first accessed."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple


class _Maker(NamedTuple):
    """Placeholder for a value that has not been accessed yet."""

    make: Callable[[], Any]


if TYPE_CHECKING:
    _Base = dict[Any, Any]  # to a type checker, `dict` is a subclass of `MutableMapping`, and cannot follow it
else:

    class _Base(MutableMapping, dict):
        """A dictionary whose reading methods are those of `MutableMapping`, which read values by `__getitem__`."""


class LazyDict(_Base):
    """A dictionary that computes each value on first access, and then keeps it.

    It is equal to the plain dictionary of its values. Copies and pickles are plain dictionaries, with all values computed.

    Args:
        makers: functions without arguments by key.

    Examples:
        >>> lazy = LazyDict({"image": lambda: print("made") or 3})
        >>> list(lazy), "image" in lazy
        (['image'], True)
        >>> lazy["image"], lazy["image"]
        made
        (3, 3)
    """

    def __init__(self, makers: Mapping[Any, Callable[[], Any]]) -> None:
        for key, make in makers.items():
            self[key] = _Maker(make)

    def __getitem__(self, key: Any) -> Any:
        value = dict.__getitem__(self, key)
        if isinstance(value, _Maker):
            value = self[key] = value.make()
        return value

    # `MutableMapping` comes first, so its methods read values through `__getitem__`. The following methods read none.
    __setitem__ = dict.__setitem__
    __delitem__ = dict.__delitem__
    __len__ = dict.__len__
    __contains__ = dict.__contains__
    __reversed__ = dict.__reversed__
    clear = dict.clear

    def __iter__(self) -> Iterator[Any]:
        return dict.__iter__(self)  # without this method, `dict(lazy)` and `{**lazy}` would copy makers

    def copy(self) -> dict[Any, Any]:
        """A plain dictionary of the same values."""
        return dict(self)

    def __or__(self, other: Any) -> Any:
        return dict(self) | other

    def __ror__(self, other: Any) -> Any:
        return other | dict(self)

    def __repr__(self) -> str:
        return repr(dict(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


__all__ = ["LazyDict"]
