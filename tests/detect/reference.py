#!/usr/bin/env python3
"""An independent reading of detector outputs, with numpy and in double precision.

    reference.py DIR            decode every case in DIR and compare with the boxes stored in it
    reference.py --write DIR    make the synthetic cases, decode every case, and store the boxes

It shares no code and no shape with src/flow/detect: it decodes whole tensors at once and sorts out
afterwards what is wanted. tests/detect_golden.rs holds the Rust decoder to the stored boxes.

A case is JSON: family, input [w, h], labels (1 named, 0 nameless), floor, iou, place [scale x, y, offset x, y], frame
[w, h], and the outputs of one frame (no batch dimension). A tensor [R, ...] is seen as a matrix of R rows; it is either
- sparse: `fill` everywhere but in the listed rows (or columns), or
- random: `lo + (hi - lo) * u ** (2 ** squarings)` in single precision, u from the generator below, group by group along rows
  or columns; then `spoil` values at random places become NaN, +inf, -inf in turn.

The cases real_* are what ONNX Runtime made of the 100th frame of Debian's vtest.avi (opencv-doc), resized by OpenCV as each
network wants it: anchors under the case's floor are left out, values rounded to four digits (scores under 0.05 to three places).
"""
import glob
import json
import os
import sys

import numpy as np

F = np.float32


def lcg(seed):
    """Knuth's MMIX generator; the upper 24 bits are the number."""
    x = seed
    while True:
        x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
        yield x >> 40


