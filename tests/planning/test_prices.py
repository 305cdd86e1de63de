"""Price tables of people: what is wrong with one is said in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.planning.prices import PriceTable


def read(folder: Path, text: str) -> PriceTable:
    (folder / "prices.yaml").write_text(text)
    return PriceTable.read(str(folder / "prices.yaml"), ["spot"])


def test_nodes_cost_by_role(tmp_path: Path) -> None:
    table = read(tmp_path, "hour: {head: 0.4, gpu: 2, spot: 1}\nstorage_gb_month: 0.02\n")
    assert table.cost({"head": 10.0, "gpu": 2.5, "memory": 0.0}) == pytest.approx(9.0)
    with pytest.raises(UserError, match="no price for the role decode: add it to hour"):
        table.cost({"head": 1.0, "decode": 3.0})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hour: {gpus: 2}", "no node has the role 'gpus' \\(did you mean gpu\\?\\); roles are"),
        ("hour: {gpu: -2}", "hour.gpu: Input should be greater than or equal to 0"),
        ("hour: {gpu: two}", "hour.gpu: Input should be a valid number"),
        ("hour: {gpu: .nan}", "hour.gpu: Input should be"),
        ("gpu: 2", "hour: Field required"),
        ("hour: {gpu: 2}\nprice: 3", "price: Extra inputs are not permitted"),
        ("- 2", "the table: Input should be"),
        ("", "the table: Input should be"),
        ("hour: {gpu: [", "is not valid YAML"),
    ],
)
def test_what_is_wrong_is_one_line(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words) as told:
        read(tmp_path, text)
    assert "\n" not in str(told.value)


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the price table"):
        PriceTable.read(str(tmp_path / "none.yaml"), [])
