#!/usr/bin/env python3
"""Scores the tracker on two public sequences with MOTChallenge ground truth, by `motmetrics`.

Modes, each a row of the table:
  truth    the ground-truth boxes are the detections: only the tracker can be wrong. IDF1 >= 0.9 is demanded.
  thinned  the same at three frames a second, as when the engine cannot keep up. IDF1 >= 0.9 is demanded.
  yolox    persons found by YOLOX-nano in an ONNX Runtime session of this script's own.
  weir     (with --weir PATH) persons found by the daemon's own decode, preprocess and detect path.

The tracker is the daemon's: `mot-track` (tests/support/mot-track.rs) feeds it a detection file.
Exit status: 0 good, 1 below the demand, 2 something is missing.
"""

import argparse
import subprocess
import sys
import warnings
from pathlib import Path

import motmetrics
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
DEMANDED_IDF1 = 0.9
NMS_IOU = 0.6
LEAST_SCORE = 0.1
INPUT = 416
THINNED_FPS = 3


class Sequence:
    def __init__(self, name, video, truth, size, fps):
        self.name, self.video, self.truth, self.size, self.fps = name, video, truth, size, fps


def sequences(data, vtest):
    return [
        Sequence("TUD-Stadtmitte", data / "mot/TUD-Stadtmitte/TUD-Stadtmitte.mp4",
                 data / "mot/TUD-Stadtmitte/gt.txt", (640, 480), 25),
        # Debian's opencv-doc ships the pictures of PETS09-S2L1 under this name.
        Sequence("PETS09-S2L1", vtest,
                 data / "mot/PETS09-S2L1/gt.txt", (768, 576), 10),
    ]


def read_mot(path):
    """Rows of frame, id, x, y, w, h, confidence; further columns are dropped."""
    with open(path) as lines:
        rows = [[float(v) for v in line.split(",")[:7]] for line in lines if line.strip()]
    return np.array(rows).reshape(-1, 7)


def write_detections(path, rows):
    with open(path, "w") as out:
        for frame, x, y, w, h, score in rows:
            out.write(f"{int(frame)},-1,{x:.2f},{y:.2f},{w:.2f},{h:.2f},{score:.4f}\n")


def truth_detections(seq, path):
    rows = read_mot(seq.truth)
    rows = rows[rows[:, 6] > 0]
    write_detections(path, [(r[0], *r[2:6], 1.0) for r in rows])


