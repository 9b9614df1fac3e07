#!/usr/bin/env python3
"""Detection parity: the daemon's boxes against an independent run in Python with the same weights.

Independent here: ffmpeg decodes, numpy makes full-size RGB, Pillow resizes it (antialiased bilinear), ONNX Runtime's own Python
package infers, and numpy decodes and suppresses. Shared: the .onnx file, and the numbers of its model.toml. The RGB is
made in floats, since ffmpeg's own 8-bit conversion moves SSD's boxes by half a pixel.

A box of one side with score >= 0.5 must have a partner of the same class on the other side (which is
asked from 0.4 on, so that a score on the threshold is no mismatch) with IoU >= 0.95. Exit 0 when 99 % have one.

usage: parity.py --weir BINARY --models DIR --weights FILE.onnx --video FILE [--frames 100]
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tomllib

import numpy as np
import onnxruntime
from PIL import Image

STRICT, LOOSE, IOU, SHARE = 0.5, 0.4, 0.95, 0.99


def frames(video, count):
    """RGB pictures, float32, unclipped, at full size: ffmpeg's planes, chroma brought to full size and converted here."""
    probe = subprocess.run(
        ["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "stream=width,height", "-of", "csv=p=0", video],
        check=True, capture_output=True, text=True)
    width, height = (int(v) for v in probe.stdout.strip().split(",")[:2])
    raw = subprocess.run(
        ["ffmpeg", "-v", "error", "-i", video, "-frames:v", str(count), "-vsync", "passthrough", "-f", "rawvideo", "-pix_fmt", "yuv420p", "-"],
        check=True, capture_output=True).stdout
    luma, quarter = width * height, (width // 2) * (height // 2)
    for planes in np.frombuffer(raw, np.uint8).reshape(-1, luma + 2 * quarter):
        y = planes[:luma].reshape(height, width).astype(np.float32)
        u, v = (full_size(planes[luma + i * quarter:][:quarter].reshape(height // 2, width // 2)) for i in (0, 1))
        yield to_rgb(y, u, v)


def full_size(plane):
    """Doubles a chroma plane by linear interpolation; samples sit on even columns (ITU-T H.264, chroma_sample_loc_type 0)
    and between rows."""
    wide = np.repeat(plane, 2, axis=1).astype(np.float32)
    wide[:, 1:-1:2] = (wide[:, 0:-2:2] + wide[:, 2::2]) / 2
    up = np.concatenate([wide[:1], wide[:-1]])
    down = np.concatenate([wide[1:], wide[-1:]])
    tall = np.empty((2 * wide.shape[0], wide.shape[1]), np.float32)
    tall[0::2] = 0.75 * wide + 0.25 * up
    tall[1::2] = 0.75 * wide + 0.25 * down
    return tall


def to_rgb(y, u, v):
    """Limited range; BT.601 up to 576 lines, BT.709 above (ITU-R BT.601-7, BT.709-6)."""
    kr, kb = (0.299, 0.114) if y.shape[0] <= 576 else (0.2126, 0.0722)
    kg = 1 - kr - kb
    y, u, v = (y - 16) * 255 / 219, (u - 128) * 255 / 224, (v - 128) * 255 / 224
    r, b = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    return np.stack([r, (y - kr * r - kb * b) / kg, b], -1)


def shrink(rgb, width, height):
    """Pillow's antialiased bilinear, on floats: no rounding to 8 bits between its passes. Values beyond the nominal range are clipped
    after it, as the daemon does: a clip whose blacks lie under 16 (vtest.avi) gives other edges when they are clipped first."""
    channels = (Image.fromarray(np.ascontiguousarray(rgb[:, :, c]), "F").resize((width, height), Image.BILINEAR) for c in range(3))
    return np.clip(np.stack([np.asarray(c) for c in channels], -1), 0, 255)


def tensor(rgb, spec):
    """The input tensor, and how to come back: x = (tensor_x - dx) / sx."""
    h, w = rgb.shape[:2]
    if spec.get("resize", "letterbox") == "stretch":
        canvas = shrink(rgb, spec["width"], spec["height"])
        sx, sy, dx, dy = spec["width"] / w, spec["height"] / h, 0, 0
    else:
        scale = min(spec["width"] / w, spec["height"] / h)
        rw, rh = round(w * scale), round(h * scale)
        picture = shrink(rgb, rw, rh)
        canvas = np.full((spec["height"], spec["width"], 3), spec.get("pad", 114), np.float32)
        dx, dy = (0, 0) if spec["resize"] == "letterbox-top-left" else ((spec["width"] - rw) // 2, (spec["height"] - rh) // 2)
        canvas[dy:dy + rh, dx:dx + rw] = picture
        sx, sy = rw / w, rh / h
    if spec.get("channels", "rgb") == "bgr":
        canvas = canvas[:, :, ::-1]
    canvas = (canvas - np.float32(spec.get("mean", [0, 0, 0]))) / np.float32(spec.get("std", [1, 1, 1]))
    if spec.get("layout", "nchw") == "nchw":
        canvas = canvas.transpose(2, 0, 1)
    return np.ascontiguousarray(canvas[None], np.float32), (sx, sy, dx, dy)


def iou(box, boxes):
    lo = np.maximum(box[:2], boxes[:, :2])
    hi = np.minimum(box[2:], boxes[:, 2:])
    both = np.prod(np.clip(hi - lo, 0, None), axis=1)
    area = lambda b: np.prod(b[..., 2:] - b[..., :2], axis=-1)
    return both / np.maximum(area(box) + area(boxes) - both, 1e-9)


def suppress(boxes, scores, limit):
    keep, order = [], np.argsort(-scores, kind="stable")
    while len(order):
        best, rest = order[0], order[1:]
        keep.append(best)
        order = rest[iou(boxes[best], boxes[rest]) <= limit]
    return keep


def ssd(outputs, spec):
    """scores [1, N, C], boxes [1, N, (1,) 4] as y1, x1, y2, x2 in 0..1."""
    scores, boxes = outputs[0][0], outputs[1][0].reshape(-1, 4)
    size = np.float32([spec["width"], spec["height"]] * 2)
    return scores, boxes[:, [1, 0, 3, 2]] * size


def yolox(outputs, spec):
    """[1, N, 5 + C] on grids of stride 8, 16, 32."""
    p, rows = outputs[0][0], []
    for stride in (8, 16, 32):
        gh, gw = spec["height"] // stride, spec["width"] // stride
        ys, xs = np.mgrid[:gh, :gw]
        rows.append(np.stack([xs.ravel(), ys.ravel(), np.full(gh * gw, stride)], 1))
    grid = np.concatenate(rows).astype(np.float32)
    centre = (p[:, :2] + grid[:, :2]) * grid[:, 2:]
    half = np.exp(p[:, 2:4]) * grid[:, 2:] / 2
    return p[:, 4:5] * p[:, 5:], np.concatenate([centre - half, centre + half], 1)


READ = {"ssd": ssd, "yolox": yolox}


def detect(session, manifest, rgb):
    spec, out = manifest["input"], manifest["output"]
    data, (sx, sy, dx, dy) = tensor(rgb, spec)
    names = out.get("names") or [o.name for o in session.get_outputs()]
    scores, boxes = READ[out["family"]](session.run(names, {spec["name"]: data}), spec)
    boxes = (boxes - np.float32([dx, dy] * 2)) / np.float32([sx, sy] * 2)
    h, w = rgb.shape[:2]
    boxes = np.clip(boxes, 0, np.float32([w, h] * 2))
    found = []
    for label in range(scores.shape[1]):
        picked = np.flatnonzero(scores[:, label] >= LOOSE)
        for k in suppress(boxes[picked], scores[picked, label], out.get("nms_iou", 0.5)):
            found.append((label, scores[picked[k], label], boxes[picked[k]]))
    return found


def partners(ours, theirs):
    """How many confident boxes of `ours` there are, and how many have no partner in `theirs`; the IoUs."""
    total, missing, ious = 0, 0, []
    for label, score, box in ours:
        if score < STRICT:
            continue
        total += 1
        same = np.float32([b for l, _, b in theirs if l == label]).reshape(-1, 4)
        best = iou(box, same).max() if len(same) else 0
        ious.append(best)
        missing += best < IOU
    return total, missing, ious


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--weir", required=True)
    args.add_argument("--models", required=True, help="a folder with NAME/model.toml")
    args.add_argument("--model", default="coco-ssd")
    args.add_argument("--weights", required=True)
    args.add_argument("--video", required=True)
    args.add_argument("--frames", type=int, default=100)
    args = args.parse_args()
    path = pathlib.Path(args.models) / args.model / "model.toml"
    manifest = tomllib.loads(path.read_text())
    labels = manifest["model"]["labels"]
    run = subprocess.run(
        [args.weir, "try", "--model", args.weights, "--manifest", str(path), f"file:{args.video}", "--frames", str(args.frames),
         "--format", "jsonl", "--min-score", str(LOOSE)], check=True, capture_output=True, text=True)
    ours = [json.loads(line) for line in run.stdout.splitlines()]
    session = onnxruntime.InferenceSession(args.weights, providers=["CPUExecutionProvider"])
    total = missing = 0
    ious = []
    pictures = list(frames(args.video, args.frames))
    if len(ours) != len(pictures):
        print(f"weir saw {len(ours)} frames, ffmpeg {len(pictures)}")
        return 1
    for line, rgb in zip(ours, pictures):
        weir = [(d["class"], d["score"], np.float32([d["bbox"][0], d["bbox"][1], d["bbox"][0] + d["bbox"][2], d["bbox"][1] + d["bbox"][3]]))
                for d in line["detections"]]
        # Classes without a name are never reported; the reference drops them likewise.
        python = [f for f in detect(session, manifest, rgb) if isinstance(labels, str) or labels[f[0]]]
        for a, b in ((weir, python), (python, weir)):
            n, m, i = partners(a, b)
            total, missing, ious = total + n, missing + m, ious + i
    if not total:
        print("no confident box on either side: nothing was compared")
        return 1
    share = 1 - missing / total
    print(f"{args.model} on {len(pictures)} frames: {total} boxes compared both ways, {share:.2%} with IoU >= {IOU} and the same class; "
          f"IoU median {np.median(ious):.4f}, 1st percentile {np.percentile(ious, 1):.4f}")
    return 0 if share >= SHARE else 1


if __name__ == "__main__":
    sys.exit(main())