def tensor(out):
    dims = out["dims"]
    rows, size = dims[0], int(np.prod(dims))
    if "fill" in out:
        m = np.full((rows, size // rows), out["fill"], F)
        target = m if out["along"] == "rows" else m.T
        if out["index"]:
            target[out["index"]] = np.array(out["values"], F)
        return m.reshape(dims)
    gen = lcg(out["seed"])
    u = np.fromiter((next(gen) for _ in range(size)), np.int64, size).astype(F) / F(2**24)
    m = u.reshape(rows, size // rows)
    target = m if out["along"] == "rows" else m.T
    at = 0
    for count, lo, hi, squarings in out["groups"]:
        part = target[at:at + count].copy()
        for _ in range(squarings):
            part = part * part
        target[at:at + count] = F(lo) + F(F(hi) - F(lo)) * part
        at += count
    assert at == len(target), (at, len(target))
    flat = m.reshape(-1)
    for k in range(out.get("spoil", 0)):
        flat[next(gen) % size] = [np.nan, np.inf, -np.inf][k % 3]
    return flat.reshape(dims)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def centred(cx, cy, w, h):
    return np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], -1)


def grid(w, h, strides, shift):
    """Points and strides of all cells, row by row, in cells."""
    points, scale = [], []
    for s in strides:
        columns, lines = -(-w // s), -(-h // s)
        y, x = np.divmod(np.arange(columns * lines), columns)
        points.append(np.stack([x + shift, y + shift], 1))
        scale.append(np.full(columns * lines, s))
    return np.concatenate(points).astype(float), np.concatenate(scale).astype(float)


def read(case, t):
    """Objectness or None, class values [N, C], the map to scores, corners [N, 4] in tensor pixels, raw box values."""
    w, h = case["input"]
    family = case["family"]
    t = [a.astype(np.float64) for a in t]
    c = len(case["labels"])
    if family == "ssd":
        b = t[1].reshape(-1, 4)
        return None, t[0], None, b[:, [1, 0, 3, 2]] * [w, h, w, h], b
    if family == "nano-det":
        if len(t) == 1:
            cls, reg, plus = t[0][:, :c], t[0][:, c:], len(t[0]) not in (3549, 2100)
        else:
            half = len(t) // 2
            cls, reg, plus = np.concatenate(t[:half]), np.concatenate(t[half:]), half == 4
        points, s = grid(w, h, [8, 16, 32, 64][: 4 if plus else 3], 0.0 if plus else 0.5)
        reg = reg.reshape(len(cls), 4, -1)
        p = np.exp(reg - reg.max(-1, keepdims=True))
        d = (p * np.arange(p.shape[-1])).sum(-1) / p.sum(-1)
        return None, cls, None, np.concatenate([points - d[:, :2], points + d[:, 2:]], 1) * s[:, None], reg.reshape(len(cls), -1)
    if family == "yolox":
        a = t[0]
        points, s = grid(w, h, [8, 16, 32], 0.0)
        xy, wh = (a[:, :2] + points) * s[:, None], np.exp(a[:, 2:4]) * s[:, None]
        return a[:, 4], a[:, 5:], None, np.concatenate([xy - wh / 2, xy + wh / 2], 1), a[:, :4]
    if family == "yolov8":
        a = t[0].T if t[0].shape[0] == 4 + c else t[0]
        return None, a[:, 4:], None, centred(*a[:, :4].T), a[:, :4]
    if family == "yolov5":
        a = t[0]
        return a[:, 4], a[:, 5:], None, centred(*a[:, :4].T), a[:, :4]
    if family == "detr":
        return None, t[0], sigmoid, centred(*t[1].T) * [w, h, w, h], t[1]
    if family == "fastest-det":
        _, rows, columns = t[0].shape
        a = t[0].reshape(5 + c, -1).T
        line, column = np.divmod(np.arange(rows * columns), columns)
        cx, cy = (column + np.tanh(a[:, 1])) / columns, (line + np.tanh(a[:, 2])) / rows
        box = centred(cx, cy, sigmoid(a[:, 3]), sigmoid(a[:, 4])) * [w, h, w, h]
        return a[:, 0], a[:, 5:], None, box, a[:, 1:5]
    raise ValueError(family)


def iou(a, b):
    """[N, 4] and [M, 4] as x, y, w, h."""
    lo = np.maximum(a[:, None, :2], b[None, :, :2])
    hi = np.minimum((a[:, :2] + a[:, 2:])[:, None], (b[:, :2] + b[:, 2:])[None])
    both = np.clip(hi - lo, 0, None).prod(-1)
    return both / (a[:, 2:].prod(-1)[:, None] + b[:, 2:].prod(-1)[None] - both)


def decode(case, tensors):
    """Boxes as [class, score, x, y, w, h] best first, the number spoilt, the number of unknown classes."""
    floor, named = case["floor"], np.array(case["labels"], bool)
    spoilt = unknown = 0
    with np.errstate(all="ignore"):
        if case["family"] == "end-to-end":
            a = tensors[0].astype(np.float64)
            seen = ~(a[:, 4] < floor)
            bad = seen & ~np.isfinite(a[:, 4:]).all(1)
            cls = np.where(np.isfinite(a[:, 5]), np.rint(a[:, 5]), -1)
            off = seen & ~bad & ((cls < 0) | (cls >= len(named)))
            unknown = int(off.sum())
            seen &= ~off & ~bad
            seen[seen] = named[cls[seen].astype(int)]
            broken = seen & ~np.isfinite(a[:, :4]).all(1)
            spoilt = int((bad | broken).sum())
            seen &= ~broken
            score, corners = a[:, 4], a[:, :4]
        else:
            objectness, values, to_score, corners, raw = read(case, tensors)
            values = values[:, named]
            finite = np.isfinite(values).all(1)
            cls = np.flatnonzero(named)[np.argmax(np.where(finite[:, None], values, 0), 1)]
            score = np.where(finite, values.max(1), np.nan)
            seen = np.ones(len(score), bool)
            if to_score:
                score = to_score(score)
            if case["family"] == "fastest-det":
                seen = ~(objectness < floor ** (1 / 0.6))
                score = np.sign(objectness) * np.abs(objectness) ** 0.6 * score**0.4
                finite &= np.isfinite(objectness)
            elif objectness is not None:
                seen = ~(objectness < floor)
                score = objectness * score
                finite &= np.isfinite(objectness)
            bad = seen & ~finite
            seen &= finite & (score >= floor)
            broken = seen & ~np.isfinite(raw).all(1)
            spoilt = int((bad | broken).sum())
            seen &= ~broken
        near = np.isfinite(score) & (np.abs(score - floor) < 1e-6)
        assert not near.any() or not case.get("seeded"), "a score on the floor: choose another seed"

    sx, sy, ox, oy = case["place"]
    w, h = case["frame"]
    index = np.flatnonzero(seen)
    c = (corners[index] - [ox, oy, ox, oy]) / [sx, sy, sx, sy]
    c = np.clip(c, 0, [w, h, w, h])
    box = np.concatenate([c[:, :2], c[:, 2:] - c[:, :2]], 1)
    index, box = index[(box[:, 2:] > 0).all(1)], box[(box[:, 2:] > 0).all(1)]
    score = np.minimum(score[index], 1.0)
    cls = cls[index].astype(int)
    order = np.lexsort((index, -score))[:1000]
    score, cls, box = score[order], cls[order], box[order]
    keep = np.ones(len(score), bool)
    if case["family"] not in ("end-to-end", "detr"):
        overlap = np.where(cls[:, None] == cls[None], iou(box, box), 0)
        upper = np.triu(overlap, 1)
        assert not (np.abs(upper - case["iou"]) < 3e-6).any(), "an overlap on the threshold: choose another seed"
        for i in range(len(score)):
            if keep[i]:
                keep &= ~(upper[i] > case["iou"])
    boxes = [[int(k), float(s), *map(float, b)] for k, s, b in zip(cls[keep], score[keep], box[keep])][:300]
    return boxes, spoilt, unknown


def rnd(dims, along, seed, groups, spoil=0):
    return {"dims": dims, "along": along, "seed": seed, "groups": groups, "spoil": spoil}


# Holes of COCO's 90 numbers.
HOLES = [11, 25, 28, 29, 44, 65, 67, 68, 70, 82]
COCO = [0 if i in HOLES else 1 for i in range(90)]


def synthetic():
    """Shapes of real networks; numbers chosen so that some dozens of boxes stay."""
    place = {"place": [0.2166667, 0.2166667, 0.0, 91.0], "frame": [1920, 1080]}
    square = {"place": [0.3333333, 0.3333333, 0.0, 140.0], "frame": [1920, 1080]}
    eighty, three = [1] * 80, [1, 0, 1]
    cells = lambda side, strides: [(-(-side // s)) ** 2 for s in strides]

    def heads(side, strides, c, bins, k, spoil):
        grids = cells(side, strides)
        return [rnd([n, c], "columns", 40 + i, [[c, 0, 1, k]], spoil) for i, n in enumerate(grids)] + [
            rnd([n, 4 * bins], "columns", 50 + i, [[4 * bins, -3, 6, 0]], spoil) for i, n in enumerate(grids)
        ]

    yield "ssd_coco", "ssd", 300, COCO, {"place": [0.15625, 0.2777778, 0, 0], "frame": [1920, 1080]}, [
        rnd([1917, 90], "columns", 1, [[90, 0, 1, 12]], 40),
        rnd([1917, 1, 4], "columns", 2, [[2, -0.1, 0.5, 0], [2, 0.4, 1.1, 0]], 20),
    ]
    yield "ssd_crowd", "ssd", 300, three, {"place": [0.15625, 0.2777778, 0, 0], "frame": [1920, 1080]}, [
        rnd([500, 3], "columns", 3, [[3, 0, 1, 2]]),
        rnd([500, 4], "columns", 4, [[2, 0, 0.6, 0], [2, 0.3, 1.0, 0]]),
    ]
    yield "nanodet", "nano-det", 416, eighty, place, heads(416, [8, 16, 32], 80, 11, 13, 30)
    yield "nanodet_plus", "nano-det", 320, three, {"place": [0.5, 0.5, 0, 0], "frame": [640, 640]}, heads(
        320, [8, 16, 32, 64], 3, 8, 7, 5
    )
    yield "nanodet_joint", "nano-det", 320, three, {"place": [0.5, 0.5, 0, 0], "frame": [640, 640]}, [
        rnd([2125, 3 + 32], "columns", 60, [[3, 0, 1, 6], [32, -3, 6, 0]], 30)
    ]
    yield "yolox", "yolox", 416, eighty, {"place": [0.2166667, 0.2166667, 0, 0], "frame": [1920, 1080]}, [
        rnd([3549, 85], "columns", 5, [[2, -0.5, 1.5, 0], [2, 0, 2.5, 0], [1, 0, 1, 4], [80, 0, 1, 5]], 60)
    ]
    yield "yolox_crowd", "yolox", 416, three, {"place": [0.65, 0.5416667, 0, 0], "frame": [640, 768]}, [
        rnd([3549, 8], "columns", 6, [[2, -0.5, 1.5, 0], [2, 1, 4, 0], [1, 0, 1, 3], [3, 0, 1, 0]])
    ]
    yield "yolov8", "yolov8", 640, eighty, square, [
        rnd([84, 8400], "rows", 7, [[2, 0, 640, 0], [2, 8, 300, 1], [80, 0, 1, 14]], 90)
    ]
    yield "yolov8_rows_crowd", "yolov8", 640, three, square, [
        rnd([8400, 7], "columns", 8, [[2, 0, 640, 0], [2, 60, 300, 1], [3, 0, 1, 3]])
    ]
    yield "yolov5", "yolov5", 320, eighty, {"place": [0.1666667, 0.1666667, 0, 70], "frame": [1920, 1080]}, [
        rnd([6300, 85], "columns", 9, [[2, 0, 320, 0], [2, 4, 160, 1], [1, 0, 1, 5], [80, 0, 1, 5]], 80)
    ]
    yield "end_to_end", "end-to-end", 640, eighty, square, [
        rnd([300, 6], "columns", 10, [[2, -20, 300, 0], [2, 280, 660, 0], [1, 0, 1, 3], [1, -1.4, 82.4, 0]], 40)
    ]
    yield "detr", "detr", 640, eighty, square, [
        rnd([300, 80], "columns", 11, [[80, -9, 3, 7]], 30),
        rnd([300, 4], "columns", 12, [[2, 0, 1, 0], [2, 0.01, 0.5, 1]], 20),
    ]
    yield "fastestdet", "fastest-det", 352, eighty, {"place": [0.1833333, 0.3259259, 0, 0], "frame": [1920, 1080]}, [
        rnd([85, 22, 22], "rows", 13, [[1, 0, 1, 2], [2, -2, 2, 0], [2, -4, 0.5, 0], [80, 0, 1, 6]], 40)
    ]


def store(path, case):
    rows = lambda key: "[\n" + ",\n".join("  " + json.dumps(r, separators=(",", ":")) for r in case[key]) + "\n ]"
    text = ",\n".join(
        f' {json.dumps(key)}: {rows(key) if key in ("boxes", "outputs") else json.dumps(case[key])}' for key in case
    )
    with open(path, "w") as f:
        f.write("{\n" + text + "\n}\n")


def main():
    write, folder = "--write" in sys.argv, sys.argv[-1]
    if write:
        for name, family, side, labels, where, outputs in synthetic():
            case = {"family": family, "input": [side, side], "labels": labels, "floor": 0.1, "iou": 0.5, **where}
            store(f"{folder}/{name}.json", {**case, "seeded": True, "outputs": outputs, "boxes": []})
    wrong = 0
    for path in sorted(glob.glob(f"{folder}/*.json")):
        case = json.load(open(path))
        boxes, spoilt, unknown = decode(case, [tensor(o) for o in case["outputs"]])
        rounded = [[b[0], round(b[1], 6), *(round(v, 3) for v in b[2:])] for b in boxes]
        now = {"non_finite": spoilt, "unknown_class": unknown, "boxes": rounded}
        same = all(case.get(k) == v for k, v in now.items())
        print(f"{os.path.basename(path)}: {len(boxes)} boxes, {spoilt} spoilt, {unknown} unknown",
              "" if same else "(new)" if write else "DIFFERS")
        wrong += not same
        if write:
            case.pop("boxes", None)
            store(path, {**case, **now})
    if wrong and not write:
        sys.exit(1)


if __name__ == "__main__":
    main()
