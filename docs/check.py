"""Check what the documentation says about the repository: ``python docs/check.py``.

Every relative link, every path, job, option, make target, setting, module and error message that a
page mentions must exist. Prints one line a mistake and leaves with 1 if there are any.
"""

from __future__ import annotations

import ast
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.settings import build, load

ROOT = Path(__file__).resolve().parents[1]
_FOLDERS = (
    ".ci .github benchmarks configs docs examples jobs observe pipeline tests".replace(" ", "|")
).replace(".", r"\.")
_PATH = re.compile(rf"(?<![\w./-])((?:{_FOLDERS})/[\w./*-]*[\w*])")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_MODULE = re.compile(r"(?<![\w./-])pipeline(?:\.\w+)+")
_SETTING = re.compile(r"([a-z_]+(?:\.[a-z0-9_]+)*)=(.*)", re.DOTALL)
_SUFFIXES = (".json", ".jsonl", ".md", ".npy", ".npz", ".parquet", ".py", ".yaml", ".yml")


@dataclass(frozen=True)
class Page:
    """A Markdown page in its parts.

    Attributes:
        place: its file.
        text: all of it.
        prose: it without fenced blocks.
        blocks: (language, text) of every fenced block.
    """

    place: Path
    text: str
    prose: str
    blocks: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, place: Path) -> Page:
        text = place.read_text()
        fenced = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
        return cls(place, text, fenced.sub("", text), tuple(fenced.findall(text)))

    @property
    def code_spans(self) -> list[str]:
        return re.findall(r"`([^`\n]+)`", self.prose)

    @property
    def commands(self) -> list[list[str]]:
        """The words of every command in a block without a language, or in a code span."""
        spans = [span for span in self.code_spans if span.startswith(("python ", "make "))]
        lines = [line for language, text in self.blocks if not language for line in _joined(text)]
        parts = [part for line in [*lines, *spans] for part in re.split(r" && | \|\| ", line)]
        return [words for part in parts if (words := _words(part.strip(" ()&")))]


def pages(root: Path = ROOT) -> list[Page]:
    """The pages that are checked."""
    single = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")
    places = [root / name for name in single] + sorted((root / "docs").rglob("*.md"))
    return [Page.of(place) for place in places if place.exists()]


def problems(page: Page) -> list[str]:
    """What a page says that is not so, each in one line."""
    checks = (links, paths, modules, commands, settings, messages)
    return [problem for check in checks for problem in check(page)]


def links(page: Page) -> Iterator[str]:
    for target in _LINK.findall(page.prose):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        place = (page.place.parent / path).resolve() if path else page.place
        if not place.exists():
            yield f"the link {target} leads nowhere"
        elif anchor and place.suffix == ".md" and anchor not in _anchors(place.read_text()):
            yield f"the link {target} names a heading that is not there"


def paths(page: Page) -> Iterator[str]:
    for path in _PATH.findall(page.text):
        if not any(ROOT.glob(path)):
            yield f"there is no {path}"


def modules(page: Page) -> Iterator[str]:
    for dotted in _MODULE.findall(page.text):
        if not _is_module(dotted) and not _is_name(dotted):
            yield f"there is no module or name {dotted}"
    for language, text in page.blocks:
        if language == "python":
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline"):
                    for name in node.names:
                        dotted = f"{node.module}.{name.name}"
                        if not _is_module(dotted) and not _is_name(dotted):
                            yield f"{node.module} has no {name.name}"


def commands(page: Page) -> Iterator[str]:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in page.commands:
        if words[0] == "make" and words[1] not in targets:
            yield f"the Makefile has no target {words[1]}"
        scripts = [n for n, word in enumerate(words) if word.endswith(".py")]
        if not scripts:
            continue
        script, arguments = words[scripts[0]], words[scripts[0] + 1 :]
        source = ROOT / script.removeprefix("/home/ray/xdc-ray/")
        if not source.exists():
            yield f"there is no {script}"
            continue
        for word in arguments:
            if word.startswith("--") and f'"{word.partition("=")[0]}"' not in source.read_text():
                yield f"{script} has no option {word}"


