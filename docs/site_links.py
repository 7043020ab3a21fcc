"""MkDocs hook that makes the repository's links work on the site.

Pages are read in the repository and on the site. In the repository, `../examples/train.py` is a file next to docs/, which a site does not
have. So every file or folder outside docs/ that a page links to becomes a page of the site, starting with README.md, and the links are
adapted. Images stay images. Links to missing files are not changed, and `mkdocs build --strict` rejects them.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

# Files outside docs/ that are pages in the navigation, and their addresses.
PAGES = {
    "index.md": ROOT / "README.md",
    "rooms-tiny.md": ROOT / "mult_hf/checkpoints/rooms-tiny/README.md",
    "indoor.md": ROOT / "mult_hf/checkpoints/indoor/README.md",
    "changelog.md": ROOT / "CHANGELOG.md",
}
PICTURES = {".png", ".jpg", ".svg"}

LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose text is outside docs/, then a page or an image for every other linked file there."""
    for address, path in PAGES.items():
        files.append(File.generated(config, address, content=path.read_text()))
    linked = {path for file in files.documentation_pages() for path in linked_paths(file)}
    for path in sorted(linked):
        if address_of(path) not in files.src_uris:
            content = path.read_bytes() if path.suffix in PICTURES else shown(path)
            files.append(File.generated(config, address_of(path), content=content, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace a page's links to places in the repository by links to places on the site."""

    def turned(match: re.Match[str]) -> str:
        path = resolved(page.file, match[0])
        return os.path.relpath(address_of(path), Path(page.file.src_uri).parent) if path.exists() else match[0]

    return LINK.sub(turned, markdown)


def linked_paths(file: File) -> Iterator[Path]:
    """The repository's files and folders that a page links to."""
    for target in LINK.findall(file.content_string):
        if resolved(file, target).exists():
            yield resolved(file, target)


def resolved(file: File, target: str) -> Path:
    """The path in the repository that a page's link points to."""
    origin = PAGES.get(file.src_uri, DOCS / file.src_uri)
    return (origin.parent / target).resolve()


def address_of(path: Path) -> str:
    """The address on the site of a file in the repository, whether or not it has a page."""
    for address, origin in PAGES.items():
        if path == origin:
            return address
    if path.is_relative_to(DOCS) and path.suffix != ".py":  # the site's hooks are source files, not pages
        return str(path.relative_to(DOCS))
    return f"source/{path.relative_to(ROOT)}" + ".md" * (path.suffix not in PICTURES)


def shown(path: Path) -> str:
    """A page with the contents of a text file, or the names in a folder."""
    if path.is_dir():
        text, language = "\n".join(sorted(child.name + "/" * child.is_dir() for child in path.iterdir())), "text"
    else:
        text, language = path.read_text(), path.suffix.removeprefix(".") or "text"
    return f"# {path.relative_to(ROOT)}\n\n~~~~~~~~{language}\n{text}\n~~~~~~~~\n"