def pictures(seq, width, height):
    """Every frame of the video, scaled by ffmpeg, as BGR."""
    command = ["ffmpeg", "-v", "error", "-i", str(seq.video), "-vsync", "0",
               "-vf", f"scale={width}:{height}:flags=bilinear", "-f", "rawvideo", "-pix_fmt", "bgr24", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as ffmpeg:
        while len(raw := ffmpeg.stdout.read(width * height * 3)) == width * height * 3:
            yield np.frombuffer(raw, np.uint8).reshape(height, width, 3)
    if ffmpeg.returncode:
        sys.exit(f"ffmpeg failed on {seq.video}")


def yolox_decode(output, ratio):
    """[3549, 85] raw -> persons as x, y, w, h, score in source pixels."""
    grids, strides = [], []
    for stride in (8, 16, 32):
        n = INPUT // stride
        ys, xs = np.mgrid[:n, :n]
        grids.append(np.stack((xs, ys), -1).reshape(-1, 2))
        strides.append(np.full((n * n, 1), stride))
    grid, stride = np.concatenate(grids), np.concatenate(strides)
    centre = (output[:, :2] + grid) * stride
    side = np.exp(output[:, 2:4]) * stride
    score = output[:, 4] * output[:, 5]
    person = (score >= LEAST_SCORE) & (output[:, 5:].argmax(1) == 0)
    boxes = np.concatenate((centre - side / 2, side), 1)[person] / ratio
    return boxes, score[person]


def nms(boxes, scores):
    kept = []
    order = scores.argsort()[::-1]
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        a, b = boxes[best], boxes[order]
        w = np.minimum(a[0] + a[2], b[:, 0] + b[:, 2]) - np.maximum(a[0], b[:, 0])
        h = np.minimum(a[1] + a[3], b[:, 1] + b[:, 3]) - np.maximum(a[1], b[:, 1])
        both = w.clip(0) * h.clip(0)
        order = order[both / (a[2] * a[3] + b[:, 2] * b[:, 3] - both) <= NMS_IOU]
    return kept


def yolox_detections(seq, path, model):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    ratio = min(INPUT / seq.size[0], INPUT / seq.size[1])
    width, height = round(seq.size[0] * ratio), round(seq.size[1] * ratio)
    rows = []
    for number, picture in enumerate(pictures(seq, width, height), 1):
        canvas = np.full((INPUT, INPUT, 3), 114, np.float32)
        canvas[:height, :width] = picture
        output = session.run(None, {"images": canvas.transpose(2, 0, 1)[None]})[0][0]
        boxes, scores = yolox_decode(output, ratio)
        rows += [(number, *boxes[i], scores[i]) for i in nms(boxes, scores)]
    write_detections(path, rows)


def weir_detections(seq, path, command, data):
    """The daemon's own detections with the same weights: lines `frame,-1,x,y,w,h,score,class`."""
    manifest = ROOT / "models/yolox-nano/model.toml"
    model = ["--model", str(data / "models/yolox_nano.onnx"), "--manifest", str(manifest)]
    printed = subprocess.run([*command, "try", *model, "--format", "mot-det", "--min-score", "0.1", f"file:{seq.video}"],
                             check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = []
    for line in printed.splitlines():
        frame, _, x, y, w, h, score, label = line.split(",")
        if label in ("person", "0"):
            rows.append([float(v) for v in (frame, x, y, w, h, score)])
    if not rows:
        sys.exit(f"{command[0]} found no person in {seq.video}")
    write_detections(path, rows)


def track(command, detections, seq, every, out):
    size = f"{seq.size[0]}x{seq.size[1]}"
    with open(out, "w") as results:
        subprocess.run([*command, str(detections), "--fps", str(seq.fps), "--size", size,
                        "--every", str(every)], check=True, stdout=results, cwd=ROOT)


def score(truth_file, result_file, every):
    truth, found = read_mot(truth_file), read_mot(result_file)
    truth = truth[truth[:, 6] > 0]
    accumulator = motmetrics.MOTAccumulator()
    # Every frame that the tracker was given counts, also one in which nobody is seen.
    for frame in range(1, int(truth[:, 0].max()) + 1, every):
        t, f = truth[truth[:, 0] == frame], found[found[:, 0] == frame]
        distance = motmetrics.distances.iou_matrix(t[:, 2:6], f[:, 2:6], max_iou=0.5)
        accumulator.update(t[:, 1].astype(int), f[:, 1].astype(int), distance, frameid=frame)
    metrics = ["mota", "idf1", "num_switches", "num_false_positives", "num_misses"]
    return motmetrics.metrics.create().compute(accumulator, metrics=metrics).iloc[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data", help="folder with mot/ and models/")
    parser.add_argument("--vtest", type=Path, default=Path("/usr/share/doc/opencv-doc/examples/data/vtest.avi"),
                        help="Debian's vtest.avi; `cargo xtask setup` keeps it as video/vtest.avi in its cache")
    parser.add_argument("--tracker", help="a built mot-track; default: cargo runs it")
    parser.add_argument("--tracker-args", default="", help="more arguments for mot-track, in one string")
    parser.add_argument("--weir", help="the daemon's command line, in one string; adds the mode weir")
    parser.add_argument("--work", type=Path, default=ROOT / "target/mot", help="folder for detections and results")
    args = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)  # motmetrics' own, about pandas

    tracker = [args.tracker] if args.tracker else ["cargo", "run", "--quiet", "--example", "mot-track", "--"]
    tracker += args.tracker_args.split()
    model = args.data / "models/yolox_nano.onnx"
    for seq in sequences(args.data, args.vtest):
        for path in (seq.video, seq.truth, model):
            if not path.exists():
                print(f"missing: {path}", file=sys.stderr)
                return 2
    args.work.mkdir(parents=True, exist_ok=True)

    print(f"{'sequence':<16} {'detections':<10} {'MOTA':>7} {'IDF1':>7} {'switches':>8} {'FP':>6} {'FN':>6}")
    bad = False
    for seq in sequences(args.data, args.vtest):
        for mode in ["truth", "thinned", "yolox"] + (["weir"] if args.weir else []):
            detections = args.work / f"{seq.name}.{mode}.det"
            every = round(seq.fps / THINNED_FPS) if mode == "thinned" else 1
            if mode in ("truth", "thinned"):
                truth_detections(seq, detections)
            elif mode == "weir":
                weir_detections(seq, detections, args.weir.split(), args.data)
            elif not detections.exists():
                # Fixed weights on a fixed video: the file is kept, since it takes half a minute to make.
                yolox_detections(seq, detections, model)
            result = args.work / f"{seq.name}.{mode}.txt"
            track(tracker, detections, seq, every, result)
            row = score(seq.truth, result, every)
            low = mode in ("truth", "thinned") and row.idf1 < DEMANDED_IDF1
            bad |= low
            print(f"{seq.name:<16} {mode:<10} {row.mota:7.3f} {row.idf1:7.3f} {row.num_switches:8.0f} "
                  f"{row.num_false_positives:6.0f} {row.num_misses:6.0f}"
                  + (f"  below the demanded {DEMANDED_IDF1}" if low else ""), flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