def settings(page: Page) -> Iterator[str]:
    """Keys must exist; values, where they are real ones, must fit, all of a command together."""
    if page.place.name == "CHANGELOG.md":  # may name settings that are gone
        return
    sections = "|".join(k for k in _keys() if "." not in k and f"{k}." in "".join(_keys()))
    for span in page.code_spans:
        yield from _wrong([span])
        plain = re.fullmatch(rf"(?:{sections})\.[a-z0-9_.]+", span)
        other = span.endswith(_SUFFIXES) or _is_module(f"pipeline.{span}")
        if plain and span not in _keys() and not other:
            yield f"there is no setting {span}"
    for words in page.commands:
        if any(word.endswith(".py") for word in words):
            yield from _wrong(words)
    for language, text in page.blocks:
        if language == "yaml":
            try:
                build(yaml.safe_load(text))
            except UserError as error:
                yield str(error)


def messages(page: Page) -> Iterator[str]:
    """On the page of error messages: each is in the code, ``…`` standing for what varies."""
    if page.place.name != "troubleshooting.md":
        return
    for message in re.findall(r"^\*\*`(.+)`\*\*$", page.prose, re.MULTILINE):
        pieces = [re.escape(piece.strip()) for piece in message.split("…") if piece.strip()]
        if not any(re.search(".*".join(pieces), text, re.DOTALL) for text in _strings()):
            yield f"no code says {message!r}"


def _wrong(words: list[str]) -> Iterator[str]:
    real = []
    for word in words:
        found = _SETTING.fullmatch(word)
        if not found or word == "key=value":
            continue
        key, value = found.groups()
        if key not in _keys():
            yield f"there is no setting {key}"
        elif value and "…" not in value and not value.isupper():
            real.append(word)
    try:
        load(real)
    except UserError as error:
        yield str(error)


def _joined(text: str) -> list[str]:
    return text.replace("\\\n", " ").splitlines()


def _words(command: str) -> list[str]:
    """The words of a command, those inside ``NAME="…"`` too."""
    try:
        words = shlex.split(command, comments=True)
    except ValueError:
        return []
    inner = [word.partition("=")[2].split() for word in words if re.match(r"[A-Z]+=.* ", word)]
    return [*words, *(word for some in inner for word in some)]


def _anchors(text: str) -> set[str]:
    """Of all headings, by the rule on which GitHub and mkdocs agree for plain words."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.strip()).lower().replace(" ", "-") for h in headings}


@cache
def _keys() -> frozenset[str]:
    return frozenset(_keys_of(Config, ""))


def _keys_of(section: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, info in section.model_fields.items():
        kind: Any = info.annotation
        yield f"{prefix}{name}"
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _keys_of(kind, f"{prefix}{name}.")


def _is_module(dotted: str) -> bool:
    place = ROOT / dotted.replace(".", "/")
    return place.is_dir() or place.with_suffix(".py").exists()


def _is_name(dotted: str) -> bool:
    """Whether a module defines or imports the name."""
    module, _, name = dotted.rpartition(".")
    place = ROOT / module.replace(".", "/")
    source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    if not source.exists():
        return False
    defined: set[str] = set()
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            defined.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            defined.add(ast.unparse(target))
    return name in defined


@cache
def _strings() -> tuple[str, ...]:
    """Every text in the code; what an f-string fills in is left out."""
    found = []
    for folder in ("jobs", "pipeline"):
        for source in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(source.read_text())):
                if isinstance(node, ast.JoinedStr):
                    parts = [p.value for p in node.values if isinstance(p, ast.Constant)]
                    found.append("…".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return tuple(found)


def main() -> int:
    found = [f"{page.place.relative_to(ROOT)}: {p}" for page in pages() for p in problems(page)]
    print("\n".join(found) or f"{len(pages())} pages say nothing wrong")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
