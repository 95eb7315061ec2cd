"""Fetching official files: cached, resumed after a cut, verified, and safe between processes.

A bucket's file lies at `<cache>/<bucket>/<path>`, any other at `<cache>/https/<host>/<path>`; the
cache is the environment's `KERAS_VIT_HOME`, or `keras_vit` in the user's cache folder.  While
`NAME` is on its way,

* `NAME.part-data` holds what has come so far, `NAME.part-validator` the server's name for that
  version of the file (ETag or Last-Modified).  Both stay after a failure, so that the next `fetch`
  goes on from there, and are gone after a success or a failed verification;
* `NAME.lock` is held (`flock`) by the one process that downloads; others wait for it and then find
  the file.  Its holder removes it before letting go; a killed process's is harmless and taken over.

`NAME` itself appears by one atomic rename, when all that is known about it (length, `num_bytes`,
`sha256`, the MD5 that Google's storage announces) agrees.
"""

import base64
import contextlib
import functools
import hashlib
import http.client
import logging
import os
import pathlib
import random
import re
import shutil
import ssl
import sys
import time
import urllib.error

import tqdm

from keras_vit.checkpoints import addresses

try:
    import fcntl
except ImportError:  # Windows: files have to be put into the cache by hand.
    fcntl = None

_CHUNK_BYTES = 1 << 18
_MAX_ATTEMPTS = 50
# Attempts in a row that brought no new byte.
_MAX_IDLE_ATTEMPTS = 5
_BACKOFF_SECONDS = 0.5
_MAX_BACKOFF_SECONDS = 30.0
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})

_logger = logging.getLogger(__name__)


class DownloadError(OSError):
    """A file could not be fetched, verified or written; the message says what to do."""


class _Interrupted(Exception):
    """The connection failed in a way that another attempt may mend."""


class _Restart(_Interrupted):
    """What came so far belongs to another version of the file."""


_TRANSIENT_ERRORS = (
    _Interrupted,
    http.client.HTTPException,
    ssl.SSLError,
    TimeoutError,
    ConnectionError,
)


def cached_path(url, cache_dir=None):
    """Where `fetch(url)` keeps its file, whether or not it is there."""
    _, layout = addresses.locate(url)
    return addresses.cache_folder(cache_dir).joinpath(*layout)


def fetch(url, *, num_bytes=None, sha256=None, cache_dir=None, progress=None):
    """Returns the local path of a file, downloading it if the cache does not have it.

    In the environment, `KERAS_VIT_MIRROR` is an http(s) address or a local folder, laid out as
    `<bucket>/<path>`, that replaces the official one; `KERAS_VIT_OFFLINE=1` forbids the network.

    Args:
        url: `gs://bucket/path`, or https (http only for this machine and for the mirror).
        num_bytes: exact size, verified where given.
        sha256: hexadecimal digest, verified where given, also for a file that is here already.
        cache_dir: replaces the cache folder.
        progress: whether to draw a bar on stderr; None draws it on terminals only.

    Returns:
        `pathlib.Path` of a complete file: in the cache, or in the mirror where that is a folder.

    Raises:
        ValueError: for an address that cannot or must not be fetched, or a malformed digest.
        DownloadError: if the file cannot be had (offline, refused, cut too often), does not
            verify, or cannot be written.
    """
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"`sha256` must be 64 hexadecimal digits. Received: {sha256!r}")
    address, layout = addresses.locate(url)
    if address is None:
        base = os.environ.get("KERAS_VIT_MIRROR") or addresses.OFFICIAL_BASE
        if "://" not in base:
            return _from_folder(pathlib.Path(base).expanduser(), layout, num_bytes, sha256)
        address = addresses.join(base, layout)

    path = addresses.cache_folder(cache_dir).joinpath(*layout)
    with _explain_os_errors(path):
        if path.is_file():
            _verify(path, num_bytes, sha256)
            return path
        if _is_offline():
            raise DownloadError(
                "KERAS_VIT_OFFLINE forbids the network, and the file is not in the cache. "
                f"Fetch {address} elsewhere and put it at {path}"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.with_name(path.name + ".lock")):
            if path.is_file():
                _verify(path, num_bytes, sha256)
            else:
                show = sys.stderr.isatty() if progress is None else progress
                _Download(address, path, num_bytes, sha256).run(show)
    return path


