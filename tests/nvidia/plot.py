#!/usr/bin/env python3
"""Draws what `weir bench --streams 16,32,… --json FILE` wrote: latency against streams, and what of the box is in use.

Usage: plot.py FILE OUT.png "TITLE"   (needs matplotlib: pip install matplotlib==3.10.7)
"""
import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main(source, out, title):
    rows = json.load(open(source))["rows"]
    streams = [row["streams"] for row in rows]
    figure, (latency, use) = plt.subplots(1, 2, figsize=(10, 3.8))
    for key, colour in (("p50", "#9db4c0"), ("p95", "#d1495b"), ("p99", "#5c6b73")):
        latency.plot(streams, [row["stages_ms"]["total"][key] for row in rows], color=colour, label=key, marker="o", markersize=3)
    latency.axhline(rows[0]["slo_p95_ms"], color="black", linestyle=":", linewidth=1, label="target of the p95")
    latency.set(title=title, xlabel="cameras", ylabel="picture → events, ms", ylim=(0, 1.3 * rows[0]["slo_p95_ms"]))
    parts = [
        ("engine", "#d1495b", lambda row: row["engine_busy_percent"]),
        ("NVDEC", "#253237", lambda row: max(gpu["nvdec_percent"] or 0 for gpu in row["gpus"])),
        ("CPU", "#9db4c0", lambda row: row["cpu"]["box_percent"]),
        ("frames lost", "#e0a458", lambda row: row["loss_percent"]),
    ]
    for name, colour, value in parts:
        use.plot(streams, [value(row) for row in rows], color=colour, label=name, marker="o", markersize=3)
    use.set(title="in use", xlabel="cameras", ylabel="%", ylim=(0, 105))
    for axis in (latency, use):
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:4]) if len(sys.argv) == 4 else sys.exit(__doc__)
