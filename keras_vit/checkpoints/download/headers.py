"""What a server says in the headers of an answer: parsed once, and believed in nothing."""

import base64
import dataclasses
import re

from keras_vit.untrusted import parse_int, quoted

MAX_RETRY_SECONDS = 3_600
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]{0,200}"')
_DATE = re.compile(r"[A-Za-z0-9 ,:+-]{1,40}")
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


@dataclasses.dataclass(frozen=True)
class Answer:
    """The headers that a download looks at.

    Attributes:
        length: Bytes of the body that follows, or None.
        first: Position of its first byte in the file; 0 if it is the whole file, None if it is a
            part and the server does not say which.
        total: Bytes of the whole file, or None.
        validator: What `If-Range` may carry, a strong ETag or a date; or None.
        content_type: Such as `text/html`, in small letters; or "".
        md5: Hexadecimal digest that Google's storage announces, or None.
        is_plain: Whether the body is the file itself and not compressed.
    """

    length: int | None
    first: int | None
    total: int | None
    validator: str | None
    content_type: str
    md5: str | None
    is_plain: bool


def parse(headers, is_part):
    """The `Answer` in the headers of a response.

    Args:
        headers: `email.message.Message` or `http.client.HTTPMessage`.
        is_part: Whether the status is 206.

    Raises:
        ValueError: for a length that is no number of bytes.
    """
    length = headers.get("Content-Length")
    if length is not None:
        try:
            length = parse_int(length.strip())
        except ValueError as error:
            raise ValueError(f"Content-Length {error}") from error
    first, total = 0, length
    if is_part:
        span = _RANGE.fullmatch(headers.get("Content-Range", ""))
        first, last, total = map(parse_int, span.groups()) if span else (None, None, None)
        if span and not first <= last < total:
            raise ValueError(f"Content-Range is {quoted(span.string)}, which is no range")
    etag, date = headers.get("ETag", ""), headers.get("Last-Modified", "")
    validator = etag if _STRONG_ETAG.fullmatch(etag) else date if _DATE.fullmatch(date) else None
    content_type = headers.get("Content-Type", "").partition(";")[0].strip().lower()[:100]
    return Answer(
        length=length,
        first=first,
        total=total,
        validator=validator,
        content_type=content_type,
        md5=_announced_md5(headers),
        is_plain=headers.get("Content-Encoding", "identity") == "identity",
    )


def retry_after(headers):
    """Seconds that a server asks to wait, at most `MAX_RETRY_SECONDS`; 0.0 if it does not say."""
    try:
        return float(min(parse_int(headers.get("Retry-After", "")), MAX_RETRY_SECONDS))
    except ValueError:
        return 0.0


def _announced_md5(headers):
    """The hexadecimal MD5 in Google's `x-goog-hash: md5=<base64>`; None if not announced."""
    if headers.get("x-goog-stored-content-encoding", "identity") != "identity":
        return None
    hashes = ",".join(headers.get_all("x-goog-hash", []))
    found = re.search(r"\bmd5=([A-Za-z0-9+/]{22}==)", hashes)
    return base64.b64decode(found[1]).hex() if found else None
