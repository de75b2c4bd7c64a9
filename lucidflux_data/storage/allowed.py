"""Which uris found inside tables and lists may be read, and what a request to their web addresses may reach.

A table may come from a stranger, and its uris are read with the user's rights. What lies below the source is read, and
what lies below a prefix that the user named (`--allow-uris`). A prefix ends at a `/`: `https://a.org/x` allows
`https://a.org/x/1.jpg`, not `https://a.org/xyz.jpg`; one that ends in `://` allows all of a protocol.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import re
import socket
from collections import Counter
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote, urlsplit

from lucidflux_data.errors import LucidFluxError

WEB = ("http", "https")
# RFC 6052; RFC 4291, 2.5.5.1; RFC 7915
_IPV4_INSIDE = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "::/96", "::ffff:0:0:0/96")))
_LOCAL = (ipaddress.IPv6Network("64:ff9b:1::/48"), ipaddress.IPv6Network("fec0::/10"))  # RFC 8215; RFC 3879
PREFIXES_TOLD = 5


class NotAllowed(LucidFluxError):
    """A request to an address inside the user's own network, which no uri of a table may cause."""

    exit_code = 6


def is_below(uri: str, prefixes: Iterable[str]) -> bool:
    """Whether a uri, without escapes of ours, lies below one of the prefixes, whatever way it is written and whatever
    links lead to it. `prefixes`: urls or absolute paths."""
    place = _normal(uri)
    for prefix in prefixes:
        top = _normal_prefix(prefix)
        if place is not None and top is not None and f"{place}/".startswith(top if top.endswith("/") else f"{top}/"):
            return True
    return False


@functools.lru_cache(maxsize=4096)
def _normal_prefix(prefix: str) -> str | None:
    return prefix.lower() if prefix.endswith("://") else _normal(prefix)


def _normal(uri: str) -> str | None:
    """One spelling for all that name one place; None for a uri that has no safe reading."""
    scheme, mark, rest = uri.partition("://")
    scheme = scheme.lower()
    if not mark or scheme in ("file", "local"):
        path = rest if mark else uri
        if "\0" in path or (mark and not path.startswith("/")):
            return None  # a path from nowhere, of which libraries make a home or a working folder
        # `..` behind a link leads above what the link names, as the kernel has it.
        real = os.path.realpath(path) if ".." in path.split("/") else _real(os.path.abspath(path))
        return f"file:///{real.lstrip('/')}"
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) or any(sign in rest for sign in ("::", "\\", "\0")):
        return None  # a chain of file systems, or what clients read in two ways
    if ".." in re.split(r"[/\\?#;]", _unquote_whole(rest)):
        return None
    host, slash, path = rest.partition("/")
    if scheme in WEB:
        if "@" in host:
            return None
        host = host.lower().removesuffix({"http": ":80", "https": ":443"}[scheme])
    return f"{scheme}://{host}{slash}{path}".rstrip("/")


def _unquote_whole(text: str) -> str:
    """Behind all escapes, of whatever depth: a server may undo one more than its client."""
    while (plain := unquote(text)) != text:
        text = plain
    return text


def _real(path: str) -> str:
    """Behind all links; folders are asked about once."""
    folder, name = os.path.split(path)
    place = os.path.join(_real_folder(folder), name)
    return os.path.realpath(place) if os.path.islink(place) else place


@functools.lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def prefixes_to_allow(uris: Iterable[str]) -> list[str]:
    """The few prefixes that would allow these uris, the most frequent first."""
    found: Counter[str] = Counter()
    for uri in uris:
        scheme, mark, rest = uri.partition("://")
        folder = rest.rsplit("/", 1)[0] if mark else ""
        top = "/".join(folder.split("/")[:1]) if scheme.lower() not in ("file", "local") else folder
        found[f"{scheme}://{top}" if mark else uri] += 1
    return [prefix for prefix, _ in found.most_common(PREFIXES_TOLD)]


def host_of(url: str) -> str | None:
    """The host and port of a web address as `host:port`, None for everything else and for what cannot be read."""
    try:
        parts = urlsplit(url)
        if parts.scheme.lower() not in WEB or not parts.hostname:
            return None
        return f"{parts.hostname.lower()}:{parts.port or {'http': 80, 'https': 443}[parts.scheme.lower()]}"
    except ValueError:
        return None


def find_own_servers(urls: Iterable[str], known: Iterable[str]) -> set[str]:
    """The servers (`host:port`) of sources that lie in the user's own network: all of their addresses are private.
    To be asked once a command: what a name server answers later makes no server the user's own. `known`: sources whose
    servers were asked about before.

    Raises nothing: a server that has no address now is told by the request.
    """
    asked = {host_of(url) for url in known}
    return {host for url in urls if (host := host_of(url)) and host not in asked and _is_private(host)}


def _is_private(host: str) -> bool:
    name, _, port = host.rpartition(":")
    try:
        found = {str(answer[4][0]) for answer in socket.getaddrinfo(name, int(port), type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return False
    return bool(found) and not any(map(is_public, found))


def may_lead_inside(url: str, own_servers: Iterable[str], allowed: Iterable[str]) -> bool:
    """Whether requests to this server, and its redirects, may reach a private network: it is one of the user's own, as
    a source or by a literal address that is allowed."""
    host = host_of(url)
    if host is None:
        return False
    if host in own_servers:
        return True
    return _is_literal(host) and host in {host_of(prefix) for prefix in allowed} and _is_private(host)


def _is_literal(host: str) -> bool:
    name = host.rpartition(":")[0]
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet; what is wrapped in IPv6 is unwrapped."""
    ip: Any = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6:
        if any(ip in network for network in _IPV4_INSIDE):
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        elif any(ip in network for network in _LOCAL):
            return False
        else:
            ip = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None) or ip
    return bool(ip.is_global and not ip.is_multicast)


def public_socket(addr_info: Any) -> socket.socket:
    """A socket for a connection that is about to be made, redirects included. NotAllowed for a private address: it is
    looked at here, after the name was resolved, so that no second answer of a name server can differ."""
    family, kind, protocol, _, address = addr_info
    if not is_public(address[0]):
        raise NotAllowed("a web address leads into a private network, by its name or by a redirect: it is not followed")
    return socket.socket(family, kind, protocol)


async def public_client(**options: Any) -> Any:
    """As fsspec's own client, for web servers that are not the user's own, whoever named them: no private address, at
    no request and no redirect, whatever a name server answers by then; and no proxy that would ask."""
    import aiohttp

    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=public_socket), **options)
