#!/bin/sh
# All checks and figures of the NVIDIA path on one machine; a short table comes last, and FOLDER/report.json holds them all.
#
#   tests/nvidia/report.sh FOLDER [PART…]     parts: tests bench daemon sanitizer; with two GPUs also: pair lanes; default: all
#
# FOLDER has what was built elsewhere, as a GPU machine needs neither Rust nor GStreamer:
#   tests, bench       `cargo test --test nvidia --bench nvidia --no-run`
#   pair               `cargo bench --bench pair --no-run`
#   bin, lib           a folder of `cargo xtask bundle`, with the examples rtsp-sim and mortal-weir in bin
#   streams            what tests/nvidia/streams.sh makes
#   models             yolo11n.onnx and yolo-s.onnx (tests/nvidia/yolo-s.py), each with its .toml; more are compared with the CPU if they are there
#   clip.mp4 odd.mp4 still.jpg    1080p30 H.264; H.264 4:2:2; a picture with persons
# ORT_DYLIB_PATH names onnxruntime-gpu's library. CAMERAS="40 80" are the daemon's loads, BENCH the bench's parts.
set -u
folder=$(cd "$1" && pwd); shift
here=$(cd "$(dirname "$0")" && pwd)
parts=${*:-tests bench daemon sanitizer pair lanes}
export WEIR_NVDEC_STREAMS="$folder/streams" WEIR_NVIDIA_MODELS="$folder/models"
export MORTAL="$folder/bin/mortal-weir" WEIR="$folder/bin/weir" RTSP_SIM="$folder/bin/rtsp-sim" CLIP="$folder/clip.mp4" ODD="$folder/odd.mp4" STILL="$folder/still.jpg"
cd "$folder"
part() { echo "== $*"; }
for one in $parts; do
    case $one in
    daemon)
        part the daemon works
        MODEL="$folder/models/yolo11n.onnx" JSON="$folder/works.json" timeout 120 python3 "$here/daemon.py" works
        for cameras in ${CAMERAS-80}; do
            part the daemon with "$cameras" cameras
            MODEL="$folder/models/yolo-s.onnx" JSON="$folder/load-$cameras.json" timeout 150 python3 "$here/daemon.py" load "$cameras"
        done ;;
    bench)
        part bench
        # shellcheck disable=SC2086
        WEIR_BENCH_JSON="$folder/bench.json" timeout 500 ./bench models/yolo-s.onnx ${BENCH:-engine decode start flow live churn} ;;
    tests)
        part tests
        timeout 300 ./tests --test-threads 4 ${TESTS:-} 2>&1 | tee tests.txt | grep -v '\.\.\. ok$' ;;
    pair)
        part two GPUs and one, from memory
        WEIR_BENCH_JSON="$folder/pair.json" timeout 240 ./pair models/yolo-s.onnx ;;
    lanes)
        part one of two engines ends
        MODEL="$folder/models/yolo-s.onnx" JSON="$folder/lanes.json" timeout 150 python3 "$here/daemon.py" lanes "${LANES:-40}" ;;
    sanitizer)
        part memcheck
        sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
        if [ -x "$sanitizer" ]; then
            # shellcheck disable=SC2086
            timeout 280 "$sanitizer" --tool memcheck --error-exitcode 9 ./tests --test-threads 1 ${MEMCHECK:-twin grid split_over damage a_batch} 2>&1 | tail -12 | tee sanitizer.txt
        else
            echo "skipped: no compute-sanitizer" | tee sanitizer.txt
        fi ;;
    esac
done
python3 - <<'P'
import glob, json, re
def read(name):
    try:
        return json.load(open(name))
    except (OSError, ValueError):
        return {}
bench, works = read("bench.json"), read("works.json").get("works", {})
loads = {}
for name in sorted(glob.glob("load-*.json")):
    loads.update(read(name))
rows = [(k, v) for k, v in bench.items() if k.startswith("decode")]
rows = [(f"{k}, pictures/s", f"{v:.0f}") for k, v in rows]
for k, v in bench.items():
    if k.startswith("engine"):
        rows.append((f"{k}, frames/s by batch", " ".join(f"{b}:{f:.0f}" for b, f in zip(v["batches"], v["fps"])) + f", warm in {v['warm_s']:.1f} s"))
    elif k.startswith("flow"):
        rows.append((k, f"{v['fps']:.0f} frames/s, {v['ratio'] * 100:.1f} % of the network alone"))
    elif k.startswith("start"):
        rows.append((k + " cameras at once", f"all up after {v['all_s']:.2f} s"))
    elif k.startswith("live"):
        rows.append((k, f"p95 {v['p95_ms']:.1f} ms, lost {v['lost'] * 100:.2f} %, CPU {v['cpu_percent_a_stream']:.2f} % a stream"))
churn = sorted((k, v) for k, v in bench.items() if k.startswith("churn"))
if len(churn) > 2:
    (a, first), (b, last) = churn[2], churn[-1]
    rows.append((f"{a} to {b[6:]} cameras", f"process {first['process_mb']:.1f} to {last['process_mb']:.1f} MB, GPU {first['gpu_mb']:.1f} to {last['gpu_mb']:.1f} MB"))
for k, v in loads.items():
    rows.append((k + " (RTSP to events)", f"p95 {v['p95_ms_median']:.1f} ms, worst second {v['p95_ms_worst']:.1f}, lost {v['lost_percent']:.2f} %, CPU {v['cpu_percent_a_camera']:.2f} % a camera"))
pair, lanes = read("pair.json"), read("lanes.json").get("lanes", {})
for k, v in pair.items():
    if isinstance(v, float):
        rows.append((k, f"{v:.3f}"))
    else:
        rows.append((f"{k}, {v['streams']} streams", f"{v['fps']:.0f} frames/s, p95 {v['p95_ms']:.1f} ms, lost {v['lost'] * 100:.2f} %"))
if lanes:
    bad = [k for k, v in lanes["checks"].items() if not v]
    rows.append(("one of two engines ends", f"{len(lanes['checks']) - len(bad)} of {len(lanes['checks'])} checks, {lanes['moved']} cameras back after {lanes['back_s']:.1f} s" + (f"; not: {', '.join(bad)}" if bad else "")))
if works:
    bad = [k for k, v in works.items() if not v]
    rows.append(("the daemon works", f"{len(works) - len(bad)} of {len(works)} checks" + (f"; not: {', '.join(bad)}" if bad else "")))
for name, label in (("tests.txt", "tests"), ("sanitizer.txt", "memcheck")):
    try:
        text = open(name).read()
        found = re.findall(r"test result: .*?;.*?;|ERROR SUMMARY: .*|skipped: .*", text)
        rows.append((label, found[-1] if found else "no result"))
    except OSError:
        pass
json.dump({"bench": bench, "daemon": loads, "works": works, "rows": rows}, open("report.json", "w"), indent=1)
print("\n| what | seen |\n|---|---|")
for what, seen in rows:
    print(f"| {what} | {seen} |")
P
