from __future__ import annotations

import pytest

from pipeline import methods
from pipeline.errors import UserError
from pipeline.methods import METHODS, MODALITIES


def wiring(name: str) -> dict[str, tuple[str, ...]]:
    (update,) = METHODS[name].updates
    return dict(update.heads)


def test_the_papers_four_variants_are_wired_as_in_its_figure_1() -> None:
    assert wiring("sdc") == {"video": ("video",), "audio": ("audio",)}
    assert wiring("xdc") == {"video": ("audio",), "audio": ("video",)}
    assert wiring("cdc") == {"video": ("joint",), "audio": ("joint",)}
    assert {m: set(heads) for m, heads in wiring("mdc").items()} == {
        "video": {"video", "audio"},
        "audio": {"video", "audio"},
    }
    assert METHODS["cdc"].clusterings == {"joint": ("video", "audio")}


def test_ours_update_one_encoder_after_the_other() -> None:
    first, second = METHODS["xdc_video_first"].updates
    assert first.heads == {"video": ("audio",)}
    assert second.heads == {"audio": ("video",)}
    weak, anchor = METHODS["anchored_audio"].updates
    assert weak.heads == {"video": ("audio",)}
    assert anchor.heads == {"audio": ("audio", "video")}


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_consistent(name: str) -> None:
    method = METHODS[name]
    trained = [m for update in method.updates for m in update.encoders]
    assert sorted(trained) == sorted(MODALITIES), "each encoder learns once a round"
    for update in method.updates:
        assert set(update.clusterings) <= set(method.clusterings)
        assert method.modalities_of(update)


def test_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="sdc, mdc, cdc, xdc"):
        methods.get("dino")
