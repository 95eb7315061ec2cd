"""A file of predictions that can be gone on with: CSV or JSON lines, whole at the end."""

import contextlib
import csv
import dataclasses
import io
import json
import os
import pathlib

from keras_vit import files
from keras_vit.cli import output
from keras_vit.cli.errors import CommandError, UsageError
from keras_vit.untrusted import csv_cell, printable, quoted

_ENCODING = {"encoding": "utf-8", "errors": "surrogateescape"}  # a path need not be text
COLUMNS = ("class_id", "class_name", "probability")
_MAX_SETTINGS_BYTES, _MAX_FILE_BYTES = 1 << 20, 16 << 30


class CsvFormat:
    """path, error, and a group of columns for each of the best classes, or for each value.

    Text that a spreadsheet would take for a formula is marked with an apostrophe.

    Args:
        top_k: number of classes, or of values.
        columns: names of the columns of each.
    """

    def __init__(self, top_k, columns):
        self.num_cells = top_k * len(columns)
        names = [f"{name}_{i}" for i in range(1, top_k + 1) for name in columns]
        self.header = self._line(["path", "error", *names])

    def line(self, answer):
        """An `ImagePredictions` as a record."""
        values = [value for p in answer.predictions for value in dataclasses.astuple(p)]
        values += [""] * (self.num_cells - len(values))
        return self._line([answer.path, answer.error or "", *values])

    @staticmethod
    def key(path):
        """What `records` gives for a path."""
        return _encodable(csv_cell(path))

    def records(self, text):
        """Yields (record, path, whether it has an error); what has no end is left out.

        A name may hold a line break, within quotes.
        """
        record = ""
        for line in text.split("\n")[:-1]:
            record += f"{line}\n"
            if record.count('"') % 2 == 0:
                path, error = next(csv.reader(io.StringIO(record, newline="")))[:2]
                yield record, path, bool(error)
                record = ""

    @staticmethod
    def _line(values):
        file = io.StringIO(newline="")
        cells = [_encodable(csv_cell(v)) if isinstance(v, str) else v for v in values]
        csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerow(cells)
        return file.getvalue()


class JsonLinesFormat:
    """One object a line, as `--json` prints it."""

    header = ""

    def __init__(self, top_k, columns):
        del top_k, columns

    def line(self, answer):
        """An `ImagePredictions` as a record."""
        return json.dumps(dataclasses.asdict(answer)) + "\n"

    def records(self, text):
        """Yields (record, path, whether it has an error); what has no end is left out."""
        for line in text.split("\n")[:-1]:
            value = json.loads(line)
            yield f"{line}\n", value["path"], value["error"] is not None

    @staticmethod
    def key(path):
        """What `records` gives for a path."""
        return path


def _encodable(text):
    """Text without what the file's encoding cannot write: halves of surrogate pairs."""
    try:
        text.encode(**_ENCODING)
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


FORMATS = {".csv": CsvFormat, ".jsonl": JsonLinesFormat}


def check_output(path, overwrite):
    """Returns the path of a file of predictions before the work begins.

    Raises:
        UsageError: for a name that does not say which format.
        CommandError: if it exists and must not be overwritten, or its folder cannot be written.
    """
    path = output.check_new_file(path, overwrite)
    if path.suffix not in FORMATS:
        raise UsageError(f"--output must end in {' or '.join(FORMATS)}. Received: {path}")
    return path


