#!/usr/bin/env python3
"""Draws assets/load.png from what `cargo bench --bench load -- --csv FILE` wrote: p95 and losses against load.

Usage: plot.py FILE OUT.png   (needs matplotlib: pip install matplotlib==3.10.7)
"""
import csv
import sys
from collections import defaultdict

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {"paced": "#d1495b", "5 ms": "#9db4c0", "30 ms": "#5c6b73", "100 ms": "#253237"}
PANELS = [("gpu", "100", "Steady", "steady cameras"), ("gpu", "100", "Poisson", "jittered cameras (Poisson)")]


def main(source, out):
    lines = defaultdict(list)
    with open(source, newline="") as file:
        for row in csv.DictReader(file):
            key = (row["curve"], row["target_ms"], row["arrivals"], row["steering"])
            lines[key].append((float(row["load"]), float(row["p95_ms"]), 100 * float(row["lost"])))
    figure, axes = plt.subplots(2, 2, figsize=(10, 6), sharex=True)
    for column, (curve, target, arrivals, title) in enumerate(PANELS):
        for steering, colour in COLOURS.items():
            points = lines[curve, target, arrivals, steering]
            if not points:
                sys.exit(f"{source} has no points for {curve}, {target} ms, {arrivals}, {steering}")
            load, p95, lost = zip(*points)
            label = "paced" if steering == "paced" else f"Δ = {steering}"
            width = 2.4 if steering == "paced" else 1.4
            axes[0][column].plot(load, p95, color=colour, label=label, linewidth=width)
            axes[1][column].plot(load, lost, color=colour, label=label, linewidth=width)
        axes[0][column].axhline(float(target), color="black", linestyle=":", linewidth=1)
        axes[0][column].set(title=title, ylim=(0, 1.3 * float(target)))
        axes[1][column].set(xlabel="offered load / capacity", ylim=(0, 75))
    axes[0][0].set_ylabel("p95 frame → event, ms")
    axes[1][0].set_ylabel("frames lost, %")
    axes[0][0].legend(frameon=False, loc="lower right")
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:3]) if len(sys.argv) == 3 else sys.exit(__doc__)
