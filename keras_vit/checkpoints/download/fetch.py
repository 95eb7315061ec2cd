"""Fetching official files: cached, resumed after a cut, verified, and safe between processes.

A bucket's file lies at `<cache>/<bucket>/<path>`, any other at `<cache>/https/<host>/<path>`; the
cache is the environment's `KERAS_VIT_HOME`, or `keras_vit` in the user's cache folder.  While
`NAME` is on its way,

* `NAME.part-data` holds what has come so far, `NAME.part-validator` what the server said of that
  version of the file (ETag or Last-Modified, length, type).  Both stay after a failure, so that the
  next `fetch` goes on from there, and are gone after a success, a failed verification, or where the
  disk is full;
* `NAME.lock` is held by the one process that downloads; others wait for it and then find the file.
  Its holder removes it before letting go; a killed process's is harmless and taken over.

Nothing is written through a link, and nothing that is no file of these names is replaced.

`NAME` itself appears by one atomic rename, when all that is known about it (length, `num_bytes`,
`sha256`, the MD5 that Google's storage announces) agrees, and it opens as what its name says.
"""

import contextlib
import errno
import http.client
import json
import logging
import os
import pathlib
import random
import re
import shutil
import ssl
import stat
import sys
import time
import urllib.error

import tqdm

from keras_vit import files
from keras_vit.checkpoints.download import contents, headers, urls
from keras_vit.errors import DownloadError
from keras_vit.untrusted import printable

_CHUNK_BYTES = 1 << 18
_MAX_FACTS_BYTES = 4_096
_MAX_ATTEMPTS = 50
# Attempts in a row that brought no new byte.
_MAX_IDLE_ATTEMPTS = 5
_BACKOFF_SECONDS = 0.5
_MAX_BACKOFF_SECONDS = 30.0
# Where the length is not known: several times the largest published file, and what must stay free.
_MAX_UNKNOWN_BYTES = 64 << 30
_SPACE_CHECK_BYTES = 16 << 20
_RESERVED_BYTES = 64 << 20
_DISK_IS_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})

_logger = logging.getLogger(__name__)


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
    _, layout = urls.locate(url)
    return urls.cache_folder(cache_dir).joinpath(*layout)


def fetch(url, *, num_bytes=None, sha256=None, cache_dir=None, progress=None, token=None):
    """Returns the local path of a file, downloading it if the cache does not have it.

    In the environment, `KERAS_VIT_MIRROR` is an http(s) address or a local folder, laid out as
    `<bucket>/<path>`, that replaces the official one; `KERAS_VIT_OFFLINE=1` forbids the network.

    Args:
        url: `gs://bucket/path`, or https (http only for this machine and for the mirror).
        num_bytes: exact size, verified where given.
        sha256: hexadecimal digest, verified where given, also for a file that is here already.
        cache_dir: replaces the cache folder.
        progress: whether to draw a bar on stderr; None draws it on terminals only.
        token: sent to that host alone, as the bearer's authorization; never written or shown.

    Returns:
        `pathlib.Path` of a complete file: in the cache, or in the mirror where that is a folder.

    Raises:
        ValueError: for an address that cannot or must not be fetched, or a malformed digest.
        DownloadError: if the file cannot be had (offline, refused, cut too often), does not
            verify, or cannot be written.
    """
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"`sha256` must be 64 hexadecimal digits. Received: {sha256!r}")
    address, layout = urls.locate(url)
    if address is None:
        base = os.environ.get("KERAS_VIT_MIRROR") or urls.OFFICIAL_BASE
        if "://" not in base:
            return _from_folder(pathlib.Path(base).expanduser(), layout, num_bytes, sha256)
        address = urls.join(base, layout)

    path = urls.cache_folder(cache_dir).joinpath(*layout)
    with _explain_os_errors(path):
        if path.is_file():
            _verify(path, num_bytes, sha256)
            return path
        _check_place(path)
        if _is_offline():
            raise DownloadError(
                "KERAS_VIT_OFFLINE forbids the network, and the file is not in the cache. "
                f"Fetch {address} elsewhere and put it at {path}"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.with_name(path.name + ".lock")):
            _check_place(path)
            if path.is_file():
                _verify(path, num_bytes, sha256)
            else:
                show = sys.stderr.isatty() if progress is None else progress
                _Download(address, path, num_bytes, sha256, token).run(show)
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
    wrong = contents.differences(path, num_bytes=num_bytes, sha256=sha256)
    if wrong:
        raise DownloadError(f"The file {path} {wrong}. Delete it to fetch it again")


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


def _check_place(path):
    """Raises DownloadError if something is in a file's place that is no file."""
    if os.path.lexists(path) and not path.is_file():
        raise DownloadError(f"{path} is there and is no regular file. Remove it")


def _lock(path):
    """Holds a lock file, and says so where another process has it."""
    return files.lock(
        path, on_wait=lambda: _logger.info("waiting for another process's download: %s", path)
    )


