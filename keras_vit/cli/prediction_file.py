"""A file of predictions that can be gone on with: CSV or JSON lines, whole at the end."""

import contextlib
import csv
import dataclasses
import io
import json
import os
import pathlib

from keras_vit.cli import output
from keras_vit.cli.errors import CommandError, UsageError

_ENCODING = {"encoding": "utf-8", "errors": "surrogateescape"}  # a path need not be text


class CsvFormat:
    """path, error, and three columns for each of the best classes.

    Args:
        top_k: number of classes.
    """

    def __init__(self, top_k):
        self.top_k = top_k
        ranks = range(1, top_k + 1)
        names = [f"{name}_{i}" for i in ranks for name in ("class_id", "class_name", "probability")]
        self.header = self._line(["path", "error", *names])

    def line(self, answer):
        """An `ImagePredictions` as a record."""
        values = [value for p in answer.predictions for value in dataclasses.astuple(p)]
        values += [""] * (3 * self.top_k - len(values))
        return self._line([answer.path, answer.error or "", *values])

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
        csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerow(values)
        return file.getvalue()


class JsonLinesFormat:
    """One object a line, as `--json` prints it."""

    header = ""

    def __init__(self, top_k):
        del top_k

    def line(self, answer):
        """An `ImagePredictions` as a record."""
        return json.dumps(dataclasses.asdict(answer)) + "\n"

    def records(self, text):
        """Yields (record, path, whether it has an error); what has no end is left out."""
        for line in text.split("\n")[:-1]:
            value = json.loads(line)
            yield f"{line}\n", value["path"], value["error"] is not None


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
    who opens the same file with the same settings.

    Args:
        path: of the file.
        settings: a dict of plain values that all answers of a file share.
        top_k: classes in an answer.
        overwrite: whether to begin anew.

    Attributes:
        done: set of the paths that have an answer.
        num_errors: how many of these are errors.

    Raises:
        CommandError: if there is an unfinished file with other settings.
    """

    def __init__(self, path, settings, top_k, overwrite=False):
        self.path = pathlib.Path(path)
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        self._settings_file = self.path.with_name(f"{self.path.name}.partial.json")
        self._format = FORMATS[self.path.suffix](top_k)
        self.done, self.num_errors = set(), 0
        kept = self._format.header
        if self.partial.exists() and not overwrite:
            kept = self._read(settings)
        else:
            self.partial.unlink(missing_ok=True)
            output.write_json(self._settings_file, settings)
        self._begin(kept.encode(**_ENCODING))
        self._file = open(self.partial, "a", newline="", **_ENCODING)  # noqa: SIM115

    def _read(self, settings):
        """The whole records of the unfinished file."""
        before = None
        if self._settings_file.exists():
            before = json.loads(self._settings_file.read_text(encoding="utf-8"))
        if before != settings:
            raise CommandError(
                f"{self.partial} was begun with other settings, {before}; finish it with these, or "
                "begin anew with --overwrite"
            )
        with open(self.partial, newline="", **_ENCODING) as file:
            text = file.read().removeprefix(self._format.header)
        kept = [self._format.header]
        for record, path, is_error in self._format.records(text):
            kept.append(record)
            self.done.add(path)
            self.num_errors += is_error
        return "".join(kept)

    def _begin(self, whole):
        """Cuts off what has no end; whole records are never written again, so none can be lost."""
        with open(self.partial, "ab") as file:
            if file.tell() >= len(whole):
                file.truncate(len(whole))
            else:  # not even its header is whole
                file.truncate(0)
                file.write(whole)

    def write(self, answer):
        """Adds an `ImagePredictions`."""
        self._file.write(self._format.line(answer))
        self._file.flush()
        self.done.add(answer.path)
        self.num_errors += answer.error is not None

    def close(self):
        """Leaves what there is to the next who opens it."""
        self._file.close()

    def finish(self):
        """Gives the file its name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self.partial, self.path)
        with contextlib.suppress(FileNotFoundError):
            self._settings_file.unlink()
