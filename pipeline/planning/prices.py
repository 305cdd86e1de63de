"""What the user pays: a YAML table of prices by the role of a node, and of storage.

currency: USD
hour: {head: 0.40, decode: 0.60, memory: 1.06, gpu: 2.00}
storage_gb_month: 0.023
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Annotated

from pydantic import Field, ValidationError

from pipeline import plain_yaml
from pipeline.errors import UserError
from pipeline.section import Section
from pipeline.storage import Location

# As cluster.yaml names them. Nodes without a label count as the head or as workers.
ROLES = ("head", "decode", "memory", "gpu", "worker")
Price = Annotated[float, Field(ge=0)]


class PriceTable(Section):
    hour: Mapping[str, Price]  # role of a node → price of an hour
    storage_gb_month: Price | None = None  # of 10⁹ bytes for a month
    currency: str = ""  # only shown

    @classmethod
    def read(cls, place: str, there: Collection[str]) -> PriceTable:
        """The table in a file; `there` are roles of nodes beside `ROLES`.

        Raises:
            UserError: it cannot be read, or names a role that there is not.
        """
        file = Location.of(place)
        try:
            data = file.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read the price table {file}: {error.strerror}") from None
        try:
            found = cls.model_validate(plain_yaml.parsed(data, str(file)))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            at = ".".join(map(str, first["loc"])) or "the table"
            raise UserError(
                f"price table {file}: {at}: {first['msg']}. It has hour (price by role), and "
                "perhaps storage_gb_month and currency"
            ) from None
        known = sorted({*ROLES, *there})
        for role in found.hour:
            if role not in known:
                near = difflib.get_close_matches(role, known, n=1)
                hint = f" (did you mean {near[0]}?)" if near else ""
                raise UserError(
                    f"price table {file}: no node has the role {role!r}{hint}; roles are "
                    f"{', '.join(known)}"
                )
        return found

    def cost(self, node_hours: Mapping[str, float]) -> float:
        """Of so many hours by role.

        Raises:
            UserError: a role has no price.
        """
        lacking = [role for role, hours in node_hours.items() if hours and role not in self.hour]
        if lacking:
            raise UserError(
                f"the price table has no price for the role {' and '.join(lacking)}: add it to hour"
            )
        return sum(hours * self.hour[role] for role, hours in node_hours.items() if hours)
