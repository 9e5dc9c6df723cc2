"""By which names a server may be asked.

A page of another site can let its own name mean an address of this network (DNS rebinding), and a
browser then takes this server for that site, whose pages may read all answers. What gives it away
is the name in the header `Host`. Addresses cannot be made to mean another host.
"""

import ipaddress
import re

ANY = "*"
_LOOPBACK = "localhost"
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_HOST = re.compile(r"(?P<host>\[[^\]]+\]|[^:\[\]]+)(?::[0-9]{0,5})?")


class AllowedHosts:
    """Names of this server: localhost, all addresses, and those that are given.

    Args:
        names: of the setting `allowed_hosts`: `videos.example.com`, `*.example.com` for all names
            below one, `*` for any.

    >>> hosts = AllowedHosts(("videos.example.com", "*.lan"))
    >>> [host in hosts for host in ("10.0.0.1:8000", "[::1]", "Videos.Example.com:80", "a.lan")]
    [True, True, True, True]
    >>> [host in hosts for host in ("evil.example", "example.com", "lan", "10.0.0.1.evil.example")]
    [False, False, False, False]
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self._any = ANY in names
        plain = [name.lower().removesuffix(".") for name in names]
        self._names = {_LOOPBACK, *plain}
        self._endings = (f".{_LOOPBACK}", *(name[1:] for name in plain if name.startswith("*.")))

    def __contains__(self, header: object) -> bool:
        """Whether the value of `Host` names this server."""
        if self._any:
            return True
        found = _HOST.fullmatch(header.lower()) if isinstance(header, str) else None
        if found is None:
            return False
        host = found["host"].removesuffix(".")
        return _is_address(host) or host in self._names or host.endswith(self._endings)


def is_name(text: str) -> bool:
    """Whether a word of the setting is one.

    >>> [is_name(word) for word in ("a.example", "*.lan", "*", "10.0.0.1", "http://a", "a:80", "")]
    [True, True, True, True, False, False, False]
    """
    name = text.lower().removesuffix(".").removeprefix("*.")
    return text == ANY or _is_address(name) or _NAME.fullmatch(name) is not None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