def _is_offline():
    value = os.environ.get("KERAS_VIT_OFFLINE", "")
    if value not in ("", "0", "1"):
        raise ValueError(f"KERAS_VIT_OFFLINE must be 0 or 1. Received: {value!r}")
    return value == "1"


def _from_folder(folder, layout, num_bytes, sha256):
    path = folder.joinpath(*layout)
    with _explain_os_errors(path):
        if not path.is_file():
            raise DownloadError(f"KERAS_VIT_MIRROR is a folder without {path}; put the file there")
        _verify(path, num_bytes, sha256)
    return path


def _verify(path, num_bytes, sha256):
    """Raises if a file that is here already is not the one that is wanted; never deletes it."""
    wrong = _differences(path, num_bytes=num_bytes, sha256=sha256)
    if wrong:
        raise DownloadError(f"The file {path} {wrong}. Delete it to fetch it again")


def _differences(path, *, num_bytes=None, sha256=None, md5=None):
    """What contradicts the expected values, in words; "" if nothing does."""
    if num_bytes is not None and (size := path.stat().st_size) != num_bytes:
        return f"has {size} bytes instead of {num_bytes}"
    for algorithm, expected in (("sha256", sha256), ("md5", md5)):
        if expected is not None:
            with open(path, "rb") as f:
                empty = functools.partial(hashlib.new, algorithm, usedforsecurity=False)
                found = hashlib.file_digest(f, empty).hexdigest()
            if found != expected.lower():
                return f"has the {algorithm} {found} instead of {expected.lower()}"
    return ""


@contextlib.contextmanager
def _explain_os_errors(path):
    """Turns what the file system says into a `DownloadError` that names the path."""
    try:
        yield
    except DownloadError:
        raise
    except OSError as e:
        raise DownloadError(
            f"Cannot use {e.filename or path}: {e.strerror or e}. Free some space, or set "
            "KERAS_VIT_HOME to a folder that can be written"
        ) from e


@contextlib.contextmanager
def _lock(path):
    """Holds `path` exclusively; removes it at the end, while it is still held."""
    if fcntl is None:
        name = str(path).removesuffix(".lock")
        raise DownloadError(f"Downloading needs POSIX file locks. Put the file at {name} by hand")
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _logger.info("waiting for another process's download: %s", path)
                fcntl.flock(fd, fcntl.LOCK_EX)
            # The holder before us has removed the file that we opened; a third process may hold
            # a new one of that name.
            if not _is_still(fd, path):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
        finally:
            os.close(fd)


def _is_still(fd, path):
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


