"""Several workers of one test, as threads of this process that really wait for each other."""

import threading

from keras_vit.distribution.workers import Workers

SECONDS = 60  # until a worker that waits for nobody fails


def run_workers(work, number=2):
    """What `work(workers)` returns or raises in each of the workers, a list."""
    barrier = threading.Barrier(number, timeout=SECONDS)
    contents = [None] * number
    outcomes = [None] * number

    def exchange(index, content):
        contents[index] = content
        barrier.wait()
        gathered = list(contents)
        barrier.wait()
        return gathered

    def run(index):
        workers = Workers(
            index=index, number=number, exchange=lambda content: exchange(index, content)
        )
        try:
            outcomes[index] = work(workers)
        except BaseException as error:
            outcomes[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes
