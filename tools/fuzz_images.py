"""Damaged images through the decoder that the pipelines use, in forked children.

    python tools/fuzz_images.py                     50,000 mutants, about three minutes a core
    python tools/fuzz_images.py --mutants=2000      the share of the tests

Each mutant is decoded whole and through a window, by the graph that training, evaluation and the
exported models run.  A child takes `--per_child` of them; the parent sees how it ends.  What must
hold: no child dies by a signal, no call takes a second of computing (a stall ends with the child's
alarm), no child grows by 500 MB, and every mutant is either decoded, in the window to the pixels of
the whole image, or refused with a reason in printable characters.  The exit code is 1 where it does
not.  A mutant is a function of --seed and its number, which is written down before it is decoded.
"""

import collections
import io
import json
import os
import pathlib
import re
import signal
import struct
import sys
import tempfile
import time
import traceback
import zlib

import numpy as np
from absl import app, flags
from PIL import Image

FLAGS = flags.FLAGS
flags.DEFINE_integer("mutants", 50_000, "How many mutants are decoded.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Of the mutants.")
flags.DEFINE_integer("per_child", 1000, "Mutants in one child.", lower_bound=1)
flags.DEFINE_integer("first", 0, "The number of the first mutant.")

MAX_SECONDS = 1.0
MAX_GROWTH = 500 * 2**20


