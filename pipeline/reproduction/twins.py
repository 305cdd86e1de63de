"""The control of XDC: two encoders of the same modality teach each other.

Two runs start from different random weights. Every round each learns the other's pseudo-labels.
What cross-modal training gains over this, it gains from the second modality.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.clips.indexing import index
from pipeline.clustering import Clustering
from pipeline.config import Config
from pipeline.methods import Method, Update
from pipeline.rounds import Pretraining
from pipeline.run import Encoders, Round, Run
from pipeline.runtime.standby import NextStages
from pipeline.storage import Location

_OTHER_SEED = 10_000  # added to the seed for the second encoder


@dataclass(frozen=True)
class Twin(Pretraining):
    """One of the two: it learns the pseudo-labels of the other."""

    others: list[Twin] = field(default_factory=list)

    def cluster_all(
        self, this: Round, names: Iterable[str], now: Encoders, ahead: NextStages
    ) -> dict[str, Clustering]:
        (other,) = self.others
        before = other.run.round(this.number - 1)
        theirs = other.run.encoders_after(before)
        return Pretraining.cluster_all(other, before, names, theirs, ahead)


def pretrain_twins(cuts: Location, config: Config, modality: str) -> Run:
    """Resume both: the first for ``config.rounds`` rounds, the other as far as that needs it.

    The cuts table is indexed for both if it was not before. `config` is that of the first one; the
    second one lies in its folder.
    """
    method = Method({modality: (modality,)}, (Update({modality: (modality,)}),))
    keep = config.embedding.model_copy(update={"keep": True})  # the other may be behind
    config = config.model_copy(update={"embedding": keep})
    seed = config.seed + _OTHER_SEED
    second = config.model_copy(update={"run": f"{config.run}/twin", "seed": seed})
    twins = []
    for own in (config, second):
        index(cuts.full_uri, Run.place(own), own)
        twins.append(Twin.opened(own, method))
    for twin, other in zip(twins, reversed(twins)):
        twin.others.append(other)
        if twin.run.last_round() is None:
            twin.begin()
    for number in range(1, config.rounds + 1):
        last = number == config.rounds  # nobody learns from the other one's
        for twin in twins[:1] if last else twins:
            if not twin.run.round(number).is_done:
                twin.run_round(twin.run.round(number))
    for twin in twins:
        twin.events.close()
    return twins[0].run
