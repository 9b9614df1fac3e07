"""The whole daemon on an NVIDIA GPU: RTSP in, events out. Starts simulated cameras and weir, looks at both, prints a table.

    python3 tests/nvidia/daemon.py load CAMERAS     that many 1080p30 cameras: latency, losses, CPU
    python3 tests/nvidia/daemon.py cpu CAMERAS      with EXECUTION='"cpu"': the engine's threads and the decoders'
    python3 tests/nvidia/daemon.py works            events, snapshots, a still, streams that NVDEC does not take
    python3 tests/nvidia/daemon.py churn ROUNDS [N] N cameras (20) come and go by a reload, so many times, 10 and more: memory of process and GPU
    python3 tests/nvidia/daemon.py lanes CAMERAS    so many cameras on two GPUs, of which the engine of one is ended

GPUS=[0] or another list is `[infer] gpus` of the daemon. `lanes` runs MORTAL, the example mortal-weir beside weir.
Environment: WEIR and RTSP_SIM, the programs (both in `bin` of a folder of `cargo xtask bundle`); MODEL, an ONNX file with its .toml
beside it; CLIP, an H.264 file of 1080p30; for `works` also ODD, an H.264 4:2:2 file, and STILL, a JPEG. JSON=FILE: figures go there too.
Needs nothing but Python.
"""
import atexit
import collections
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

PORT = int(os.environ.get("PORT", 18080))
FIGURES = {}


def get(path, data=None, kind=None, port=PORT):
    request = urllib.request.Request(f"http://127.0.0.1:{port}" + path, data=data, headers={"content-type": kind} if kind else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


def environment(program):
    """What weir sets for itself in a bundle (src/anew.rs), for the simulator, which does not."""
    libraries = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(program))), "lib/weir")
    if not os.path.isdir(os.path.join(libraries, "gstreamer-1.0")):
        return dict(os.environ)
    return dict(
        os.environ, LD_LIBRARY_PATH=libraries, GST_PLUGIN_SYSTEM_PATH_1_0=os.path.join(libraries, "gstreamer-1.0"),
        GST_PLUGIN_PATH_1_0="", GST_REGISTRY_1_0="/proc/none/registry", GST_REGISTRY_FORK="no",
        GIO_MODULE_DIR=os.path.join(libraries, "gio"), GIO_USE_VFS="local")


def print(*args):
    sys.stdout.write(" ".join(map(str, args)) + "\n")
    sys.stdout.flush()


class Sim:
    def __init__(self, *args):
        program = os.environ["RTSP_SIM"]
        # It needs no GPU, and a context of each on each is what GStreamer's nvcodec plugin would make.
        self.child = subprocess.Popen(
            [program, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(environment(program), CUDA_VISIBLE_DEVICES=""))
        atexit.register(self.child.kill)

    def listens(self):
        line = self.child.stdout.readline()
        if not line:
            sys.exit("rtsp-sim did not start")
        return json.loads(line)["url"]

    def stop(self):
        self.child.stdin.close()
        self.child.kill()
        self.child.wait()


class Weir:
    def __init__(self, cameras, command=None, extra=None, port=PORT, more="", infer=""):
        execution = os.environ.get("EXECUTION", '"cuda"')
        self.folder = tempfile.mkdtemp()
        config = f'[node]\nname = "gpu"\n[model]\npath = "{os.environ["MODEL"]}"\n[infer]\nexecution = {execution}\n'
        config += f"gpus = {os.environ['GPUS']}\n" if "GPUS" in os.environ else ""
        config += infer + f'[http]\nbind = "127.0.0.1:{port}"\n' + more
        self.config, self.path = config, os.path.join(self.folder, "weir.toml")
        self.write(cameras)
        path = self.path
        self.log = os.path.join(self.folder, "log")
        started = time.time()
        command = command or [os.environ["WEIR"], "run", "-c"]
        self.child = subprocess.Popen([*command, path], stdout=open(self.log, "w"), stderr=subprocess.STDOUT, env=extra)
        atexit.register(self.child.kill)
        while True:
            if self.child.poll() is not None or time.time() - started > 120:
                sys.exit("weir does not become ready:\n" + open(self.log).read()[-4000:])
            try:
                get("/readyz", port=port)
                break
            except (OSError, urllib.error.URLError):
                time.sleep(0.1)
        self.ready = time.time() - started

    def write(self, cameras):
        """Each a name, an address, and more keys if need be."""
        text = self.config + "".join(f'[cameras.{name}]\nsource = "{url}"\n' + "".join(more) for name, url, *more in cameras)
        open(self.path + ".new", "w").write(text)
        os.rename(self.path + ".new", self.path)

    def cpu(self):
        """Seconds, of all threads by name up to `-` or `:` and digits."""
        used = collections.Counter()
        for task in os.listdir(f"/proc/{self.child.pid}/task"):
            try:
                at = f"/proc/{self.child.pid}/task/{task}/"
                name = re.split(r"[-:0-9]", open(at + "comm").read().strip())[0]
                used[name] += int(open(at + "schedstat").read().split()[0]) / 1e9
            except OSError:
                pass
        return used

    def resident(self):
        return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{self.child.pid}/status").read())[1]) / 1e3

    def stop(self):
        began = time.time()
        self.child.terminate()
        try:
            self.child.wait(timeout=20)
        except subprocess.TimeoutExpired:
            print("weir does not stop:\n" + open(self.log).read()[-3000:])
            self.child.kill()
            self.child.wait()
        return time.time() - began, self.child.returncode


def metrics(port=PORT):
    page = get("/metrics", port=port).decode()
    found = re.findall(r'^(\w+)(?:\{(.*)\})? (\S+)$', page, re.M)
    return [(name, dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)) for name, labels, value in found]