def photograph(height, width):
    """Smooth colours and noise, uint8 (height, width, 3)."""
    rng = np.random.default_rng(height * 10_007 + width)
    coarse = rng.integers(0, 256, (max(height // 8, 2), max(width // 8, 2), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.BICUBIC), np.int32)
    noise = rng.integers(-12, 13, smooth.shape)
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def _save(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _png_with_size(png, width, height):
    """A PNG whose header says another size, with a right checksum."""
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def seeds():
    """name -> bytes: images of every format that a folder may hold, good ones and bombs."""
    photo, small = photograph(37, 53), photograph(8, 9)
    rgba = photo.convert("RGBA")
    frames = {"save_all": True, "append_images": [photo.rotate(180)]}
    small_frames = {"save_all": True, "append_images": [small.convert("RGBA").rotate(180)]}
    jpeg = _save(photo, "JPEG", progressive=True)
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    png = _save(photo, "PNG")
    frame_header = jpeg.index(b"\xff\xc2")
    large = struct.pack(">HH", 20_000, 20_000)
    grey16 = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)
    return {
        **{f"jpeg_{s}": _save(photo, "JPEG", subsampling=s) for s in ("4:4:4", "4:2:2", "4:2:0")},
        "jpeg_progressive": jpeg,
        "jpeg_grey": _save(photo.convert("L"), "JPEG"),
        "jpeg_cmyk": _save(photo.convert("CMYK"), "JPEG"),
        "jpeg_restart": _save(photo, "JPEG", restart_marker_blocks=2),
        "jpeg_bomb": jpeg[: frame_header + 5] + large + jpeg[frame_header + 9 :],
        "jpeg_99_scans": jpeg[:-2] + scan * (99 - jpeg.count(b"\xff\xda")) + b"\xff\xd9",
        "jpeg_scan_bomb": jpeg[:-2] + scan * 2000 + b"\xff\xd9",
        "png": png,
        "png_grey": _save(photo.convert("L"), "PNG"),
        "png_16_bits": _save(grey16, "PNG"),
        "png_1_bit": _save(photo.convert("1"), "PNG"),
        "png_palette": _save(photo.quantize(16), "PNG", transparency=3),
        "png_alpha": _save(rgba, "PNG"),
        "png_animated": _save(photo, "PNG", **frames),
        "png_bomb": _png_with_size(png, 20_000, 20_000),
        "gif": _save(photo, "GIF"),
        "gif_animated": _save(photo, "GIF", **frames),
        "bmp": _save(photo, "BMP"),
        "bmp_palette": _save(photo.quantize(16), "BMP"),
        "webp": _save(photo, "WEBP"),
        "webp_animated": _save(photo, "WEBP", **frames),
        "webp_animated_alpha": _save(small.convert("RGBA"), "WEBP", **small_frames),
        "tiff": _save(photo, "TIFF"),
        "ico": _save(small, "ICO"),
        "jpeg_xl": b"\xff\x0a" + bytes(range(130)),
        "jpeg_xl_container": b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(range(120)),
        "jpeg_2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(range(120)),
        "html": b"<!DOCTYPE html><html><body>404</body></html>",
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    }


MAGICS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\xff\x0a", b"RIFF\x40\x00\x00\x00WEBPVP8X")


def mutant(images, names, number, seed):
    """(name of the seed, bytes), a function of the number and the seed alone."""
    rng = np.random.default_rng((seed, number))
    # Four of five mutants are of the formats that reach a decoder.
    decoded = [name for name in names if name.startswith(("jpeg_", "png"))]
    name = (names if rng.random() < 0.2 else decoded)[rng.integers(10**6) % len(decoded)]
    data = bytearray(images[name])
    kind = rng.integers(6)
    if kind in (0, 1):  # bytes of the header, or of anywhere
        for _ in range(rng.integers(1, 9)):
            data[rng.integers(min(len(data), 700 if kind == 0 else len(data)))] = rng.integers(256)
    elif kind == 2:  # cut
        data = data[: rng.integers(len(data) + 1)]
    elif kind == 3:  # a piece is left out or stands twice
        start, end = sorted(rng.integers(len(data) + 1, size=2))
        data = data[:start] + data[start:end] * int(rng.choice([0, 2])) + data[end:]
    elif kind == 4:  # a size or length of a segment
        place = rng.integers(max(len(data) - 4, 1))
        value = int(rng.choice([0, 1, 255, 65_535, 2**31 - 1, 2**32 - 1]))
        data[place : place + 4] = struct.pack(">I", value)
    else:  # the head of one format on another
        data = bytearray(MAGICS[rng.integers(len(MAGICS))]) + data[rng.integers(16) :]
    if name.startswith("png") and rng.random() < 0.7:
        data = _with_right_checksums(bytes(data))
    return name, bytes(data)


def _with_right_checksums(png):
    """So that damage inside of a chunk reaches the decoder."""
    result, position = png[:8], 8
    while position + 12 <= len(png):
        length = int.from_bytes(png[position : position + 4], "big")
        body = png[position + 4 : position + 8 + length]
        if position + 12 + length > len(png):
            break
        result += png[position : position + 4] + body + struct.pack(">I", zlib.crc32(body))
        position += 12 + length
    return result + png[position:]


def child(first, last, seed, report):
    """Decodes mutants; writes its progress and at its end a line of JSON."""
    signal.alarm(600)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # what native code logs
    import tensorflow as tf

    from keras_vit.data.images import decode

    def window(size):
        return tf.concat([size // 4, size - size // 2], axis=0)

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)])
    def both(data):
        whole, problem = decode.try_decode_image(data)
        part, part_problem = decode.try_decode_image(data, find_window=window)
        return whole, problem, part, part_problem

    images = seeds()
    names = sorted(images)
    both(images["png"])
    both(images["jpeg_cmyk"])

    def memory():
        status = pathlib.Path("/proc/self/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s*(\d+)", status)[1])

    start, slowest, outcomes, wrong = memory(), 0.0, collections.Counter(), []
    limit = start + 4 * 2**30
    for number in range(first, last):
        name, data = mutant(images, names, number, seed)
        report.seek(0)
        report.write(f"{number} {name}\n".ljust(60))
        report.flush()
        began = time.process_time()
        try:
            whole, problem, part, part_problem = (x.numpy() for x in both(tf.constant(data)))
        except Exception as error:
            wrong.append((number, name, f"{type(error).__name__}: {error}"[:200]))
            continue
        seconds = time.process_time() - began
        if seconds > slowest:
            slowest = seconds
        if problem:
            outcomes["refused"] += 1
            # What is damaged below the window is not read.
            agrees = part_problem == problem or problem.startswith(b"the decoder refused")
            if not agrees or re.search(rb"[^ -~]", problem + part_problem):
                wrong.append((number, name, f"{problem!r}, of the window {part_problem!r}"))
        elif part_problem:
            wrong.append((number, name, f"decoded, of the window {part_problem!r}"))
        else:
            outcomes["decoded"] += 1
            height, width, _ = whole.shape
            expected = whole[height // 4 :, width // 4 :][: height - height // 2]
            if not np.array_equal(part, expected[:, : width - width // 2]):
                wrong.append((number, name, "the window's pixels differ from the whole image's"))
        if memory() > limit:
            break
    line = {"outcomes": outcomes, "slowest": slowest, "growth": memory() - start, "wrong": wrong}
    report.seek(60)
    report.write(json.dumps(line))
    report.flush()


def run_child(first, last, seed):
    """Forks a child and returns (what it reported or None, signal, where it was)."""
    with tempfile.TemporaryFile("w+") as report:
        pid = os.fork()
        if pid == 0:
            try:
                child(first, last, seed, report)
            except BaseException:
                traceback.print_exc(file=sys.stdout)
                sys.stdout.flush()
            finally:
                os._exit(0)
        _, status = os.waitpid(pid, 0)
        report.seek(0)
        text = report.read()
        killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        line = text[60:]
        return (json.loads(line) if line else None), killed, text[:60].strip()


def main(argv):
    if len(argv) > 1:
        raise app.UsageError("no arguments are expected")
    import tensorflow  # once, and not a single operation of it before the forks

    from keras_vit.data.images import decode

    del tensorflow, decode
    outcomes, wrong, slowest, growth, deaths = collections.Counter(), [], 0.0, 0, []
    end = FLAGS.first + FLAGS.mutants
    for first in range(FLAGS.first, end, FLAGS.per_child):
        result, killed, place = run_child(first, min(first + FLAGS.per_child, end), FLAGS.seed)
        if result is None:
            deaths.append(f"signal {killed} at mutant {place}")
            print(deaths[-1], flush=True)
            continue
        outcomes.update(result["outcomes"])
        wrong += result["wrong"]
        slowest, growth = max(slowest, result["slowest"]), max(growth, result["growth"])
    print(
        f"{FLAGS.mutants} mutants of seed {FLAGS.seed}: {outcomes['decoded']} decoded, "
        f"{outcomes['refused']} refused, {len(wrong)} wrong, {len(deaths)} children died; the "
        f"slowest call {slowest:.3f} s, the largest growth {growth / 2**20:.0f} MiB"
    )
    for number, name, what in wrong[:20]:
        print(f"mutant {number} of {name}: {what}")
    sys.exit(bool(wrong or deaths or slowest > MAX_SECONDS or growth > MAX_GROWTH))


if __name__ == "__main__":
    app.run(main)
