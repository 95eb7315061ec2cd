"""Files: read only where they are regular, written beside and renamed, locked between processes."""

import contextlib
import errno
import os
import pathlib
import stat
import uuid

# Of a file's name, what goes into that of the temporary one beside it: with four bytes a letter it
# stays within the 255 bytes that a name may have.
_MAX_NAME = 50
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM)


def check_not_empty_path(path, what="the output"):
    """Raises ValueError for an empty path, which is what an unset shell variable gives.

    Args:
        path: Path or string.
        what: What the path is of, for the message.
    """
    if not os.fspath(path):
        raise ValueError(
            f"the path of {what} must not be empty. Received: {path!r}; write . for the current "
            "folder"
        )


def open_regular(path, *, buffering=-1, follow_links=True):
    """Opens a file for reading bytes, if it is a regular one: no pipe, device or folder.

    Args:
        path: Path of the file.
        buffering: As `open` takes it.
        follow_links: Whether a link is followed to the file that it names.

    Returns:
        A binary file.

    Raises:
        OSError: if it cannot be opened, also where the path is none that a file can have; with the
            message "not a regular file" for anything else.
    """
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    flags |= getattr(os, "O_NONBLOCK", 0)  # a pipe without a writer would wait for one
    if not follow_links:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags)
    except ValueError as error:  # a null byte, or text that no file name can be
        raise OSError(errno.EINVAL, "no path of a file", str(path)) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return os.fdopen(descriptor, "rb", buffering)
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path, max_bytes, *, follow_links=True):
    """The bytes of a regular file of at most `max_bytes`; OSError for anything else."""
    with open_regular(path, follow_links=follow_links) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"larger than {max_bytes} bytes", str(path))
    return content


def open_own(path):
    """Opens a regular file for reading and writing bytes, made if it is missing, never by a link.

    Raises:
        OSError: if it cannot be opened, or is something else.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return os.fdopen(descriptor, "r+b")
    except BaseException:
        os.close(descriptor)
        raise


@contextlib.contextmanager
def replacing(path):
    """A binary file, to write and read, that takes the place of `path` when the block succeeds.

    It is written under another name in the same folder, which is made if needed, and renamed when
    it is on the disk, so that `path` is never half a file.

    Args:
        path: Path of the file; replaced if it exists.

    Raises:
        ValueError: for an empty path.
        OSError: if the folder cannot be written, or the disk is full.
    """
    check_not_empty_path(path)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:_MAX_NAME]}.{uuid.uuid4().hex[:12]}")
    try:
        with open(temporary, "x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path, content):
    """Writes text (as UTF-8) or bytes by `replacing`."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def sync(path):
    """Waits until a file is on the disk, or a folder where the platform can tell.

    Windows opens no folder, and some network file systems sync none: there, renames are kept in
    order by the file system itself.
    """
    is_folder = os.path.isdir(path)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        if is_folder and error.errno in _NO_SYNC:
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not is_folder or error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def lock(path, *, on_wait=None):
    """Holds a lock file, which is removed at the end; one process, and one thread, at a time.

    A lock file that a killed process left is harmless and taken over.

    Args:
        path: Path of the lock file, in a folder that exists.
        on_wait: Function without arguments that is called once before waiting for another holder;
            None does not wait.

    Raises:
        BlockingIOError: if another one holds it, and `on_wait` is None.
        OSError: if it cannot be made, or is a link.
    """
    path = pathlib.Path(path)
    descriptor = _locked_descriptor(path, on_wait)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError, PermissionError):  # the latter on Windows
            path.unlink()
        os.close(descriptor)


def _locked_descriptor(path, on_wait):
    import filelock

    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    while True:
        descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
        try:
            if not filelock.lock_descriptor(descriptor, blocking=False):
                if on_wait is None:
                    raise BlockingIOError(
                        errno.EWOULDBLOCK, "another process is using it", str(path)
                    )
                on_wait()
                filelock.lock_descriptor(descriptor)
            # The holder before may have removed the file that was opened here, and a third process
            # may hold a new one of that name.
            if _is_still(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_still(descriptor, path):
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
