"""Which addresses may be fetched, where their files lie below the cache folder, and the opener."""

import contextlib
import hashlib
import http.client
import io
import ipaddress
import math
import os
import pathlib
import re
import time
import urllib.parse
import urllib.request

from keras_vit.untrusted import is_text, printable, quoted

OFFICIAL_BASE = "https://storage.googleapis.com"
_TIMEOUT_SECONDS = 30.0  # without any byte
# Slower than this over such a time is taken for a connection that is lost.
_MIN_BYTES_A_SECOND, _PACE_SECONDS = 100, 60.0
_HEADER_SECONDS = 60.0  # for all headers of an answer


class RedirectError(ValueError):
    """The server sent us to an address that must not be followed."""


def cache_folder(cache_dir=None):
    """The folder of downloads: `cache_dir`, `KERAS_VIT_HOME`, or one in the user's cache folder."""
    if cache_dir is not None:
        return pathlib.Path(cache_dir).expanduser()
    if home := os.environ.get("KERAS_VIT_HOME"):
        return pathlib.Path(home).expanduser()
    # The XDG specification: a relative path is invalid and has to be ignored.
    xdg = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (xdg if xdg.is_absolute() else pathlib.Path.home() / ".cache") / "keras_vit"


def locate(url):
    """Where a file comes from and where it is kept.

    Args:
        url: `gs://bucket/path`, or an http(s) address.

    Returns:
        (address, None for a bucket's file; tuple of the path's parts below the cache folder).

    Raises:
        ValueError: for an address that must not be fetched or names no file.
    """
    if url.startswith(OFFICIAL_BASE + "/") and "?" not in url:
        url = "gs:/" + urllib.parse.unquote(url[len(OFFICIAL_BASE) :])
    if url.startswith("gs://"):
        address, layout = None, tuple(url[len("gs://") :].split("/"))
    else:
        check_address(url)
        address, parts = url, parse(url)
        *folders, name = urllib.parse.unquote(parts.path).lstrip("/").split("/")
        if parts.query:
            folders.append(hashlib.sha256(parts.query.encode()).hexdigest()[:12])
        layout = ("https", parts.netloc.replace(":", "_"), *folders, name)
    if len(layout) < 2 or any(
        part in ("", ".", "..") or re.search(r"[\\\x00-\x1f]", part) for part in layout
    ):
        raise ValueError(
            "An address must name a file (gs://bucket/path, https://host/path), without empty, `.` "
            f"or `..` parts. Received: {quoted(url)}"
        )
    return address, layout


def parse(address):
    """The parts of an address, as `urllib.parse.urlsplit` has them.

    Raises:
        ValueError: for an address that is none: brackets, a port or a host that cannot be.
    """
    try:
        if not is_text(address):
            raise ValueError("it is no text")
        parts = urllib.parse.urlsplit(address)
        _ = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError as error:
        raise ValueError(
            f"An address must have a host and a port that can be. Received: {quoted(address)} "
            f"({printable(error)})"
        ) from error
    return parts


def _is_loopback(host):
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def check_address(address, trusted_host=None):
    """Raises `ValueError` unless `address` may be fetched; `trusted_host` may be so without TLS."""
    parts = parse(address)
    host = parts.hostname or ""
    plain_is_fine = _is_loopback(host) or host == trusted_host
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and plain_is_fine)):
        raise ValueError(
            "An address must be gs:// or https:// (http:// only for this machine and for "
            f"KERAS_VIT_MIRROR). Received: {quoted(address)}"
        )
    if parts.username or parts.password or parts.fragment or re.search(r"[\s\x00-\x1f]", address):
        raise ValueError(
            "An address must have no user, password, fragment or space. Received: "
            f"{quoted(address)}"
        )


def join(base, layout):
    """The address of a bucket's file below `base`; a `+` is sent as %2B."""
    quoted = (urllib.parse.quote(part, safe="") for part in layout)
    address = "/".join([base.rstrip("/"), *quoted])
    check_address(address, trusted_host=parse(base).hostname)
    return address


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to https only, and from plain http to the same host."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        new = parse(newurl)
        stays = (req.type, new.scheme, new.hostname) == ("http", "http", _host(req))
        if new.scheme != "https" and not stays:
            raise RedirectError(
                f"{req.full_url} redirects to {printable(newurl)}; only https is followed"
            )
        fp.close()  # urllib would read all of its body
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        same_host = (req.type, parse(req.full_url).netloc) == (new.scheme, new.netloc)
        if same_host and req.has_header("Authorization"):
            request.add_unredirected_header("Authorization", req.get_header("Authorization"))
        return request

    def http_error_302(self, req, fp, code, msg, headers):
        """As in urllib, where an address that cannot be parsed is any ValueError."""
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except RedirectError:
            raise
        except ValueError as error:
            raise RedirectError(f"{req.full_url} redirects elsewhere: {error}") from error

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Paced(io.RawIOBase):
    """What a server sends, as long as it comes: a byte now and then is a lost connection.

    Args:
        raw: The socket's stream without a buffer.
    """

    def __init__(self, raw):
        super().__init__()
        self._raw = raw
        self._received, self._start = 0, time.monotonic()
        self.deadline = math.inf

    def readable(self):
        return True

    def readinto(self, buffer):
        count = self._raw.readinto(buffer)
        self._received += count or 0
        seconds = (now := time.monotonic()) - self._start
        if now > self.deadline:
            raise TimeoutError(f"the headers took more than {_HEADER_SECONDS:.0f} seconds")
        if seconds > _PACE_SECONDS:
            if self._received < seconds * _MIN_BYTES_A_SECOND:
                raise TimeoutError(f"{self._received} bytes came in {seconds:.0f} seconds")
            self._received, self._start = 0, now
        return count

    def close(self):
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """Ends when a server is too slow, and refuses chunks of a negative size, of which Python's
    would read all that comes."""

    def __init__(self, sock, *arguments, **keywords):
        super().__init__(sock, *arguments, **keywords)
        self._paced = _Paced(self.fp.detach())
        self.fp = io.BufferedReader(self._paced)

    def begin(self):
        self._paced.deadline = time.monotonic() + _HEADER_SECONDS
        super().begin()
        self._paced.deadline = math.inf

    def _read_next_chunk_size(self):
        size = super()._read_next_chunk_size()
        if size < 0:
            raise ValueError("a chunk has a negative size")
        return size


class _Connection(http.client.HTTPConnection):
    response_class = _Response


class _SecureConnection(http.client.HTTPSConnection):
    response_class = _Response


class _PlainHandler(urllib.request.HTTPHandler):
    def http_open(self, req):
        return self.do_open(_Connection, req)


class _SecureHandler(urllib.request.HTTPSHandler):
    def https_open(self, req):
        return self.do_open(_SecureConnection, req, context=self._context)


def _host(request):
    return parse(request.full_url).hostname


def open_address(address, headers, token=None):
    """The http response of a GET; `urllib.error.URLError` as `urllib.request.urlopen` raises it.

    A token goes to the address's own host and to no other that it redirects to.
    """
    request = urllib.request.Request(address, headers=headers)
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    # Only these handlers: urllib's default opener would also follow ftp:, file: and data:.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler({} if _is_loopback(_host(request)) else None),
        _PlainHandler(),
        _SecureHandler(),
        _Redirects(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener.open(request, timeout=_TIMEOUT_SECONDS)
