"""The paper's findings as data: what each one claims, and which trials test it.

What the paper claims is told as far as its abstract, its repository and readings of it tell
(README, "The paper's findings, tested again"); its numbers are not targets here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.reproduction.trials import Trial


@dataclass(frozen=True)
class Comparison:
    """A claim that one trial ends above another, on the test cuts' linear probe.

    Attributes:
        better, worse: trials' names; ``random``: the round 0 of `better`.
        modality: whose encoder.
        claim: in the paper's sense, short.
    """

    better: str
    worse: str
    modality: str
    claim: str


@dataclass(frozen=True)
class Finding:
    """
    Attributes:
        key: F1 … F7 the paper's (F1T: F1, fine-tuned), A1 … our own; title: of its section.
        trials: all that are needed.
        comparisons: the claims put to the test.
    """

    key: str
    title: str
    trials: tuple[Trial, ...]
    comparisons: tuple[Comparison, ...]


OURS = "anchored_audio"
OURS_RAW = f"{OURS}-raw"
_XDC = Trial("xdc", "xdc", every_round=True)
_VARIANTS = (
    Trial("sdc", "sdc", every_round=True),
    Trial("mdc", "mdc", every_round=True, short=True),
    Trial("cdc", "cdc", every_round=True, short=True),
)
_SUPERVISED = Trial("supervised", "supervised:label")
_OURS = Trial(OURS, OURS, every_round=True)
_RAW = ("clustering.first=raw",)
_OURS_RAW = Trial(OURS_RAW, OURS, settings=_RAW, every_round=True)
_FIRST_RAW = (Trial("xdc-raw", "xdc", settings=_RAW, every_round=True), _OURS_RAW)
_SCRATCH = Trial("scratch", "supervised:label", settings=("rounds=1",))
_TUNED = tuple(
    replace(base, name=f"{base.name}-tuned", method="tuned:label", every_round=False, base=base)
    for base in (_XDC, *_VARIANTS, _OURS_RAW)
)


def _both(better: str, worse: str, claim: str) -> tuple[Comparison, ...]:
    return tuple(Comparison(better, worse, m, claim) for m in ("video", "audio"))


# What the paper does not tell, done in the other way: claim for ours, settings of the other.
_OTHERWISE = {
    "plain-features": (
        "PCA, whitening and L2 before k-means help",
        ("clustering.pca_dim=0", "clustering.whiten=false", "clustering.l2=false"),
    ),
    "window-start": ("audio windows centred on the frames help", ("clips.audio.align=start",)),
    "loud": ("spectrograms normalised by clip help", ("clips.audio.normalize=none",)),
    "one-scale": ("pictures of several scales help", ("clips.video.train_short_side=[36,36]",)),
}
_AUDIO_NETWORKS = tuple(
    Trial(f"xdc-{network}", "xdc", settings=(f"encoders.audio={network}",), short=True)
    for network in ("resnet18_vmz", "resnet18")
)


def _k(k: int) -> Trial:
    return Trial(f"xdc-k{k}", "xdc", settings=(f"clustering.k={k}",), short=True)


def _part(name: str) -> Trial:
    return Trial(f"xdc-{name}", "xdc", cuts=name)


FINDINGS = (
    Finding(
        "F1",
        "The four variants, ours, and both ends of the scale",
        (_XDC, *_VARIANTS, _OURS, *_FIRST_RAW, _SUPERVISED),
        (
            *_both("xdc", "random", "XDC learns"),
            *_both("xdc", "sdc", "XDC is better than single-modality clustering"),
            *_both("xdc", "mdc", "XDC is better than MDC"),
            *_both("xdc", "cdc", "XDC is better than CDC"),
            *_both(OURS_RAW, "xdc", "(ours) an anchored strong modality is better than XDC"),
            *_both(OURS_RAW, "sdc", "(ours) and than single-modality clustering"),
            *_both(OURS_RAW, "random", "(ours) both encoders gain"),
            *_both(OURS_RAW, OURS, "(ours) the first labels from features without an encoder"),
            *_both("xdc-raw", "xdc", "(ours) the same for XDC"),
        ),
    ),
    Finding(
        "F1T",
        "The same encoders, fine-tuned with all labels for a round's epochs",
        (_SCRATCH, *_TUNED),
        (
            *_both("xdc-tuned", "scratch", "XDC is a better start than random weights"),
            *_both("xdc-tuned", "sdc-tuned", "and than single-modality clustering"),
            *_both(f"{OURS_RAW}-tuned", "xdc-tuned", "(ours) an anchored modality a better one"),
        ),
    ),
    Finding(
        "F2",
        "The number of clusters",
        (_XDC, *(_k(k) for k in (16, 256, 1024))),
        (
            *_both("xdc-k256", "xdc-k16", "k well above few, not tied to the number of classes"),
            *_both("xdc", "xdc-k1024", "with few clips a large k does not help"),
        ),
    ),
    Finding(
        "F3",
        "Curated against uncurated clips",
        (_XDC, _part("anywhere")),
        _both("xdc", "xdc-anywhere", "curated clips are worth something"),
    ),
    Finding(
        "F4",
        "The amount of data, at equal compute",
        (_XDC, _part("half"), _part("quarter")),
        _both("xdc", "xdc-quarter", "more data is better"),
    ),
    Finding(
        "F5",
        "Control: two encoders of the same modality",
        (
            _XDC,
            Trial("twins-video", "twins:video", short=True),
            Trial("twins-audio", "twins:audio", short=True),
        ),
        tuple(
            Comparison("xdc", f"twins-{m}", m, "the second modality is what helps")
            for m in ("video", "audio")
        ),
    ),
    Finding("F6", "What clusters hold", (_XDC, _OURS_RAW), ()),
    Finding(
        "F7",
        "The headline in miniature: labels of another task against none",
        (_XDC, _OURS_RAW, Trial("supervised-slot", "supervised:slot:video")),
        (
            Comparison("xdc", "supervised-slot", "video", "XDC is ahead of supervision elsewhere"),
            Comparison(
                OURS_RAW, "supervised-slot", "video", "(ours) and so is the anchored variant"
            ),
        ),
    ),
    Finding(
        "A1",
        "(ours) Which modality to anchor, told without labels",
        (_OURS_RAW, Trial("anchored_video-raw", "anchored_video", settings=_RAW, every_round=True)),
        _both(OURS_RAW, "anchored_video-raw", "it matters which one is anchored"),
    ),
    Finding(
        "A2",
        "(ours) A cheaper round: features kept from training",
        (
            _XDC,
            Trial(
                "xdc-from-training", "xdc", settings=("embedding.from_training=true", "rounds=2")
            ),
        ),
        _both("xdc-from-training", "xdc", "it costs no accuracy"),
    ),
    Finding(
        "A3",
        "(ours) What the paper leaves open: our choice against the other one",
        (
            _XDC,
            *(
                Trial(f"xdc-{name}", "xdc", settings=settings, short=True)
                for name, (_, settings) in _OTHERWISE.items()
            ),
            *_AUDIO_NETWORKS,
        ),
        (
            *(
                comparison
                for name, (claim, _) in _OTHERWISE.items()
                for comparison in _both("xdc", f"xdc-{name}", claim)
            ),
            Comparison(
                "xdc-resnet18_vmz",
                "xdc-resnet18",
                "audio",
                "VMZ's audio network is better than a stock one",
            ),
        ),
    ),
    Finding(
        "A4",
        "(ours) One encoder after the other, the weak one first",
        (_XDC, Trial("xdc_video_first", "xdc_video_first", short=True)),
        _both("xdc_video_first", "xdc", "the second learns from better clusters than at once"),
    ),
)


@dataclass(frozen=True)
class Preset:
    """
    Attributes:
        settings: that all trials share, after the world's own.
        short: further settings of trials that are compared with what others are after their first
            round: a third of the cost, where that counts.
        findings: tested by default; seeds: of every trial.
        generated: files of the generated world and, where not the usual ones, its classes and
            places (`worlds.generated`).
    """

    settings: tuple[str, ...]
    short: tuple[str, ...]
    findings: tuple[str, ...]
    seeds: tuple[int, ...]
    generated: Mapping[str, int]


_ALL = tuple(finding.key for finding in FINDINGS)
# What XDC's video probe gains at least over random encoders in the quick preset, or a test fails;
# benchmarks/findings.md tells how seldom it does where nothing is wrong.
QUICK_MARGIN = 0.05
PRESETS = {
    # XDC's first round, two minutes on two cores, in a world with fewer nuisances than the usual
    # one, where seeds are far apart after a single round.
    "quick": Preset(
        ("rounds=1", "learning.batch_size=16"),
        (),
        ("quick",),
        (0,),
        {"files": 320, "classes": 4, "places": 2},
    ),
    # The published table: hours on two cores, where a second command beside it makes both slower.
    "cpu": Preset(("rounds=3",), ("rounds=1",), _ALL, (0, 1, 2), {"files": 600}),
    # The full networks on one card.
    "gpu": Preset(
        (
            "rounds=4",
            "encoders.video=r2plus1d_18_xdc",
            "encoders.audio=resnet18_vmz",
            "clips.video.size=112",
            "clips.video.short_side=120",
            "clips.video.train_short_side=[116,128]",
            "resources.device=cuda",
        ),
        (),
        _ALL,
        (0, 1, 2),
        {"files": 2000},
    ),
}


def trials_of(keys: Sequence[str]) -> list[Trial]:
    """The trials that the findings need, each once; ``quick``: XDC alone."""
    if tuple(keys) == ("quick",):
        return [Trial("xdc", "xdc", every_round=True)]
    wanted = [trial for f in FINDINGS if f.key in keys for trial in f.trials]
    return list(dict.fromkeys(wanted))
