"""Griffe extension for this package's docstrings, used to build the API reference."""

import re
from collections.abc import Iterator
from typing import Any

import griffe

NAME = re.compile(r"\[`([\w.]+)`\](?![\[(])")


class PackageDocstrings(griffe.Extension):
    """Converts names in brackets to links, and fields to arguments."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Replace object names such as [`MulTConfig`] by links, or by plain text if the reference does not contain the object."""
        for part in parts_of(pkg):
            if part.docstring:
                part.docstring.value = NAME.sub(lambda name, part=part: reference(part, name[1]), part.docstring.value)

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Treat fields of named tuples and of huggingface_hub's `@strict` classes as arguments, as Griffe does for data classes."""
        if any(str(decorator.value) == "strict" for decorator in cls.decorators) or "NamedTuple" in map(str, cls.bases):
            fields = [part for part in cls.attributes.values() if part.annotation and "property" not in part.labels]
            keyword = griffe.ParameterKind.keyword_only
            arguments = [griffe.Parameter(part.name, annotation=part.annotation, kind=keyword, default=part.value) for part in fields]
            cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(*arguments)))


def parts_of(whole: griffe.Object) -> Iterator[griffe.Object]:
    """A module or class and everything that it defines, without imported objects."""
    yield whole
    for part in whole.members.values():
        if not part.is_alias:
            yield from parts_of(part)


def reference(part: griffe.Object, name: str) -> str:
    """The link for a name, resolved in the scope of the docstring."""
    try:
        path = part.resolve(name)
    except griffe.NameResolutionError:
        path = f"{part.package.path}.{name}"
    return f"<autoref optional identifier='{path}'><code>{name}</code></autoref>"