class _Download:
    """The attempts at one file, made while its lock is held."""

    def __init__(self, address, path, num_bytes, sha256, token=None):
        self.address = address
        self.token = token
        self.path = path
        self.part = path.with_name(path.name + ".part-data")
        self.validator_path = path.with_name(path.name + ".part-validator")
        self.num_bytes = num_bytes
        self.sha256 = sha256
        self.md5 = None
        self.content_type = ""

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
            f"Gave up on {self.address} with {self._received()} bytes: {printable(failure)}. What "
            "has come is kept; call again to go on, or set KERAS_VIT_MIRROR"
        ) from failure

    def _received(self):
        try:
            status = os.lstat(self.part)
        except FileNotFoundError:
            return 0
        if not stat.S_ISREG(status.st_mode):
            raise DownloadError(f"{self.part} is there and is no regular file. Remove it")
        return status.st_size

    def _facts(self):
        """What the server said of the version that has come: validator, total, content_type."""
        try:
            text = files.read_regular(self.validator_path, _MAX_FACTS_BYTES, follow_links=False)
            facts = json.loads(text)
        except FileNotFoundError:
            return {}
        except ValueError:
            return {}
        return facts if isinstance(facts, dict) else {}

    def _discard(self):
        self.part.unlink(missing_ok=True)
        self.validator_path.unlink(missing_ok=True)

    def _attempt(self, offset, bar):
        """One request: appends to the part file and returns when it is complete."""
        asked = {"User-Agent": "keras_vit", "Accept-Encoding": "identity"}
        validator = self._facts().get("validator")
        # Without a validator only a digest can tell whether two halves are of one file.
        if not (validator or self.sha256):
            offset = 0
        if offset:
            asked["Range"] = f"bytes={offset}-"
            if validator:
                asked["If-Range"] = str(validator)
        try:
            with urls.open_address(self.address, asked, self.token) as response:
                self._receive(response, offset, bar)
        except urllib.error.HTTPError as e:
            with e:
                self._on_status(e, offset)
        except urls.RedirectError as e:
            raise DownloadError(str(e)) from e
        except UnicodeError as e:  # a host or a header that is no text of HTTP
            raise DownloadError(f"{self.address}: {e}") from e
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
                f"{self.address}: {error.code} {printable(error.reason)}. Check the name, or fetch "
                f"the file by other means and put it at {self.path}"
            )
        interrupted = _Interrupted(f"{error.code} {printable(error.reason)}")
        interrupted.retry_after = headers.retry_after(error.headers)
        raise interrupted

    def _receive(self, response, offset, bar):
        is_part = response.status == 206
        try:
            answer = headers.parse(response.headers, is_part)
        except ValueError as e:
            raise DownloadError(f"{self.address}: {e}") from e
        validator = answer.validator
        if is_part:
            facts = self._facts()
            known = facts.get("validator")
            is_other = (
                answer.first != offset
                or validator not in (None, known)
                or facts.get("total") not in (None, answer.total)
                or answer.content_type != facts.get("content_type", answer.content_type)
            )
            if is_other:
                raise _Restart("the server sent another part, or one of another version")
            validator = known
        else:
            offset = 0
        total = answer.total
        if not answer.is_plain:
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
        self.md5 = answer.md5
        bar.total, bar.n = total, offset
        facts = {"validator": validator, "total": total, "content_type": answer.content_type}
        try:
            received = self._write(response, offset, facts, bar)
        except OSError as e:
            if e.errno in _DISK_IS_FULL:
                self._discard()
            raise
        if total is not None and received != total:
            raise _Interrupted(f"the connection was cut after {received} of {total} bytes")

    def _write(self, response, offset, facts, bar):
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        flags |= getattr(os, "O_NOFOLLOW", 0) | (0 if offset else os.O_TRUNC)
        limit = _MAX_UNKNOWN_BYTES if facts["total"] is None else facts["total"]
        received, checked = offset, offset
        with os.fdopen(os.open(self.part, flags, 0o666), "wb") as part:
            part.seek(offset)
            if not offset:
                files.write_whole(self.validator_path, json.dumps(facts))
            while chunk := _read(response, min(_CHUNK_BYTES, limit - received + 1)):
                received += len(chunk)
                if received > limit:
                    self._refuse(f"sends more than {limit} bytes")
                part.write(chunk)
                part.flush()
                bar.update(len(chunk))
                if facts["total"] is None and received - checked >= _SPACE_CHECK_BYTES:
                    checked = received
                    if _free_bytes(self.path.parent) < _RESERVED_BYTES:
                        self._refuse("states no length, and the disk is nearly full")
            os.fsync(part.fileno())
            return part.tell()

    def _refuse(self, why):
        self._discard()
        raise DownloadError(f"{self.address} {why}. Nothing was kept")

    def _finish(self):
        """Verifies the part file and gives it its name."""
        wrong = contents.differences(
            self.part, num_bytes=self.num_bytes, sha256=self.sha256, md5=self.md5
        )
        if not (wrong or self.sha256):
            wrong = contents.find_problem(self.part, self.path.name)
        self.validator_path.unlink(missing_ok=True)
        if wrong:
            self._discard()
            raise DownloadError(f"What came from {self.address} {wrong}. Nothing was kept")
        os.replace(self.part, self.path)
        files.sync(self.path.parent)


def _read(response, num_bytes):
    try:
        return response.read(num_bytes)
    except OSError as e:  # Of the connection, not of the disk.
        raise _Interrupted(str(e)) from e


def _free_bytes(folder):
    return shutil.disk_usage(folder).free
