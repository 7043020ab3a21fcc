"""A dictionary whose values are made when they are asked for."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple


class _Maker(NamedTuple):
    """Stands for a value that was not asked for yet."""

    make: Callable[[], Any]


if TYPE_CHECKING:
    _Base = dict[Any, Any]  # where types are checked, `dict` is a `MutableMapping` itself, and cannot follow it
else:

    class _Base(MutableMapping, dict):
        """A dictionary whose reading methods are those of `MutableMapping`, which read values by `__getitem__`."""


class LazyDict(_Base):
    """A dictionary that makes each value when it is first asked for, and then keeps it.

    It is equal to the plain dictionary of its values. Copies and pickles are plain dictionaries, with every value made.

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

    # Where `MutableMapping` comes first, what reads values reads them by `__getitem__`; these methods read none.
    __setitem__ = dict.__setitem__
    __delitem__ = dict.__delitem__
    __len__ = dict.__len__
    __contains__ = dict.__contains__
    __reversed__ = dict.__reversed__
    clear = dict.clear

    def __iter__(self) -> Iterator[Any]:
        return dict.__iter__(self)  # in Python, since `dict(lazy)` and `{**lazy}` copy makers from a class without its own

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
