"""Every exception of the package but the command line's own."""

from keras_vit.untrusted import printable

MAX_LISTED = 20
MAX_PROBLEM, MAX_PATH = 1_000, 4_096


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, understood, matched or written.

    Attributes:
        path: the file, as a string.
        problems: every problem that was found, one string each, in one line that a terminal only
            prints: names in it come from the file.
    """

    def __init__(self, path, problems):
        self.path = printable(path, MAX_PATH)
        problems = [problems] if isinstance(problems, str) else problems
        self.problems = [printable(problem, MAX_PROBLEM) for problem in problems]
        super().__init__(self.path, self.problems)

    def __str__(self):
        if len(self.problems) == 1:
            return f"{self.path}: {self.problems[0]}"
        listed = self.problems[:MAX_LISTED]
        more = len(self.problems) - len(listed)
        lines = [f"{self.path}: {len(self.problems)} problems", *(f" {line}" for line in listed)]
        if more:
            lines.append(f" and {more} more")
        return "\n".join(lines)


class DataLayoutError(ValueError):
    """A folder of data that is not laid out as it must be; the message says how."""


class DownloadError(OSError):
    """A file could not be fetched, verified or written; the message says what to do."""


class BadDataError(RuntimeError):
    """A data set has more bad entries than it may have."""


class TrainingError(RuntimeError):
    """A training that cannot go on."""


class ExportError(RuntimeError):
    """An export that was not published because it does not compute what the model computes."""
