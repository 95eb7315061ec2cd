"""Starts several workers of one command on this machine, to try out training on many.

    python tools/launch_local.py --workers 2 -- keras-vit finetune --strategy=multiworker ...

Each gets its TF_CONFIG, and the variables that Keras has for the same on JAX; what it prints is
marked with its index.  The exit code is that of the first worker that fails, or 0.  When one fails
the others have a minute to end by themselves.  SIGTERM is passed on to all of them.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_integer("workers", 2, "How many workers.", lower_bound=1)
flags.DEFINE_float("grace", 60.0, "Seconds that the others have after one has failed.")


def free_ports(number):
    """Ports of 127.0.0.1 that nothing listens on."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def place_in(addresses, index):
    """The environment variables of one worker, for both backends."""
    config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    return {
        "TF_CONFIG": json.dumps(config),
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": addresses[0],
        "KERAS_DISTRIBUTION_NUM_PROCESSES": str(len(addresses)),
        "KERAS_DISTRIBUTION_PROCESS_ID": str(index),
    }


def start(command, index, addresses):
    """Starts one worker, and a thread that passes on what it prints."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **place_in(addresses, index)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def pass_on():
        for line in process.stdout:
            print(f"[worker {index}] {line}", end="", flush=True)

    thread = threading.Thread(target=pass_on)
    thread.start()
    return process, thread


def wait(processes, grace):
    """Waits for all; returns the exit code of the first that fails, or 0."""
    code, deadline = 0, None
    while any(process.poll() is None for process in processes):
        failed = [process.returncode for process in processes if process.returncode]
        if failed and deadline is None:
            code, deadline = failed[0], time.monotonic() + grace
        if deadline is not None and time.monotonic() > deadline:
            for index, process in enumerate(processes):
                if process.poll() is None:
                    print(f"worker {index} goes on and is killed", file=sys.stderr, flush=True)
                    process.kill()
        time.sleep(0.1)
    return code or next((process.returncode for process in processes if process.returncode), 0)


def main(argv):
    command = argv[1:]
    if not command:
        raise app.UsageError("put the command after --")
    addresses = [f"127.0.0.1:{port}" for port in free_ports(FLAGS.workers)]
    workers = [start(command, index, addresses) for index in range(FLAGS.workers)]

    def pass_on(number, frame):
        for process, _ in workers:
            process.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    try:
        code = wait([process for process, _ in workers], FLAGS.grace)
    except KeyboardInterrupt:
        # They have it too, and end by themselves.
        code = wait([process for process, _ in workers], FLAGS.grace) or 130
    for _, thread in workers:
        thread.join()
    # A process that a signal ended has the negative of its number.
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    app.run(main)