def total(page, name, **wanted):
    return sum(v for n, l, v in page if n == name and all(l.get(k) == w for k, w in wanted.items()))


def quantile(before, after, name, share):
    """Upper edge of the bucket in which it lies."""
    def buckets(page):
        all_of = collections.Counter()
        for n, labels, v in page:
            if n == name + "_bucket":
                all_of[float(labels["le"].replace("+Inf", "inf"))] += v
        return all_of
    a, b = buckets(before), buckets(after)
    counts = sorted((edge, b[edge] - a[edge]) for edge in b)
    for edge, count in counts:
        if count >= share * counts[-1][1]:
            return edge
    return float("nan")


def note(name, value):
    FIGURES[name] = value
    if "JSON" in os.environ:
        json.dump(FIGURES, open(os.environ["JSON"], "w"), indent=1)


def load(count):
    # A process a camera: the clients of one get their frames at the same moment, which cameras do not do.
    sims = [Sim("--file", os.environ["CLIP"], "--start", str(n % 9)) for n in range(count)]
    weir = Weir([(f"c{n}", sim.listens()) for n, sim in enumerate(sims)])
    began = time.time()
    while total(metrics(), "weir_camera_online") < count and time.time() - began < 60:
        time.sleep(0.2)
    online, up = total(metrics(), "weir_camera_online"), time.time() - began
    time.sleep(5)
    before, cpu, began, p95s, gpu = metrics(), weir.cpu(), time.time(), [], []
    for _ in range(10):
        time.sleep(1)
        flow = json.loads(get("/api/v1/flow"))
        # One a GPU; the worst counts.
        p95 = max((v for n, _, v in metrics() if n == "weir_p95_seconds"), default=float("nan")) * 1e3
        p95s += [p95] if p95 == p95 else []
    after, used, span = metrics(), weir.cpu(), time.time() - began
    used.subtract(cpu)
    came = total(after, "weir_frames_in_total") - total(before, "weir_frames_in_total")
    done = total(after, "weir_frames_total", fate="inferred") - total(before, "weir_frames_total", fate="inferred")
    events = total(after, "weir_events_total") - total(before, "weir_events_total")
    p95s = sorted(p95s) or [float("nan")]
    row = {
        "cameras": count, "online": online, "ready_s": weir.ready, "online_s": up, "fps": came / span, "inferred_fps": done / span,
        "lost_percent": 100 * (1 - done / max(came, 1)), "p95_ms_median": p95s[len(p95s) // 2], "p95_ms_worst": p95s[-1],
        "p95_bucket_ms": 1e3 * quantile(before, after, "weir_event_latency_seconds", 0.95), "events_s": events / span,
        "cpu_percent_a_camera": 100 * sum(used.values()) / span / count, "rss_mb": weir.resident(),
        "cpu_by_thread_percent": {k: round(100 * v / span, 1) for k, v in used.most_common(8)},
        "gpu": {n[9:]: v for n, _, v in after if n.startswith("weir_gpu_")},
        "batch": (total(after, "weir_batch_frames_sum") - total(before, "weir_batch_frames_sum"))
        / max(1, total(after, "weir_batch_frames_count") - total(before, "weir_batch_frames_count")),
    }
    row["fates"] = {f: total(after, "weir_frames_total", fate=f) for f in {l.get("fate") for n, l, _ in after if n == "weir_frames_total"}}
    stopped, code = weir.stop()
    row["stopped_s"], row["exit_code"] = stopped, code
    for sim in sims:
        sim.stop()
    note(f"daemon {count} cameras", row)
    print(json.dumps(row))
    print("| cameras | online after s | fps in | inferred | lost | p95 ms, median and worst second | CPU a camera | RSS MB | VRAM MB | events/s |")
    print(f'| {count} | {up:.1f} | {row["fps"]:.0f} | {row["inferred_fps"]:.0f} | {row["lost_percent"]:.2f} % | {row["p95_ms_median"]:.1f} {row["p95_ms_worst"]:.1f} '
          f'| {row["cpu_percent_a_camera"]:.2f} % | {row["rss_mb"]:.0f} | {row["gpu"].get("memory_used_bytes", 0) / 1e6:.0f} | {row["events_s"]:.0f} |')
    for line in open(weir.log):
        if re.search(r"WARN|ERROR|panic", line):
            print("   ", line.strip()[:300])
            break


def works():
    good = [Sim("--file", os.environ["CLIP"], "--start", str(n)) for n in range(2)]
    odd = Sim("--file", os.environ["ODD"])
    motion = Sim("--pattern", "ball", "--codec", "mjpeg")
    still = Sim("--pattern", "gradient", "--codec", "h264")
    names = ("one", "two", "odd", "motion")
    cameras = list(zip(names, (sim.listens() for sim in (*good, odd, motion))))
    # The gate of `two` sees a street and lets it all pass.
    gate = "motion_gate = true\nstill_fps = 2\n"
    cameras = [(name, url, gate if name == "two" else "") for name, url in cameras] + [("still", still.listens(), gate)]
    weir = Weir(cameras, more='[rtsp_server]\nbind = "127.0.0.1:18554"\n')
    heard = []

    def listen():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/api/v1/events/stream?after=0", timeout=25) as stream:
                for line in stream:
                    if line.startswith(b"data:"):
                        heard.append(json.loads(line[5:]))
        except OSError:
            pass
    threading.Thread(target=listen, daemon=True).start()
    time.sleep(15)
    checks = {}
    page = metrics()
    for name in names:
        checks[f"{name} online"] = total(page, "weir_camera_online", camera=name) == 1
        checks[f"{name} inferred"] = total(page, "weir_frames_total", camera=name, fate="inferred") > 50
    passed = {n: total(page, "weir_frames_total", camera=n, fate="inferred") for n in ("still", "two", "one")}
    came = total(page, "weir_frames_in_total", camera="still")
    # For two seconds after its first picture all pass, then two a second of some 25.
    checks["the motion gate sees that nothing moves"] = 20 < passed["still"] < came / 2
    checks["the motion gate lets a street pass"] = passed["two"] > 0.9 * passed["one"]
    log = open(weir.log).read()
    checks["fall back is said"] = all(re.search(rf"decoded in software.*|{n}", log) for n in ("odd", "motion")) and log.count("decoded in software") == 2
    checks["three decoders on the GPU"] = total(page, "weir_gpu_decoders") == 3
    for name in ("one", "odd"):
        picture = get(f"/api/v1/cameras/{name}/snapshot.jpg?annotated=1&width=640")
        checks[f"snapshot of {name}"] = picture[:2] == b"\xff\xd8" and len(picture) > 2000
        out = os.environ.get("OUT")
        if out:
            open(f"{out}/{name}.jpg", "wb").write(picture)
    # Another weir watches what the first one sends: painted and encoded again, and as the camera sends it.
    shown = [(name.replace("/", "-"), f"rtsp://127.0.0.1:18554/{name}") for name in ("one", "one/raw")]
    viewer = Weir(shown, port=18081)
    time.sleep(8)
    seen, painted = metrics(18081), metrics()
    for name, _ in shown:
        checks[f"{name} plays"] = total(seen, "weir_frames_total", camera=name, fate="inferred") > 50
    checks["one is encoded once"] = total(painted, "weir_video_encoded_total", camera="one", codec="h264") > 50
    if "OUT" in os.environ:
        for name, _ in shown:
            open(f"{os.environ['OUT']}/{name}-seen.jpg", "wb").write(get(f"/api/v1/cameras/{name}/snapshot.jpg?width=640", port=18081))
    checks["the viewer stops cleanly"] = viewer.stop()[1] == 0
    try:
        text = get("/api/v1/infer", open(os.environ["STILL"], "rb").read(), "image/jpeg").decode()
    except urllib.error.HTTPError as refused:
        text = f"{refused.code} {refused.read().decode()}"
    checks["a still shows persons"] = text.count('"person"') >= 1
    kinds = collections.Counter((e.get("camera"), e.get("kind") or e.get("type")) for e in heard)
    checks["events over SSE"] = len(heard) > 0
    devices = json.loads(get("/api/v1/devices"))
    checks["the GPU in /api/v1/devices"] = any(gpu["memory_total_bytes"] > 1e9 for gpu in devices["gpus"])
    flow = json.loads(get("/api/v1/flow"))
    # Cameras that show little, for an engine that has time: it is the memory that ends first.
    asked = json.dumps({"fps": 0.02, "width": 1920, "height": 1080, "count": 10000}).encode()
    try:
        verdict = get("/api/v1/admission", asked, "application/json").decode()
    except urllib.error.HTTPError as refused:
        verdict = f"{refused.code} {refused.read().decode()}"
    stopped, code = weir.stop()
    checks["stops cleanly"] = code == 0
    if code != 0:
        print(open(weir.log).read()[-1500:])
    print("gate:", passed, "of the still one", came)
    for sim in (*good, odd, motion, still):
        sim.stop()
    for name, passed in checks.items():
        print(f"{'ok    ' if passed else 'FAILED'} {name}")
    print("ready after %.1f s, stopped after %.1f s" % (weir.ready, stopped))
    print("events:", dict(kinds.most_common(6)))
    print("still:", text[:300])
    print("devices:", json.dumps(devices)[:900])
    print("admission of 10,000:", verdict[:400])
    print("flow:", json.dumps(flow)[:1500])
    for line in log.splitlines():
        if re.search(r"WARN|ERROR|Chose|software", line):
            print("   ", line[:400])
    note("works", checks)
    return all(checks.values())


def held_by_kind(pid):
    """Resident MB by what maps them: glibc's main heap and its arenas (64 MiB each, so aligned), other
    anonymous memory, the driver's devices, files; and how many arenas there are."""
    held, kind = collections.Counter(), None
    for line in open(f"/proc/{pid}/smaps"):
        head = line.split()
        if "-" in head[0] and not head[0].endswith(":"):
            start, end = (int(part, 16) for part in head[0].split("-"))
            path = head[5] if len(head) > 5 else ""
            arena = not path and start % (64 << 20) == 0 and end - start <= 64 << 20
            kind = ("heap" if path == "[heap]" else "arenas" if arena else "devices" if path.startswith("/dev/")
                    else "anonymous" if not path or path.startswith("[") else "files")
            held["arenas' number"] += arena and head[1].startswith("rw")
        elif head[0] == "Rss:":
            held[kind] += int(head[1]) / 1000
    return held


def churn(rounds, many=20):
    sims = [Sim("--file", os.environ["CLIP"], "--start", str(n)) for n in range(4)]
    urls = [sim.listens() for sim in sims]
    stay = [("stay0", urls[0]), ("stay1", urls[1])]
    weir = Weir(stay)

    def online(count):
        began = time.time()
        while total(metrics(), "weir_camera_online") != count:
            if time.time() - began > 60:
                said = [line for line in open(weir.log) if "WARN" in line or "ERROR" in line]
                sys.exit(f"{total(metrics(), 'weir_camera_online'):.0f} cameras online, not {count}:\n" + "".join(said)[-800:] + get("/api/v1/flow")[:3000])
            time.sleep(0.1)

    def reload(cameras):
        weir.write(cameras)
        weir.child.send_signal(signal.SIGHUP)
        online(len(cameras))
    online(2)
    rows, began = [], time.time()
    for number in range(rounds):
        # weir has room for 256 names between two starts: they come back, with the numbers that they had.
        reload(stay + [(f"n{n}", urls[(n + number) % 4]) for n in range(many)])
        reload(stay)
        # NVML is read every other second.
        time.sleep(0.3 if number % 5 < 4 else 2.5)
        page = metrics()
        rows.append([weir.resident(), total(page, "weir_gpu_memory_used_bytes") / 1e6, total(page, "weir_gpu_decoders")])
        if number % 5 == 4:
            kinds = ", ".join(f"{kind} {held:.0f}" for kind, held in held_by_kind(weir.child.pid).items())
            print(f"after {(number + 1) * many} cameras, {time.time() - began:.0f} s: {rows[-1][0]:.1f} MB ({kinds}), GPU {rows[-1][1]:.1f} MB, {rows[-1][2]:.0f} decoders")
    page = metrics()
    lost = {f: sum(total(page, "weir_frames_total", camera=n, fate=f) for n, _ in stay) for f in LOST}
    threads = len(os.listdir(f"/proc/{weir.child.pid}/task"))
    stopped, code = weir.stop()
    for sim in sims:
        sim.stop()
    rows = rows[4::5]
    half = rows[len(rows) // 2:]

    def slope(column):
        """MB in a thousand cameras, by least squares over the second half: caches fill in the first."""
        xs, ys = [n * 5 * many / 1000 for n in range(len(half))], [row[column] for row in half]
        x, y = sum(xs) / len(xs), sum(ys) / len(ys)
        return sum((a - x) * (b - y) for a, b in zip(xs, ys)) / max(1e-9, sum((a - x) ** 2 for a in xs))
    row = {"cameras": rounds * many, "process_mb": [rows[0][0], half[0][0], rows[-1][0]], "gpu_mb": [rows[0][1], half[0][1], rows[-1][1]],
           "slope_process_mb": slope(0), "slope_gpu_mb": slope(1), "decoders": rows[-1][2], "threads": threads, "lost_by_those_that_stay": lost, "exit_code": code}
    note("churn by reload", row)
    print(json.dumps(row))
    return code == 0


LOST = ("overrun", "stale", "skipped", "decode_error", "failed")


def lanes(count):
    """The engine of one of two GPUs ends: its cameras move and deliver again, those of the other lose nothing."""
    program, orders = os.environ["MORTAL"], tempfile.mkdtemp()
    sims = [Sim("--file", os.environ["CLIP"], "--start", str(n % 9)) for n in range(count)]
    weir = Weir([(f"c{n}", sim.listens()) for n, sim in enumerate(sims)], [program], dict(environment(program), MORTAL_ORDERS=orders))

    def cameras():
        return {c["name"]: c for c in json.loads(get("/api/v1/cameras"))["cameras"]}

    def wait(what, ready, patience=60):
        began = time.time()
        while not ready():
            if time.time() - began > patience:
                sys.exit(f"waited in vain: {what}\n" + open(weir.log).read()[-4000:])
            time.sleep(0.05)
        return time.time() - began
    gpus = [gpu["gpu"] for gpu in json.loads(get("/api/v1/devices"))["gpus"]]
    if len(gpus) < 2:
        print("skipped: lanes: there is one GPU here")
        weir.stop()
        return True
    wait("all online", lambda: all(c["state"] == "online" for c in cameras().values()))
    time.sleep(5)
    before = cameras()
    decoders = [total(metrics(), "weir_gpu_decoders", gpu=str(gpu)) for gpu in gpus[:2]]
    spread = collections.Counter(c["gpu"] for c in before.values())
    checks = {"spread evenly": max(spread.values()) - min(spread.values()) <= 1 and len(spread) == len(gpus)}
    checks["decoders where the cameras are"] = decoders == [spread[gpu] for gpu in gpus[:2]]
    dead = gpus[1]
    moved = [name for name, c in before.items() if c["gpu"] == dead]
    open(os.path.join(orders, f"fail-{dead}"), "w").close()
    wait("no camera is on the dead GPU", lambda: all(c["gpu"] != dead for c in cameras().values()))
    at = cameras()
    back = wait("all moved ones deliver", lambda: all(c["frames"]["inferred"] > at[n]["frames"]["inferred"] for n, c in cameras().items()))
    time.sleep(5)
    after, page = cameras(), metrics()
    gains = lambda name, fate: after[name]["frames"][fate] - before[name]["frames"][fate]
    stayed = [name for name in after if name not in moved]
    lost = {name: {fate: gains(name, fate) for fate in LOST if gains(name, fate)} for name in stayed}
    lost = {name: what for name, what in lost.items() if what}
    checks["those of the other GPU lost nothing"] = not lost
    checks["and were not started again"] = all(after[name]["attempts"] == before[name]["attempts"] for name in stayed)
    checks["those of the dead one deliver"] = all(gains(name, "inferred") > 60 for name in moved)
    checks["what it had has failed"] = all(gains(name, "failed") > 0 for name in moved)
    sums = [c["frames"] for c in after.values()]
    checks["each frame has one fate"] = all(f["in"] == f["in_flight"] + f["inferred"] + sum(f[fate] for fate in LOST) for f in sums)
    checks["nobody is offline"] = all(c["state"] == "online" for c in after.values())
    checks["the engine is shown as failed"] = total(page, "weir_engine_up", gpu=str(dead)) == 0 and [
        lane["state"] for lane in json.loads(get("/api/v1/flow"))["lanes"]].count("failed") == 1
    get("/readyz")
    events = json.loads(get("/api/v1/events?limit=1000"))["events"]
    checks["nobody was told that one is offline"] = not [e for e in events if e["kind"] == "camera.offline"]
    log = open(weir.log).read()
    checks["said once"] = log.count("its cameras were started again") == 1
    stopped, code = weir.stop()
    checks["stops cleanly"] = code == 0
    for sim in sims:
        sim.stop()
    for name, passed in checks.items():
        print(f"{'ok    ' if passed else 'FAILED'} {name}")
    failed = sum(gains(name, "failed") for name in moved) / max(1, len(moved))
    print(f"spread {dict(spread)}; {len(moved)} cameras moved, delivering again {back:.1f} s after, {failed:.1f} frames failed of each; lost by the others: {lost}")
    for line in log.splitlines():
        if re.search(r"WARN|ERROR|Chose", line):
            print("   ", line[:300])
    note("lanes", {"checks": checks, "moved": len(moved), "back_s": back, "failed_each": failed})
    return all(checks.values())


def cpu(count):
    """The CPU's engine beside so many decoders: on all cores, on fewer, and with the decoders kept off the engine's cores."""
    cores = os.cpu_count()
    apart = max(1, cores // 4)
    rows = []
    for threads, pinned in ((0, False), (cores - apart, False), (cores - apart, True)):
        sims = [Sim("--file", os.environ["CLIP"], "--start", str(n % 9)) for n in range(count)]
        weir = Weir([(f"c{n}", sim.listens()) for n, sim in enumerate(sims)], infer=f"threads = {threads}\n")
        began = time.time()
        while total(metrics(), "weir_camera_online") < count and time.time() - began < 30:
            time.sleep(0.2)
        if pinned:
            for task in os.listdir(f"/proc/{weir.child.pid}/task"):
                engine = open(f"/proc/{weir.child.pid}/task/{task}/comm").read().startswith("infer")
                os.sched_setaffinity(int(task), range(apart, cores) if engine else range(apart))
        time.sleep(4)
        before, began, p95s = metrics(), time.time(), []
        for _ in range(10):
            time.sleep(1)
            p95s.append(total(metrics(), "weir_p95_seconds") * 1e3)
        after, span = metrics(), time.time() - began
        came = (total(after, "weir_frames_in_total") - total(before, "weir_frames_in_total")) / span
        done = (total(after, "weir_frames_total", fate="inferred") - total(before, "weir_frames_total", fate="inferred")) / span
        rows.append({"threads": threads or cores, "pinned": pinned, "fps_in": came, "fps": done, "p95_ms": sorted(p95s)[len(p95s) // 2]})
        print(json.dumps(rows[-1]))
        weir.stop()
        for sim in sims:
            sim.stop()
    note(f"cpu, {cores} cores, {count} cameras", rows)


if __name__ == "__main__":
    if sys.argv[1] == "cpu":
        cpu(int(sys.argv[2]))
    elif sys.argv[1] == "load":
        for number in sys.argv[2:]:
            load(int(number))
    elif sys.argv[1] == "churn":
        sys.exit(0 if churn(*map(int, sys.argv[2:4])) else 1)
    elif sys.argv[1] == "lanes":
        sys.exit(0 if lanes(int(sys.argv[2])) else 1)
    else:
        sys.exit(0 if works() else 1)
