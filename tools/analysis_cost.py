"""Time and memory of all analyses of images beside forward passes that return attention.

    python tools/analysis_cost.py [--model=ViT-B/16] [--image_size=224] [--num_images=128]

Both go through the images in batches of the default size.  Time is that of the processor, over all
threads, which other processes of a busy machine change least; memory is the largest resident set
less that with the model and the images.
"""

import argparse
import pathlib
import threading
import time

import numpy as np

import keras_vit
from keras_vit import analysis
from keras_vit.analysis.blocks import batches

_SAMPLE_SECONDS = 0.02


def main():
    """Measures and prints one line each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="ViT-B/16")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--num_images", type=int, default=128)
    parser.add_argument(
        "--batch_size", type=int, help="instead of the default, which goes by memory"
    )
    arguments = parser.parse_args()
    model = keras_vit.create_model(
        arguments.model, image_size=arguments.image_size, num_classes=1000
    )
    shape = (arguments.num_images, *model.input_shape[1:])
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")

    def forward(images):
        for _, batch in batches(model, images, arguments.batch_size):
            model.attention_weights(batch)

    def analyze(images):
        analysis.analyze(model, images, batch_size=arguments.batch_size)
        analysis.embedding_filters(model, 28)
        analysis.position_similarity(model)
        analysis.weight_statistics(model)

    for function in (forward, analyze):
        function(images[:1])  # what is traced and allocated once
    seconds, megabytes = zip(*(measured(f, images) for f in (forward, analyze)), strict=True)
    print(f"{arguments.num_images} images of {arguments.model} at {arguments.image_size} px")
    print(f"forward passes: {seconds[0]:.1f} s, {megabytes[0]:.0f} MB over the model")
    print(f"all analyses:   {seconds[1]:.1f} s, {megabytes[1]:.0f} MB over the model")
    print(f"ratio: {seconds[1] / seconds[0]:.2f}")


def measured(function, images):
    """(seconds of the processor, MB of memory over what is held before) of a call."""
    before = resident()
    peak, done = [before], threading.Event()

    def watch():
        while not done.wait(_SAMPLE_SECONDS):
            peak.append(max(peak.pop(), resident()))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    start = time.process_time()
    function(images)
    seconds = time.process_time() - start
    done.set()
    thread.join()
    return seconds, peak[0] - before


def resident():
    """The resident set in MB."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
