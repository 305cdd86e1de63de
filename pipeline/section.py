"""What all sections of settings have in common, and the kinds of values that they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from pipeline.addresses import without_credentials


@dataclass(frozen=True)
class Where:
    """Marks a setting that says where, when or how long work runs, never what comes out of it.

    Such a setting may change while a run goes on, and comparisons of settings leave it out.
    """


WHERE = Where()
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Address = Annotated[str, AfterValidator(without_credentials)]  # a path or URI; settings are saved


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]  # one name stands for a list of one


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    def outcome(self) -> dict[str, Any]:
        """The settings that decide what comes out, dumped: all but those marked `WHERE`."""
        return self.model_dump(mode="json", exclude=_where(type(self)))


def _where(section: type[BaseModel]) -> dict[str, Any]:
    """The marked settings, as pydantic's ``exclude`` takes them."""
    found: dict[str, Any] = {}
    for name, info in section.model_fields.items():
        if WHERE in info.metadata:
            found[name] = True
        elif isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            found[name] = _where(info.annotation)
    return found
