"""For mkdocs: links from a page to files outside docs/, which the site does not have.

On GitHub they work as they are. On the site they lead to the repository if `repo_url` is set, else
only their text stays.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

_OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)\s]+)\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Called by mkdocs with every page's text."""

    def replaced(link: re.Match[str]) -> str:
        text, target = link.groups()
        path = posixpath.normpath(f"docs/{posixpath.dirname(page.file.src_uri)}/{target}")
        if path.startswith("docs/"):
            return link[0]
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/HEAD/{path})"
        return text if text.startswith("`") or " " in text else f"`{text}`"

    return _OUTSIDE.sub(replaced, markdown)
