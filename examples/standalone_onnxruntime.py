"""Judge an image with a standalone model and nothing of mpft-deploy: the whole client.

    mpft-export DETECTOR detector.onnx --standalone
    python examples/standalone_onnxruntime.py detector.onnx photo.jpg

Needs onnxruntime, Pillow and NumPy. It judges one view, as `mpft screen --views centre` does: a
detector that is calibrated for several is less sure of one. `mpft screen` also calls views without
texture unsure.
"""

import json
import math
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

if len(sys.argv) != 3:
    sys.exit(__doc__)
model, photo = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
spec = json.loads(session.get_modelmeta().custom_metadata_map["mpft.spec"])
size, calibration = spec["crop"]["size"], spec["calibration"]

image = np.asarray(ImageOps.exif_transpose(Image.open(photo)).convert("RGB"))
# The centre at its own pixels; of a smaller image, its centre square is brought up.
side = min(size, *image.shape[:2])
top, left = ((length - side) // 2 for length in image.shape[:2])
window = Image.fromarray(image[top : top + side, left : left + side])
frame = np.asarray(window.resize((size, size), Image.Resampling.BICUBIC))

logit = float(session.run(["logit"], {"frames": frame[None]})[0][0])
z = calibration["scale"] * (logit + calibration["shift"])
probability = 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))
low, high = calibration["unsure"]
verdict = "generated" if probability >= calibration["threshold"] else "real"
unsure = low < probability < high or side < spec["crop"]["least_side"]
print(f"{probability:.3f} {'unsure' if unsure else verdict}")
