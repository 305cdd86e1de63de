"""Hostile input: mutated files of every kind that a job reads.

    python benchmarks/fuzz.py [--mutations 10000] [--seed 0] [--kind NAME]

Every mutation must end in one clear line (`UserError`, "refused") or be read ("read"). What
something vouches for must be read as it was written. Anything else is a failure, and is listed
with its traceback. Writes ``benchmarks/fuzz.json``.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.fuzz_files import KINDS, Kind
from pipeline.errors import UserError
from pipeline.storage import Location
from pipeline.telemetry.machine import about

RESULT = Path(__file__).resolve().parent / "fuzz.json"
LIMIT_S, LIMIT_BYTES = 20, 32 << 30  # of one mutation; of address space that Arrow only reserves
_WORDS = [
    *(b"\0", b"\xff\xfe", b"\xc3\x28", b"\n", b"\r\n", b"'", b'"', b"{", b"[" * 5000, b"]", b":"),
    *(b"&a [*a]", b"*a", b"<<: *a", b"!!python/object/apply:os.system ['touch /tmp/fuzzed']"),
    *(b"1e999", b"-1", b"NaN", b".inf", b"9" * 5000, b"2024-13-41", b"null", b"true", b"0x7f"),
    *(b"../../../etc/passwd", b"$(touch /tmp/fuzzed)", b"<script>alert(1)</script>", b"a" * 20_000),
    *(b"s3://KEY:SECRET@b/x", b"%00", b"\xe2\x80\xae", b"-", b"- - - - -", b"? ", b"|", b","),
]


@dataclass
class Tally:
    """What became of the mutations of one kind."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    failures: list[str] = field(default_factory=list)


class TooLong(BaseException):
    """A mutation was read for longer than `LIMIT_S`."""


def mutated(data: bytes, rng: random.Random, is_text: bool) -> bytes:
    """The bytes with one to four faults."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at, length = rng.randrange(len(changed) + 1), min(rng.choice((1, 4, 64)), len(changed))
        fault = rng.randrange(8 if is_text else 6)
        if fault == 0 and changed:
            changed[min(at, len(changed) - 1)] ^= 1 << rng.randrange(8)
        elif fault == 1:
            del changed[at:]
        elif fault == 2:
            del changed[at : at + length]
        elif fault == 3:
            changed[at : at + length] = rng.randbytes(length)
        elif fault == 4:
            changed[at:at] = changed[max(0, at - length) : at]
        elif fault == 5:
            changed[at : at + length] = bytes([rng.choice((0, 255, 127))]) * length
        elif fault == 6:
            changed[at:at] = rng.choice(_WORDS)
        else:
            _replace_value(changed, rng)
    return bytes(changed)


def _replace_value(text: bytearray, rng: random.Random) -> None:
    """Replace what follows a colon or comma by a word."""
    places = [at for at, byte in enumerate(text) if byte in b":,"]
    if places:
        start = rng.choice(places) + 1
        stops = [text.find(end, start) for end in (b"\n", b",")]
        stop = min((stop for stop in stops if stop >= 0), default=len(text))
        text[start:stop] = b" " + rng.choice(_WORDS)


def fuzz(kind: Kind, name: str, mutations: int, seed: int) -> Tally:
    """Read so many mutations of a kind; the same seed makes the same ones."""
    rng, tally = random.Random(f"{seed} {name}"), Tally()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Location.of(scratch)
        kind.prepare(folder)
        seed_file = Path(scratch) / kind.file
        whole = seed_file.read_bytes()
        expected = kind.read(folder)
        for _ in range(mutations):
            data = mutated(whole, rng, kind.is_text)
            seed_file.write_bytes(data)
            started = time.monotonic()
            signal.alarm(LIMIT_S)
            try:
                with redirect_stdout(io.StringIO()):
                    found = kind.read(folder)
                right = not kind.is_sealed or found == expected
                outcome = "read" if right else "read wrongly"
                told = f"{found!r:.300}"
            except UserError as error:
                told = str(error)
                clear = len(told) < 6000 and "Traceback" not in told
                outcome = "refused" if clear else "refused at length"
            except TooLong:
                outcome, told = "too long", ""
            except MemoryError:
                outcome, told = "too large", traceback.format_exc()
            except Exception:
                outcome, told = "crashed", traceback.format_exc()
            finally:
                signal.alarm(0)
            tally.slowest_s = max(tally.slowest_s, time.monotonic() - started)
            tally.outcomes[outcome] += 1
            if outcome not in ("read", "refused"):
                tally.failures.append(f"{name}: {outcome}: {data[:200]!r}\n{told[-1500:]}")
    return tally


def _too_long(number: int, frame: object) -> None:
    raise TooLong


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=10_000, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=[*KINDS], help="only this one; writes no result")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGALRM, _too_long)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
    chosen = {options.kind: KINDS[options.kind]} if options.kind else KINDS
    each, found, failures = -(-options.mutations // len(chosen)), dict[str, Any](), list[str]()
    for name, kind in chosen.items():
        started = time.monotonic()
        tally = fuzz(kind, name, each, options.seed)
        seconds = time.monotonic() - started
        found[name] = {**tally.outcomes, "slowest_s": round(tally.slowest_s, 3)}
        failures += tally.failures
        print(f"{name:24} {dict(tally.outcomes)} slowest {tally.slowest_s:.2f} s, {seconds:.0f} s")
    for failure in failures[:20]:
        print(failure, file=sys.stderr)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    result = {
        "about": about("pyarrow", "pydantic", "pyyaml", "safetensors", "torch", "numpy"),
        "mutations": each * len(chosen),
        "seed": options.seed,
        "failures": len(failures),
        "peak_memory_mb": round(peak),
        "kinds": found,
    }
    if not options.kind:
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{result['mutations']:,} mutations, {len(failures)} failures, at most {peak:,.0f} MB")
    return min(len(failures), 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