class _Download:
    """The attempts at one file, made while its lock is held."""

    def __init__(self, address, path, num_bytes, sha256):
        self.address = address
        self.path = path
        self.part = path.with_name(path.name + ".part-data")
        self.validator_path = path.with_name(path.name + ".part-validator")
        self.num_bytes = num_bytes
        self.sha256 = sha256
        self.md5 = None

    def run(self, show_progress):
        idle, failure = 0, None
        with tqdm.tqdm(
            desc=self.path.name, disable=not show_progress, file=sys.stderr,
            unit="B", unit_scale=True, unit_divisor=1024,
        ) as bar:  # fmt: skip
            for _ in range(_MAX_ATTEMPTS):
                before = self._received()
                try:
                    self._attempt(before, bar)
                    return self._finish()
                except _TRANSIENT_ERRORS as e:
                    failure = e
                if isinstance(failure, _Restart):
                    self._discard()
                idle = 0 if self._received() > before else idle + 1
                if idle >= _MAX_IDLE_ATTEMPTS:
                    break
                backoff = _BACKOFF_SECONDS * 2**idle * random.uniform(0.5, 1.0)
                pause = max(backoff, getattr(failure, "retry_after", 0.0))
                time.sleep(min(pause, _MAX_BACKOFF_SECONDS))
        raise DownloadError(
            f"Gave up on {self.address} with {self._received()} bytes: {failure}. What has come is "
            "kept; call again to go on, or set KERAS_VIT_MIRROR"
        ) from failure

    def _received(self):
        return self.part.stat().st_size if self.part.exists() else 0

    def _validator(self):
        if not self.validator_path.exists():
            return None
        return self.validator_path.read_text(encoding="latin-1") or None

    def _discard(self):
        self.part.unlink(missing_ok=True)
        self.validator_path.unlink(missing_ok=True)

    def _attempt(self, offset, bar):
        """One request: appends to the part file and returns when it is complete."""
        headers = {"User-Agent": "keras_vit", "Accept-Encoding": "identity"}
        validator = self._validator()
        # Without a validator only a digest can tell whether two halves are of one file.
        if not (validator or self.sha256):
            offset = 0
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if validator:
                headers["If-Range"] = validator
        try:
            with addresses.open_address(self.address, headers) as response:
                self._receive(response, offset, bar)
        except urllib.error.HTTPError as e:
            with e:
                self._on_status(e, offset)
        except addresses.RedirectError as e:
            raise DownloadError(str(e)) from e
        except urllib.error.URLError as e:
            if isinstance(e.reason, ssl.SSLCertVerificationError):
                raise DownloadError(f"{self.address}: {e.reason}") from e
            raise _Interrupted(str(e.reason)) from e

    def _on_status(self, error, offset):
        if error.code == 416 and offset:
            # Complete already when a process died before renaming it; or of another version.
            if error.headers.get("Content-Range") == f"bytes */{offset}":
                return
            raise _Restart("the server has nothing after the bytes that have come")
        if error.code not in _TRANSIENT_STATUS:
            raise DownloadError(
                f"{self.address}: {error.code} {error.reason}. Check the name, or fetch the file "
                f"by other means and put it at {self.path}"
            )
        interrupted = _Interrupted(f"{error.code} {error.reason}")
        if (seconds := error.headers.get("Retry-After", "")).isdecimal():
            interrupted.retry_after = float(seconds)
        raise interrupted

    def _receive(self, response, offset, bar):
        headers = response.headers
        etag = headers.get("ETag", "")
        # If-Range may carry a strong ETag or a date, not a weak ETag.
        validator = etag if etag.startswith('"') else headers.get("Last-Modified")
        length = headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        if response.status == 206:
            span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
            known = self._validator()
            if not span or int(span[1]) != offset or validator not in (None, known):
                raise _Restart("the server sent another part, or one of another version")
            validator, total = known, int(span[2])
        else:
            offset = 0
        if headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadError(f"{self.address} arrives compressed, which was not asked for")
        if self.num_bytes is not None and total not in (None, self.num_bytes):
            raise DownloadError(
                f"{self.address} has {total} bytes instead of {self.num_bytes}: another file"
            )
        total = self.num_bytes if total is None else total
        if total is None and not (response.chunked or self.sha256):
            raise DownloadError(f"{self.address} states no length, so that a cut would pass unseen")
        if total is not None and total - offset > (free := _free_bytes(self.path.parent)):
            raise DownloadError(
                f"No space for {self.path}: {total - offset} bytes to come, {free} free. Free some "
                "space or set KERAS_VIT_HOME"
            )
        self.md5 = _announced_md5(headers)
        bar.total, bar.n = total, offset
        received = self._write(response, offset, validator, bar)
        if total is not None and received != total:
            raise _Interrupted(f"the connection was cut after {received} of {total} bytes")

    def _write(self, response, offset, validator, bar):
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self.part, flags | (0 if offset else os.O_TRUNC), 0o666)
        with os.fdopen(fd, "wb") as part:
            part.seek(offset)
            if not offset:
                self.validator_path.write_text(validator or "", encoding="latin-1")
            while chunk := _read(response):
                part.write(chunk)
                part.flush()
                bar.update(len(chunk))
            os.fsync(part.fileno())
            return part.tell()

    def _finish(self):
        """Verifies the part file and gives it its name."""
        wrong = _differences(self.part, num_bytes=self.num_bytes, sha256=self.sha256, md5=self.md5)
        self.validator_path.unlink(missing_ok=True)
        if wrong:
            self._discard()
            raise DownloadError(f"What came from {self.address} {wrong}. Nothing was kept")
        os.replace(self.part, self.path)
        fd = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _read(response):
    try:
        return response.read(_CHUNK_BYTES)
    except OSError as e:  # Of the connection, not of the disk.
        raise _Interrupted(str(e)) from e


def _free_bytes(folder):
    return shutil.disk_usage(folder).free


def _announced_md5(headers):
    """The hexadecimal MD5 in Google's `x-goog-hash: md5=<base64>`; None if not announced."""
    if headers.get("x-goog-stored-content-encoding", "identity") != "identity":
        return None
    hashes = ",".join(headers.get_all("x-goog-hash", []))
    found = re.search(r"\bmd5=([A-Za-z0-9+/]{22}==)", hashes)
    return base64.b64decode(found[1]).hex() if found else None
