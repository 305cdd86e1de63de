"""Uploads by the real client of huggingface_hub, to a hub on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.export import main as export
from pipeline.errors import UserError
from tests.exporting.exports import WITHOUT_PACKAGE, new_run
from tests.exporting.hub_server import TOKEN, hub

pytest.importorskip("huggingface_hub", reason="needs the extra hub")

# In processes of their own: huggingface_hub reads its environment when it is imported.
EXPORT = "import sys; from jobs.export import main; main(sys.argv[1:])"
LOAD = f"""{WITHOUT_PACKAGE}
import sys
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
print(type(model).__name__, type(processor).__name__)
"""


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_both_encoders_are_pushed_and_load_from_there(tmp_path: Path) -> None:
    new_run(tmp_path / "run")
    place = [str(tmp_path / "run"), str(tmp_path / "out"), "--push", "somebody/xdc"]
    with hub() as there:
        settings = {
            "HF_ENDPOINT": there.address,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(tmp_path / "cache"),
        }
        first = python(EXPORT, *place, "--formats", "torch-export", **settings)
        assert first.returncode == 0, first.stderr
        assert f"video → {there.address}/somebody/xdc-video" in first.stdout
        assert {asked["name"] for asked in there.made} == {"xdc-video", "xdc-audio"}
        assert all("private" in str(asked) for asked in there.made)
        for modality in ("video", "audio"):
            held = there.repositories[f"somebody/xdc-{modality}"]
            files = {
                path.name: path.read_bytes() for path in (tmp_path / "out" / modality).iterdir()
            }
            assert held == files
        there.repositories["somebody/xdc-video"]["notes.txt"] = b"of somebody"
        second = python(EXPORT, *place, "--modality", "video", **settings)
        assert second.returncode == 0, second.stderr
        held = there.repositories["somebody/xdc-video"]
        assert "notes.txt" in held
        assert "model.pt2" not in held
        pytest.importorskip("transformers")
        for name, words in (
            ("somebody/xdc-video", "XdcVideoModel XdcVideoProcessor"),
            ("somebody/xdc-audio", "XdcAudioModel XdcFeatureExtractor"),
        ):
            loaded = python(LOAD, name, **settings)
            assert loaded.stdout.strip() == words, loaded.stderr


def test_a_refused_push_is_one_line_and_the_export_stays(tmp_path: Path) -> None:
    new_run(tmp_path / "run")
    place = [str(tmp_path / "run"), str(tmp_path / "out"), "--push", "somebody/xdc"]
    job = "from jobs.export import main, run_job; run_job(main)"
    with hub() as there:
        settings = {
            "HF_ENDPOINT": there.address,
            "HF_TOKEN": "hf_of_another",
            "HF_HOME": str(tmp_path / "cache"),
        }
        ended = python(job, *place, "--modality", "audio", **settings)
    assert ended.returncode != 0
    (line,) = [line for line in ended.stderr.splitlines() if "was not pushed" in line]
    assert "somebody/xdc-audio" in line
    assert "hf_of_another" not in ended.stderr
    assert "Traceback" not in ended.stderr
    assert (tmp_path / "out/audio/config.json").exists()


def test_what_a_push_lacks_is_told_before_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_run(tmp_path / "run")
    place = [str(tmp_path / "run"), str(tmp_path / "out"), "--push"]
    for name in ("xdc", "a/b/c", "https://hub/a/b", "a/../b", ""):
        with pytest.raises(UserError, match="is no name of a repository"):
            export([*place, name])
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="needs a token of the hub"):
        export([*place, "somebody/xdc"])
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as where it is not installed
    with pytest.raises(UserError, match=r"needs the package huggingface_hub.*xdc-ray\[hub\]"):
        export([*place, "somebody/xdc"])
    assert not (tmp_path / "out").exists()
