"""Media named by URL, from allowed hosts alone: no redirects, no addresses inside, limits of size and time."""

import asyncio
import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

from ernie5.serving.errors import ApiError

_BLOCK = 1 << 16
_PORTS = {"http": 80, "https": 443}


async def fetch(url: str, allowed: Sequence[str], max_bytes: int, seconds: float, where: str) -> bytes:
    """What stands at the URL. Raises ApiError if it may not or cannot be fetched.

    `allowed` are `host`, for the usual ports, or `host:port`. A name has to stand for addresses of the public
    internet, so that it cannot be pointed at a machine inside; an address that is allowed itself is taken.
    """
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        raise ApiError(f"{where}: is no URL that can be fetched: give a data URL", param=where) from None
    names = {f"{host}:{port}"} | ({host} if port in _PORTS.values() else set())
    if not names & {name.lower() for name in allowed} or parts.username is not None:
        raise ApiError(
            f"{where}: URLs are fetched from hosts only that the operator allowed (--allow-url-host): give a data URL",
            param=where,
            code="url_not_allowed",
        )
    try:
        return await asyncio.to_thread(_get, parts, host, port, max_bytes, time.monotonic() + seconds)
    except _Refused as refusal:
        raise ApiError(f"{where}: {refusal}: give a data URL", param=where) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = str(error) or type(error).__name__
        raise ApiError(f"{where}: cannot be fetched ({cause}): give a data URL", param=where) from None


class _Refused(Exception):
    pass


def _get(parts: SplitResult, host: str, port: int, max_bytes: int, deadline: float) -> bytes:
    connection = http.client.HTTPConnection(host, port)
    connection.sock = _connect(parts.scheme, host, port, deadline)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"User-Agent": "ernie5", "Accept-Encoding": "identity"})
        response = connection.getresponse()
        if response.status != 200:
            raise _Refused(f"the host answers {response.status}, and redirects are not followed")
        data = bytearray()
        while block := response.read1(_BLOCK):
            data += block
            if len(data) > max_bytes:
                raise _Refused(f"is larger than the limit of {max_bytes:,} bytes")
            if connection.sock is not None:
                connection.sock.settimeout(_left(deadline))
            _left(deadline)
        return bytes(data)
    finally:
        connection.close()


def _connect(scheme: str, host: str, port: int, deadline: float) -> socket.socket:
    """To an address that was looked at, not to what the name stands for a moment later."""
    address = _address(host, port)
    plain = socket.create_connection((address, port), timeout=_left(deadline))
    if scheme == "http":
        return plain
    try:
        return ssl.create_default_context().wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def _address(host: str, port: int) -> str:
    try:
        return str(ipaddress.ip_address(host))  # allowed as it is
    except ValueError:
        pass
    found = [info[4][0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not found or not all(ipaddress.ip_address(address.partition("%")[0]).is_global for address in found):
        raise _Refused(f"{host} stands for an address that is not of the public internet")
    return found[0]


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("it takes too long")
    return left
