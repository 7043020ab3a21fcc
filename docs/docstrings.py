"""What the reference must know about this package's docstrings and Griffe, which reads them, does not."""

import re
from collections.abc import Iterator
from typing import Any

import griffe

NAME = re.compile(r"\[`([\w.]+)`\](?![\[(])")


class PackageDocstrings(griffe.Extension):
    """Turns names in brackets into links, and fields into arguments."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Docstrings name objects as transformers' do, [`MulTConfig`]: a link, or plain text where the reference has no such object."""
        for part in parts_of(pkg):
            if part.docstring:
                part.docstring.value = NAME.sub(lambda name, part=part: reference(part, name[1]), part.docstring.value)

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Classes under huggingface_hub's `@strict` and named tuples are made of their fields, like data classes, which Griffe knows."""
        if any(str(decorator.value) == "strict" for decorator in cls.decorators) or "NamedTuple" in map(str, cls.bases):
            fields = [part for part in cls.attributes.values() if part.annotation and "property" not in part.labels]
            keyword = griffe.ParameterKind.keyword_only
            arguments = [griffe.Parameter(part.name, annotation=part.annotation, kind=keyword, default=part.value) for part in fields]
            cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(*arguments)))


def parts_of(whole: griffe.Object) -> Iterator[griffe.Object]:
    """A module or class and all that it defines; what it imports is another's."""
    yield whole
    for part in whole.members.values():
        if not part.is_alias:
            yield from parts_of(part)


def reference(part: griffe.Object, name: str) -> str:
    """The link for a name as it is understood where a docstring stands."""
    try:
        path = part.resolve(name)
    except griffe.NameResolutionError:
        path = f"{part.package.path}.{name}"
    return f"<autoref optional identifier='{path}'><code>{name}</code></autoref>"
