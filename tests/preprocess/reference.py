#!/usr/bin/env python3
"""Writes golden.csv: what two programs that are not ours make of the test pictures.

    python3 -m venv v && v/bin/pip install numpy pillow && v/bin/python reference.py > golden.csv

pillow:  each plane resized by Pillow in floats (BILINEAR, `box` for the siting), matrix in numpy.
ffmpeg:  swscale does it all (flags=bilinear), 8 bits out.

The pictures are made from integer formulas, here and in preprocess.rs, so only samples are stored:
case, reference, column, row, and R, G, B in 0..255 before mean and std.
"""
import subprocess
import sys

import numpy as np
from PIL import Image

# name, picture size, tensor size, fit, matrix, range, siting. The Rust side has the same table.
CASES = [
    ("hd", (1920, 1080), (416, 416), "letterbox", "bt709", "limited", "left"),
    ("odd", (641, 359), (300, 300), "stretch", "bt601", "full", "center"),
    ("enlarge", (176, 144), (320, 320), "letterbox", "bt2020", "limited", "left"),
    ("portrait", (202, 406), (96, 64), "top-left", "bt601", "limited", "center"),
]
KR_KB = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
PAD = 114
SAMPLES = 150


def picture(width, height):
    """A zone plate with a triangle wave in Y, colour bars in U, a slope in V."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    phase = ((2 * x - width) ** 2 + (2 * y - height) ** 2) // 16 % 512
    luma = 16 + np.minimum(phase, 511 - phase) * 219 // 255
    half = (width + 1) // 2, (height + 1) // 2
    x, y = np.meshgrid(np.arange(half[0]), np.arange(half[1]))
    u = np.array([128, 44, 156, 72, 184, 100, 212, 128])[x * 8 // half[0]]
    v = 64 + y * 128 // half[1]
    return [plane.astype(np.uint8) for plane in (luma, u, v)]


def place(size, tensor, fit):
    if fit == "stretch":
        return 0, 0, *tensor
    scale = min(tensor[0] / size[0], tensor[1] / size[1])
    w, h = int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)
    return (0, 0, w, h) if fit == "top-left" else ((tensor[0] - w) // 2, (tensor[1] - h) // 2, w, h)


def pillow(planes, size, to, matrix, full, siting):
    out = []
    for i, plane in enumerate(planes):
        sub, shift = (1, 0) if i == 0 else (2, 0.25 if siting == "left" else 0)
        # One more column, as the shifted box may not leave the image; the pictures are flat there.
        plane = np.pad(plane, ((0, 0), (0, 1)), mode="edge") if shift else plane
        box = (shift, 0, size[0] / sub + shift, size[1] / sub)
        image = Image.fromarray(plane.astype(np.float32), mode="F")
        out.append(np.asarray(image.resize(to, Image.Resampling.BILINEAR, box=box), dtype=np.float64))
    y, u, v = out
    kr, kb = KR_KB[matrix]
    y, u, v = (y / 255, (u - 128) / 255, (v - 128) / 255) if full else (
        (y - 16) / 219, (u - 128) / 224, (v - 128) / 224)
    r, b = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    g = (y - kr * r - kb * b) / (1 - kr - kb)
    return np.clip(np.stack([r, g, b], axis=-1) * 255, 0, 255)


def ffmpeg(planes, size, to, matrix, full, siting):
    column = 0 if siting == "left" else 128
    scale = (f"scale={to[0]}:{to[1]}:flags=bilinear+accurate_rnd+full_chroma_int+full_chroma_inp"
             f":in_color_matrix={matrix}:in_range={'full' if full else 'limited'}:out_range=full"
             f":in_h_chr_pos={column}:in_v_chr_pos=128")
    command = ["ffmpeg", "-v", "error", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{size[0]}x{size[1]}",
               "-i", "-", "-vf", scale, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    raw = subprocess.run(command, input=b"".join(p.tobytes() for p in planes), stdout=subprocess.PIPE, check=True)
    return np.frombuffer(raw.stdout, np.uint8).reshape(to[1], to[0], 3).astype(np.float64)


def main():
    print("case,reference,column,row,r,g,b")
    for name, size, tensor, fit, matrix, range_, siting in CASES:
        planes = picture(*size)
        x0, y0, w, h = place(size, tensor, fit)
        made = {}
        for reference in (pillow, ffmpeg):
            out = np.full((tensor[1], tensor[0], 3), float(PAD))
            out[y0:y0 + h, x0:x0 + w] = reference(planes, size, (w, h), matrix, range_ == "full", siting)
            made[reference.__name__] = out
        apart = np.abs(made["pillow"] - made["ffmpeg"])
        print(f"{name}: the references are {apart.max():.2f} apart at most, {apart.mean():.3f} on average",
              file=sys.stderr)
        for reference, out in made.items():
            random = np.random.default_rng(7)
            for _ in range(SAMPLES):
                x, y = random.integers(tensor[0]), random.integers(tensor[1])
                r, g, b = out[y, x]
                print(f"{name},{reference},{x},{y},{r:.2f},{g:.2f},{b:.2f}")


main()