class PredictionFile:
    """Records of answers, first in `path.partial`, which becomes `path` when all are there.

    What was written is kept when the work is interrupted or killed, and found again by the next
    who opens the same file with the same settings.  One process has it at a time: `path.lock`.

    Args:
        path: of the file.
        settings: a dict of plain values that all answers of a file share.  What identifies them is
            compared; "model", where it lies, is only for messages.
        top_k: classes in an answer.
        overwrite: whether to begin anew.
        columns: what a file says of each class, or of each value.

    Attributes:
        num_done: how many answers there are.
        num_errors: how many of these are errors.

    Raises:
        CommandError: if another process writes it, it is there and must not be overwritten, or
            there is an unfinished file with other settings, a damaged one, or one that is not ours.
    """

    def __init__(self, path, settings, top_k, overwrite=False, columns=COLUMNS):
        self.path = pathlib.Path(path)
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        self._settings_file = self.path.with_name(f"{self.path.name}.partial.json")
        self._format = FORMATS[self.path.suffix](top_k, columns)
        self._done, self.num_errors = set(), 0
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self._lock(stack)
            # Under the lock: another process may have finished it by now.
            output.check_new_file(path, overwrite)
            self._file = stack.enter_context(self._opened(settings, overwrite))
            self._stack = stack.pop_all()

    @property
    def num_done(self):
        return len(self._done)

    def has(self, path):
        """Whether there is an answer for a path."""
        return self._format.key(os.fspath(path)) in self._done

    def _lock(self, stack):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            stack.enter_context(files.lock(self.path.with_name(f"{self.path.name}.lock")))
        except BlockingIOError as error:
            raise CommandError(
                f"another process writes {self.path}; wait for it or choose another name"
            ) from error

    def _opened(self, settings, overwrite):
        """The unfinished file, open for writing behind its whole records."""
        kept = self._format.header
        is_there, is_ours = (os.path.lexists(p) for p in (self.partial, self._settings_file))
        if is_there and not is_ours:
            raise CommandError(
                f"{self.partial} is there, and nothing says that keras-vit wrote it; remove it or "
                "choose another name"
            )
        if is_there and not overwrite:
            kept = self._read(settings)
        else:
            self.partial.unlink(missing_ok=True)
            output.write_json(self._settings_file, settings)
        file = files.open_own(self.partial)
        # What has no end is cut off; whole records are never written again, so none can be lost.
        kept = kept.encode(**_ENCODING)
        if file.seek(0, os.SEEK_END) < len(kept):  # not even its header is whole
            file.seek(0)
            file.write(kept)
        file.truncate(len(kept))
        file.seek(len(kept))
        return file

    def _read(self, settings):
        """The whole records of the unfinished file."""
        remedy = "begin anew with --overwrite"
        try:
            before = json.loads(files.read_regular(self._settings_file, _MAX_SETTINGS_BYTES))
            content = files.read_regular(self.partial, _MAX_FILE_BYTES, follow_links=False)
            if not isinstance(before, dict):
                raise ValueError("no settings")
        except (ValueError, RecursionError) as error:
            raise CommandError(f"{self._settings_file} is damaged; {remedy}") from error
        other = [k for k in settings if k != "model" and before.get(k) != settings[k]]
        if other:
            differences = ", ".join(_difference(key, before, settings) for key in other)
            raise CommandError(
                f"{self.partial} was begun with {differences}; finish it with that, or {remedy}"
            )
        text, kept = content.decode(**_ENCODING).removeprefix(self._format.header), []
        try:
            for record, path, is_error in self._format.records(text):
                kept.append(record)
                self._done.add(str(path))
                self.num_errors += is_error
        except (ValueError, KeyError, TypeError, csv.Error, StopIteration, RecursionError) as error:
            raise CommandError(f"{self.partial} is damaged; {remedy}") from error
        return "".join([self._format.header, *kept])

    def write(self, answer):
        """Adds an `ImagePredictions`."""
        self._file.write(self._format.line(answer).encode(**_ENCODING))
        self._file.flush()
        self._done.add(self._format.key(answer.path))
        self.num_errors += answer.error is not None

    def close(self):
        """Leaves what there is to the next who opens it."""
        self._stack.close()

    def finish(self):
        """Gives the file its name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self.partial, self.path)
        with contextlib.suppress(FileNotFoundError):
            self._settings_file.unlink()


def _difference(key, before, settings):
    if key == "model_sha256":
        return f"another model (from {printable(before.get('model'))})"
    return f"{key} {quoted(before.get(key))} instead of {quoted(settings[key])}"
