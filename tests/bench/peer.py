"""The usual loop, to stand beside weir in `cargo bench --bench peers -- --peer`: a capture thread a camera (OpenCV), of which the newest
picture is kept, and one loop that takes the cameras in turn (ONNX Runtime, one picture a run). Prints one JSON object.

    python peer.py MODEL SECONDS URL...      needs opencv-python-headless, onnxruntime, numpy
"""
import json
import os
import re
import sys
import threading
import time

os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "rtsp_transport;tcp"

import cv2
import numpy as np
import onnxruntime

HEIGHT, WIDTH, FLOOR, IOU = 384, 640, 0.1, 0.45


class Camera(threading.Thread):
    """Latency counts from here, when the picture is decoded: what decoding takes is not in it."""

    def __init__(self, url):
        super().__init__(daemon=True)
        self.url, self.came, self.newest, self.lock = url, 0, None, threading.Lock()
        self.start()

    def run(self):
        capture = cv2.VideoCapture(self.url, cv2.CAP_FFMPEG)
        while True:
            ok, picture = capture.read()
            if not ok:
                return
            with self.lock:
                self.came, self.newest = self.came + 1, (time.monotonic(), picture)

    def take(self):
        with self.lock:
            taken, self.newest = self.newest, None
            return taken


def tensor(picture):
    height, width = picture.shape[:2]
    scale = min(WIDTH / width, HEIGHT / height)
    inner = (round(width * scale), round(height * scale))
    canvas = np.full((HEIGHT, WIDTH, 3), 114, np.uint8)
    left, top = (WIDTH - inner[0]) // 2, (HEIGHT - inner[1]) // 2
    canvas[top:top + inner[1], left:left + inner[0]] = cv2.resize(picture, inner, interpolation=cv2.INTER_LINEAR)
    return cv2.dnn.blobFromImage(canvas, 1 / 255.0, swapRB=True)


def boxes(output):
    scores = output[4:].max(axis=0)
    kept = np.flatnonzero(scores > FLOOR)
    found = output[:4, kept].T.copy()
    found[:, :2] -= found[:, 2:] / 2
    classes = output[4:, kept].argmax(axis=0)
    return cv2.dnn.NMSBoxesBatched(found.tolist(), scores[kept].tolist(), classes.tolist(), FLOOR, IOU)


def memory(key):
    return int(re.search(key + r":\s+(\d+)", open("/proc/self/status").read())[1]) * 1024 / 1e6


def main(model, seconds, urls):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    cameras = [Camera(url) for url in urls]
    while any(camera.came == 0 for camera in cameras):
        time.sleep(0.05)
    begin, latencies, before = None, [], None
    started = time.monotonic()
    while begin is None or time.monotonic() - begin < seconds:
        if begin is None and time.monotonic() - started > 3:
            begin, latencies = time.monotonic(), []
            before = (sum(camera.came for camera in cameras), time.process_time())
        idle = True
        for camera in cameras:
            taken = camera.take()
            if taken:
                idle = False
                boxes(session.run(None, {name: tensor(taken[1])})[0][0])
                latencies.append(time.monotonic() - taken[0])
        if idle:
            time.sleep(0.001)
    wall, cpu = time.monotonic() - begin, time.process_time() - before[1]
    latencies.sort()
    print(json.dumps({
        "fps_in": (sum(camera.came for camera in cameras) - before[0]) / wall, "fps": len(latencies) / wall,
        "p50_ms": latencies[len(latencies) // 2] * 1e3, "p95_ms": latencies[int(len(latencies) * 0.95)] * 1e3,
        "cpu_ms": cpu * 1e3 / len(latencies), "rss_mb": memory("VmRSS"), "peak_mb": memory("VmHWM")}))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), sys.argv[3:])
