"""Judge an image with a standalone model and nothing of mpft-deploy: the whole client.

    mpft-export DETECTOR detector.onnx --standalone
    python examples/standalone_onnxruntime.py detector.onnx photo.jpg

Needs onnxruntime, Pillow and NumPy.
"""

import json
import math
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model, photo = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
spec = json.loads(session.get_modelmeta().custom_metadata_map["mpft.spec"])
size, calibration = spec["crop"]["size"], spec["calibration"]

image = np.asarray(ImageOps.exif_transpose(Image.open(photo)).convert("RGB"))
# Never resize: small images are tiled, and the centre is cut out.
height, width = image.shape[:2]
if min(height, width) < size:
    image = np.tile(image, (-(-size // height), -(-size // width), 1))
top, left = ((side - size) // 2 for side in image.shape[:2])
frame = image[top : top + size, left : left + size]

logit = float(session.run(["logit"], {"frames": frame[None]})[0][0])
z = calibration["scale"] * (logit + calibration["shift"])
probability = 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))
low, high = calibration["unsure"]
verdict = "generated" if probability >= calibration["threshold"] else "real"
print(f"{probability:.3f} {'unsure' if low < probability < high else verdict}")
