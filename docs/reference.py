"""Write the pages of docs/reference/ from the code: ``python docs/reference.py``.

Two pages: every setting (from `pipeline.config`) and every file and table of a run (from the
schemas and from the docstring of `pipeline.run`). A test checks that the committed pages are up to
date.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from pathlib import Path
from types import ModuleType

import pyarrow as pa
from pydantic import BaseModel

from pipeline import config, run
from pipeline.clips import cut_tables, rejects, table
from pipeline.curation import selection_tables, verdicts
from pipeline.section import WHERE
from pipeline.setting_comments import (
    as_written,
    comment_at,
    comment_of,
    sections,
    setting_comments,
    takes,
    tree,
)
from pipeline.vectors import vector_table

FOLDER = Path(__file__).resolve().parent / "reference"
_MADE = "<!-- Made by docs/reference.py. Change the code and run it again. -->\n"
# Columns whose name needs a word that the schema does not say.
_COLUMNS = {
    "uri": "where the file is: a path or a URI",
    "start_s": "first second of the window",
    "end_s": "last second of the window",
    "fps": "frames a second of the file",
    "rotation": "degrees that the file asks to be turned by",
    "has_video": "the file has a video track that decodes",
    "has_audio": "the file has an audio track that decodes",
    "audio_rate": "samples a second of the file",
    "channels": "audio channels of the file",
    "clip_id": "the clip, where it has an id",
    "stage": "list, probe, embed or learn",
    "reason": "one of the reasons below",
    "detail": "what the decoder or the storage said",
    "attempt": "how often it was tried",
    "label": "for evaluation only",
    "split": "train, test or another name",
}


def pages() -> dict[Path, str]:
    """Path → text of every generated page."""
    return {FOLDER / "settings.md": settings_page(), FOLDER / "files.md": files_page()}


# -- settings ----------------------------------------------------------------------------------


def settings_page() -> str:
    """Every key of `config.Config` with its default, what it takes and what it does."""
    said = setting_comments()
    parts = list(sections(config.Config))
    keys = sum(len(fields) for _, _, fields, _ in parts)
    lines = [
        _MADE,
        "# Settings\n",
        f"There are {keys} settings. Each has a default. Set them in YAML files, or as "
        "`key=value` after the file names. Later ones win. An unknown key is an error.\n",
        "The resolved settings are saved as `config.yaml` in the run directory. Only keys marked "
        "with ● may change in a run that was begun. They say where, when or how long work runs, "
        "never what comes out of it.\n",
    ]
    for prefix, section, fields, free in parts:
        lines.append(f"## {prefix or 'The run'}\n")
        if section.__doc__ and section.__doc__ != BaseModel.__doc__:
            lines.append(f"{_in_one_line(section.__doc__)}\n")
        lines += ["| key | | default | takes | what it does |", "|---|---|---|---|---|"]
        for name, info in fields:
            meaning = info.description or comment_at(said, section, name)
            key = f"{prefix}.{name}" if prefix else name
            mark = "●" if free or WHERE in info.metadata else ""
            cells = (f"`{key}`", mark, f"`{as_written(info.default)}`", takes(info), meaning)
            lines.append(f"| {' | '.join(map(_cell, cells))} |")
        lines.append("")
    return "\n".join(lines)


# -- files -------------------------------------------------------------------------------------


def files_page() -> str:
    """The run directory's layout and the schema of every table in it."""
    layout = re.search(r"\n\n((?:    .*\n)+)", inspect.getdoc(run) or "")
    assert layout, "the docstring of pipeline/run.py shows no layout"
    reasons, left_out = members_comments(rejects), members_comments(verdicts)
    lines = [
        _MADE,
        "# Files of a run\n",
        "[The run directory](../run-directory.md) explains what they are for.\n",
        "## Layout\n",
        "```text",
        textwrap.dedent(layout[1]).rstrip(),
        "```\n",
        "## Cuts table: what you may give to `jobs/index.py`\n",
        "CSV, TSV or Parquet, or a folder of such files. `label` and `split` may be missing.\n",
        *_schema(cut_tables.SCHEMA, cut_tables),
        "## Clips table: `clips/*.parquet`\n",
        f"One row a clip. Schema version {table.SCHEMA_VERSION}.\n",
        *_schema(table.SCHEMA, table),
        "## Rejects table: `rejects/*.parquet`, `rounds/*/rejects/*.parquet`\n",
        "One row for every input or clip that could not be used.\n",
        *_schema(rejects.SCHEMA, rejects),
        "## Table of vectors: `vectors/*/*.parquet` of `jobs/embed.py`\n",
        "One row a clip and modality. [Export](../export.md#vectors-of-any-media) explains it.\n",
        *_schema(vector_table.SCHEMA, vector_table),
        "## What curation leaves out: `*.dropped.parquet` of `jobs/curate.py`\n",
        "One row a clip. The table of what is kept has the first six columns.\n",
        *_schema(selection_tables.SCHEMA, selection_tables),
        "| reason | meaning |",
        "|---|---|",
        *(f"| `{r.value}` | {_cell(left_out.get(r.name, ''))} |" for r in verdicts.LeftOut),
        "",
        "## Reasons of rejects\n",
        "| reason | meaning |",
        "|---|---|",
        *(f"| `{r.value}` | {_cell(reasons.get(r.name, ''))} |" for r in rejects.Reason),
        "",
    ]
    return "\n".join(lines)


def _schema(schema: pa.Schema, module: ModuleType) -> list[str]:
    said = schema_comments(module)
    rows = [
        f"| `{f.name}` | {f.type} | {_cell(said.get(f.name) or _COLUMNS.get(f.name, ''))} |"
        for f in schema
    ]
    return ["| column | type | meaning |", "|---|---|---|", *rows, ""]


# -- comments of the source --------------------------------------------------------------------


def members_comments(module: ModuleType) -> dict[str, str]:
    """Member of an enum → the comment beside it."""
    return {
        node.targets[0].id: comment
        for cls in ast.walk(tree(module))
        if isinstance(cls, ast.ClassDef)
        for node in cls.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        if (comment := comment_of(module, node))
    }


def schema_comments(module: ModuleType) -> dict[str, str]:
    """Column of a module's ``SCHEMA`` → the comment beside it."""
    (schema,) = (
        node.value
        for node in tree(module).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SCHEMA"
    )
    return {
        pair.elts[0].value: comment
        for pair in ast.walk(schema)
        if isinstance(pair, ast.Tuple) and isinstance(pair.elts[0], ast.Constant)
        if (comment := comment_of(module, pair))
    }


def _in_one_line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _in_one_line(text).replace("|", "\\|")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for place, text in pages().items():
        place.write_text(text)
