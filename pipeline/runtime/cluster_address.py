"""Which Ray a job joins, and whether that is there."""

from __future__ import annotations

import os

import grpc

from pipeline.errors import UserError

_PATIENCE_S = 15.0
# What `ray health-check` asks, as raw bytes. tests/runtime/test_cluster_address.py asks a real head
# and fails when Ray renames it.
_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_SILENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_OWN = "without RAY_ADDRESS the job starts a Ray of its own"


def given_address() -> str:
    """``RAY_ADDRESS``, of the user or of Ray's job API; empty: the job starts a Ray of its own.

    A ``ray start`` on this machine counts only with ``auto``. It may be long dead or somebody
    else's, and a Ray of the job's own is the same wherever the job runs.
    """
    address = os.environ.get("RAY_ADDRESS", "").strip()
    return "" if address == "local" else address


def check_reachable(address: str) -> None:
    """Ask whoever is at `address` whether it is the head of a cluster: `ray.init` takes minutes.

    Raises:
        UserError: it is not, or does not answer, or `address` (as in ``RAY_ADDRESS``) is no such.
    """
    if "://" in address:
        raise UserError(
            f"RAY_ADDRESS={address} is not what a job inside a cluster needs: that is HOST:PORT of "
            f"the head (6379 by default), or nothing. From outside it is sent by: "
            f"ray job submit --address {address}"
        )
    place = _as_ray_reads_it(address)
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return  # to ask would take the cluster's certificates
    with grpc.insecure_channel(place, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(_ALIVE)(b"", timeout=_PATIENCE_S)
        except grpc.RpcError as error:
            code, named = error.code(), place if address == "auto" else address
            if code in _SILENT:
                reason = _last_words(error.details()) or code.value[1]
                raise UserError(
                    f"no Ray cluster answers at {named} ({reason}). Correct RAY_ADDRESS or start "
                    f"that cluster; {_OWN}"
                ) from error
            if code == grpc.StatusCode.UNIMPLEMENTED:
                raise UserError(
                    f"{named} is not the head of a Ray cluster (its port is 6379 by default). "
                    f"Correct RAY_ADDRESS; {_OWN}"
                ) from error
            # Anything else comes from a head, for example that it wants a token.


def _as_ray_reads_it(address: str) -> str:
    # Nothing public tells what ``auto`` or a loopback address stand for.
    from ray._private import services

    try:
        found = services.canonicalize_bootstrap_address(address)
    except ValueError:
        raise UserError(f"RAY_ADDRESS={address} is not HOST:PORT; {_OWN}") from None
    except ConnectionError:
        found = None
    if found is None:
        raise UserError(f"RAY_ADDRESS={address} finds no Ray on this machine; {_OWN}")
    return str(found)


def _last_words(details: str | None) -> str:
    """The end of gRPC's chain of reasons, in one line."""
    return (details or "").rpartition(": ")[2].strip(" ]").replace("\n", " ")
