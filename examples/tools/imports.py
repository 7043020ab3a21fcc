"""Draw the imports between the package's folders from its source: components, arrows, and upward arrows.

    python examples/tools/imports.py                                   # the working tree, as text
    python examples/tools/imports.py --revision 2b4a228 --format mermaid
    python examples/tools/imports.py --files                           # between files instead of folders

A component is a folder of the package, or a file next to these folders. An arrow means that one component imports another; imports for
type checks do not count. `--order` lists components from bottom to top. Arrows to a later component point upwards, and so do all arrows
of cycles between unlisted components. The package is read, not imported.
"""

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mult_hf.cli.arguments import flag, parse_arguments

ROOT = Path(__file__).resolve().parents[2]
# The public names of `__init__` are for users; inside the package, only commands may import them.
ORDER = ["model", "metrics", "data", "inference", "evaluation", "training", "serving", "__init__", "cli", "__main__"]

Source = Mapping[str, str]
"""Text of each Python file by its path within the package."""


@dataclass
class DrawingArguments:
    """Settings of the drawing; each field is a flag."""

    package: str = flag("mult_hf", "directory of the package, relative to the repository")
    repository: Path = flag(ROOT, "directory of the repository")
    revision: str | None = flag(None, "git revision to draw; the working tree by default")
    files: bool = flag(False, "draw files instead of folders")
    order: list[str] = flag(ORDER, "components from bottom to top")
    format: Literal["text", "mermaid"] = flag("text", "mermaid: for Markdown pages")


def read_package(arguments: DrawingArguments) -> Source:
    """Read the Python files of the package.

    Raises:
        ValueError: if there are none, or git does not find the revision.
    """
    root = arguments.repository / arguments.package
    if arguments.revision is None:
        found = {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*.py"))}
    else:
        listed = _git(arguments.repository, "ls-tree", "-r", "--name-only", arguments.revision, f"{arguments.package}/").splitlines()
        found = {
            name.removeprefix(f"{arguments.package}/"): _git(arguments.repository, "show", f"{arguments.revision}:{name}")
            for name in listed
            if name.endswith(".py")
        }
    if not found:
        raise ValueError(f"{root} has no Python files{f' at {arguments.revision}' if arguments.revision else ''}; give another --package")
    return found


def _git(repository: Path, *argv: str) -> str:
    run = subprocess.run(["git", "-C", str(repository), *argv], capture_output=True, text=True)
    if run.returncode:
        raise ValueError(f"git {' '.join(argv)} failed: {run.stderr.strip()}")
    return run.stdout


def imported_modules(text: str, package: str, path: str) -> Iterator[str]:
    """Absolute names that a file imports: modules, and names in modules, which may also be modules.

    Args:
        text: text of the file.
        package: name of the package.
        path: path of the file within the package.
    """
    here = [package, *Path(path).parts[:-1]]
    for node in _runtime_nodes(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes except those under `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        yield node
        yield from _runtime_nodes(node)


def module_name(path: str) -> str:
    """`data/check.py` -> `data.check`, and a folder's `__init__.py` -> the folder."""
    parts = Path(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def component_of(module: str, *, files: bool) -> str:
    """The component that contains a module of the package."""
    return module if files else module.split(".")[0]


def find_arrows(source: Source, package: str, *, files: bool = False) -> tuple[list[str], list[tuple[str, str]]]:
    """The components of a package, and the imports between them.

    Args:
        source: source of the package.
        package: name of the package.
        files: whether files, instead of folders, are components.

    Returns:
        Components, and arrows from the importing component to the imported one; both sorted.
    """
    modules = {module_name(path): path for path in source}
    components = {component_of(module, files=files) for module in modules}
    arrows = set()
    for module, path in modules.items():
        for name in imported_modules(source[path], package, path):
            if name.split(".")[0] != package:
                continue
            target = _longest_module(name.partition(".")[2], modules)
            arrow = (component_of(module, files=files), component_of(target, files=files))
            if arrow[0] != arrow[1]:
                arrows.add(arrow)
    return sorted(components), sorted(arrows)


def _longest_module(name: str, modules: Iterable[str]) -> str:
    """`model.tasks.TaskSpec` -> `model.tasks`, and a name of the package itself -> `__init__`."""
    parts = name.split(".")
    return next((".".join(parts[:end]) for end in range(len(parts), 0, -1) if ".".join(parts[:end]) in modules), "__init__")


def upward_arrows(arrows: Iterable[tuple[str, str]], order: Sequence[str]) -> list[tuple[str, str]]:
    """Arrows to a component that is later in the order, and arrows of cycles between components that are not in the order."""
    arrows = list(arrows)
    rank = {component: number for number, component in enumerate(order)}

    def is_upward(start: str, end: str) -> bool:
        first, second = (rank.get(component.split(".")[0]) for component in (start, end))
        if first is None or second is None or first == second:
            return start in _reached_from(end, arrows)
        return second > first

    return [arrow for arrow in arrows if is_upward(*arrow)]


def _reached_from(component: str, arrows: Iterable[tuple[str, str]]) -> set[str]:
    """The component and all components that it imports, directly or indirectly."""
    reached, new = set(), {component}
    while new:
        reached |= new
        new = {end for start, end in arrows if start in new} - reached
    return reached


def draw_text(components: Sequence[str], arrows: Sequence[tuple[str, str]], upward: Sequence[tuple[str, str]]) -> str:
    """One line per component with its imports; `^` marks upward arrows."""
    width = max(map(len, components))
    lines = []
    for component in components:
        targets = [f"^{end}" if (start, end) in upward else end for start, end in arrows if start == component]
        lines.append(f"{component:{width}} -> {', '.join(targets)}" if targets else component)
    return "\n".join(lines)


def draw_mermaid(components: Sequence[str], arrows: Sequence[tuple[str, str]], upward: Sequence[tuple[str, str]]) -> str:
    """A flowchart; upward arrows are dotted."""
    lines = ["flowchart TD", *(f'    {_identifier(component)}["{component}"]' for component in components)]
    lines += [f"    {_identifier(start)} {'-.->' if (start, end) in upward else '-->'} {_identifier(end)}" for start, end in arrows]
    return "\n".join(lines)


def _identifier(component: str) -> str:
    return "component_" + component.replace(".", "_")  # Mermaid reserves words such as `end`


DRAWINGS = {"text": draw_text, "mermaid": draw_mermaid}


def main(argv: Sequence[str] | None = None) -> None:
    """Read, draw, count.

    Args:
        argv: the flags; by default those of this process.
    """
    arguments = parse_arguments(DrawingArguments, sys.argv[1:] if argv is None else argv, __doc__.split("\n")[0])
    components, arrows = find_arrows(read_package(arguments), Path(arguments.package).name, files=arguments.files)
    upward = upward_arrows(arrows, arguments.order)
    print(DRAWINGS[arguments.format](components, arrows, upward))
    print(f"\n{len(components)} components, {len(arrows)} arrows, {len(upward)} of them upwards")


if __name__ == "__main__":
    main()
