"""Exported folders go to a model hub, where somebody asks for it.

Each encoder has a repository of its own, ``name/repo-video`` and ``name/repo-audio``: AutoModel
looks for its code in the root of a repository alone, and a repository shows one model card.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from pipeline.exporting.folder import FILES
from pipeline.storage import Location

_REPO = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class Push:
    """Where encoders are pushed to."""

    repo: str  # ``name/repo``, without the modality

    def check(self) -> None:
        """Fail at once instead of after the export.

        Raises:
            UserError: the repository has no such name, or the package or a token is missing.
        """
        if not _REPO.fullmatch(self.repo) or ".." in self.repo or "--" in self.repo:
            raise UserError(
                f"--push {self.repo!r:.200} is no name of a repository: give name/repo, and "
                "-video and -audio are added"
            )
        if not _hub().get_token():
            raise UserError("--push needs a token of the hub: `hf auth login`, or set HF_TOKEN")

    def repository(self, modality: str) -> str:
        return f"{self.repo}-{modality}"

    def upload(self, folder: Location, modality: str) -> str:
        """One commit of all files of an exported folder; returns the repository's address.

        A repository that does not exist is made, and is private. Files of an earlier export that
        this one lacks are deleted, others stay.

        Raises:
            UserError: the hub refuses it, or is away.
        """
        hub, repo = _hub(), self.repository(modality)
        files = {place.name: place for place in folder.files() if place.name in FILES}
        operations = [
            hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=place.read_bytes())
            for name, place in files.items()
        ]
        api = hub.HfApi()
        try:
            url = api.create_repo(repo, private=True, exist_ok=True)
            there = set(api.list_repo_files(repo)) & (set(FILES) - files.keys())
            operations += [hub.CommitOperationDelete(path_in_repo=name) for name in sorted(there)]
            api.create_commit(repo, operations, commit_message=f"Export of the {modality} encoder")
        except Exception as error:  # of the HTTP client, which changed with the package's version
            line = next((text for text in str(error).splitlines() if text.strip()), "")
            raise UserError(
                f"{repo} was not pushed: {type(error).__name__}: {line:.300}; the export is in "
                f"{folder}"
            ) from error
        return str(url)


def _hub() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError:
        raise UserError(
            "--push needs the package huggingface_hub: install this project's extra 'hub' "
            '(pip install "xdc-ray[hub]")'
        ) from None
