# cython: language_level=3
"""Where a request came from, as trusted proxies tell it: X-Forwarded-* and Forwarded (RFC 7239).

A chain is read from its end, which the nearest proxy wrote: the first address that is not trusted
is the client; what stands before it anybody may have made up.
"""

import ipaddress
import re

from libc.stdint cimport int64_t

# RFC 3986 3.2.2 as far as it matters: no byte that would end or begin another part of a URL.
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::[0-9]{0,5})?")
# RFC 7239 4: forwarded-pair, value a token or a quoted-string.
_PAIR = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)|"
                   r'"((?:[\t !#-\[\]-~]|\\[\t -~])*)")')
_START = re.compile(r"(?:t=)?([0-9]{1,20}(?:\.[0-9]{1,9})?)")
KNOWN = 1024


cdef class Trust:
    """Peers that may speak for a client: `unix`, addresses and networks (CIDR)."""

    def __init__(self, words):
        self.unix_peers = "unix" in words
        self.networks = tuple(ipaddress.ip_network(word) for word in words if word != "unix")
        self.known = {}

    cpdef bint trusts(self, str address):
        """`address` as text; empty for the peer of a Unix socket."""
        if not address:
            return self.unix_peers
        if not self.networks:
            return False
        found = self.known.get(address)
        if found is None:
            try:
                parsed = ipaddress.ip_address(address)
            except ValueError:
                return False
            found = False
            for network in self.networks:
                found = found or parsed in network
            if len(self.known) >= KNOWN:
                self.known.clear()
            self.known[address] = found
        return found


cdef class Origin:
    """What is known of a request's origin; empty where nothing is."""


cpdef Origin from_x_headers(str client, str scheme, str host, str port, Trust trust):
    """From the values of X-Forwarded-For, -Proto, -Host and -Port, empty where absent."""
    cdef Origin origin = Origin()
    origin.client = ""
    for item in reversed(client.split(",")):
        address = _address(item.strip())
        if not address:
            break
        origin.client = address
        if not trust.trusts(address):
            break
    origin.scheme = _scheme(_last(scheme))
    origin.host = _host(_last(host))
    port = _last(port)
    origin.port = port if port.isascii() and port.isdigit() and len(port) <= 5 else ""
    return origin


cpdef Origin from_forwarded(str value, Trust trust):
    """From the value of Forwarded; what is malformed tells nothing."""
    cdef Origin origin = Origin()
    origin.client = origin.scheme = origin.host = origin.port = ""
    cdef list elements = _elements(value)
    elements.reverse()
    for nearest in elements[:1]:
        origin.scheme = _scheme(nearest.get("proto", ""))
        origin.host = _host(nearest.get("host", ""))
    for element in elements:
        address = _address(element.get("for", ""))
        if not address:
            break
        origin.client = address
        if not trust.trusts(address):
            break
    return origin


cpdef int64_t queued_usec(str value, int64_t now_usec):
    """How long ago a request came to the proxy by its X-Request-Start: `t=` and seconds with a
    fraction (nginx's msec), or seconds, milli-, micro- or nanoseconds since the epoch. 0 if that
    is malformed, in the future, or longer ago than a day."""
    match = _START.fullmatch(value)
    if match is None:
        return 0
    cdef double start = float(match[1])
    while start >= 1e11:  # as seconds that is the year 5138
        start /= 1000
    cdef double waited = now_usec - start * 1e6
    return <int64_t>waited if 0 < waited < 86400e6 else 0


cpdef tuple split_host(str host):
    """Host and port of an authority, the port empty where there is none."""
    name, colon, port = host.rpartition(":")
    if not colon or port.endswith("]"):
        return host, ""
    return name, port


def _elements(value):
    """The elements of a Forwarded field as dicts with names in lower case; [] if malformed."""
    element = {}
    elements = [element]
    at = 0
    while at < len(value):
        match = _PAIR.match(value, at)
        if not match:
            return []
        text = match[2] if match[2] is not None else re.sub(r"\\(.)", r"\1", match[3])
        element[match[1].lower()] = text
        at = match.end()
        while at < len(value) and value[at] in " \t":
            at += 1
        if at == len(value):
            break
        if value[at] == ",":
            element = {}
            elements.append(element)
        elif value[at] != ";":
            return []
        at += 1
        while at < len(value) and value[at] in " \t":
            at += 1
    return elements


cdef str _last(str value):
    return value.rpartition(",")[2].strip()


cdef str _scheme(str value):
    value = value.lower()
    return value if value in ("http", "https") else ""


cdef str _host(str value):
    return value if _HOST.fullmatch(value) else ""


cdef str _address(str text):
    """An IP address out of `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""  # "unknown", "_hidden", or no address at all
