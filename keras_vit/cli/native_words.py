"""The last words of native code: kept while the command runs, shown if the process dies of them.

Native libraries write to descriptor 2 whatever they like, and most of it is noise.  But when one of
them ends the process (out of memory, an abort), what it has said is all that there is.  A small
process of its own reads the descriptor meanwhile, and writes the end of it to the terminal if this
one is gone without a farewell.
"""

import contextlib
import os
import subprocess
import sys

_farewells = []  # descriptors, of this process

# argv: descriptor of what native code writes, of the farewell, and the command's name.
_READER = """
import os, select, signal, sys
words, farewell = int(sys.argv[1]), int(sys.argv[2])
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
kept, is_gone = b"", False
while True:
    ready, _, _ = select.select([words, farewell], [], [], 0.2 if is_gone else None)
    if words in ready:
        chunk = os.read(words, 65536)
        kept = (kept + chunk)[-4096:]
        if chunk:
            continue
    if is_gone or (words in ready and farewell not in ready):
        break
    if farewell in ready:
        if os.read(farewell, 1):
            os._exit(0)
        is_gone = True
text = kept.decode("utf-8", "replace")
text = " ".join("".join(c if c.isprintable() else " " for c in text).split())[-1500:]
said = f"; its libraries' last words: {text}" if text else "; its libraries said nothing"
line = f"keras-vit: error: the process was ended from outside or by native code{said}\\n"
os.write(2, line.encode())
"""


@contextlib.contextmanager
def kept_words():
    """Yields a descriptor for native code to write to in the place of standard error."""
    with contextlib.ExitStack() as stack:
        words, write_words = os.pipe()
        stack.callback(os.close, write_words)
        farewell, write_farewell = os.pipe()
        _farewells.append(write_farewell)
        reader = None
        try:
            try:
                reader = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _READER, str(words), str(farewell)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(words, farewell),
                )
            finally:
                os.close(words)
                os.close(farewell)
            yield write_words
        finally:  # also where Ctrl-C comes before the reader has begun
            say_farewell()
            _farewells.remove(write_farewell)
            os.close(write_farewell)
            if reader is not None:
                reader.wait()


def say_farewell():
    """Says that this process ends by its own will: nothing is shown then."""
    for descriptor in _farewells:
        with contextlib.suppress(OSError):
            os.write(descriptor, b"x")
