"""The one error of everything that reads or writes checkpoints."""

MAX_LISTED = 20


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, understood, matched or written.

    Attributes:
        path: the file, as a string.
        problems: every problem that was found, one string each.
    """

    def __init__(self, path, problems):
        self.path = str(path)
        self.problems = [problems] if isinstance(problems, str) else list(problems)
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
