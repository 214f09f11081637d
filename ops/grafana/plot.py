#!/usr/bin/env python3
"""Draws the dashboard without Grafana, to see that each panel has data and can be read.

  ops/grafana/plot.py PROMETHEUS FROM TO STEP PICTURE

asks the Prometheus at this address for each panel's expressions from FROM to TO (seconds since 1970), every STEP
seconds, and draws what it answers in the dashboard's layout. Names panels without data. Needs matplotlib.
"""

import json
import re
import sys
import urllib.parse
import urllib.request
from datetime import datetime
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.dates  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.colors import to_rgb  # noqa: E402
from matplotlib.ticker import FuncFormatter  # noqa: E402
from PIL import Image  # noqa: E402  (matplotlib needs it, too)

BACKGROUND, PANEL, INK, FAINT = "#111217", "#181b1f", "#d8d9da", "#2c3235"
COLORS = {"green": "#56a64b", "yellow": "#f2cc0c", "orange": "#ff780a", "red": "#e02f44", "text": "#8e8e8e"}
PALETTE = ["#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42", "#1f78c1", "#ba43a9", "#705da0", "#508642", "#cca300"]


class Prometheus:
    def __init__(self, address, start, end, step):
        self.address, self.start, self.end, self.step = address, start, end, step

    def ask(self, route, expr, **more):
        # Grafana's variables: four scrapes of 15 s is what its rate interval comes to.
        for name, value in {
            "$app": ".*", "$instance": ".*", "$__rate_interval": f"{max(4 * self.step, 20)}s",
            # The longer names first.
            "$__range_s": str(int(self.end - self.start)), "$__range": f"{int(self.end - self.start)}s",
            "$__interval_ms": str(1000 * self.step),
        }.items():
            expr = expr.replace(name, value)
        query = urllib.parse.urlencode({"query": expr, **more})
        with urllib.request.urlopen(f"{self.address}/api/v1/{route}?{query}") as answer:
            return json.load(answer)["data"]["result"]

    def over_time(self, expr):
        return self.ask("query_range", expr, start=self.start, end=self.end, step=self.step)

    def now(self, expr):
        return self.ask("query", expr, time=self.end)


def unit_text(unit, value):
    if value != value or value in (float("inf"), float("-inf")):
        return "–"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit in ("s", "dtdurations"):
        for limit, divisor, name in ((1e-3, 1e-6, "µs"), (1, 1e-3, "ms"), (120, 1, "s"), (7200, 60, "min")):
            if abs(value) < limit:
                return f"{value / divisor:.3g} {name}" if value else "0"
        return f"{value / 3600:.3g} h"
    suffix = {"bytes": "B", "cps": "/s", "reqps": "/s"}.get(unit, "")
    for limit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {name}{suffix}"
    return f"{value:.3g} {suffix}".strip()


def legend(text, metric):
    return re.sub(r"\{\{(\w+)\}\}", lambda found: metric.get(found[1], ""), text).strip() or "value"


def points(series):
    return [datetime.fromtimestamp(at) for at, _ in series["values"]], [float(value) for _, value in series["values"]]


def step_color(thresholds, value):
    color = "text"
    for step in thresholds["steps"]:
        if step["value"] is None or value >= step["value"]:
            color = step["color"]
    return color


def series_color(panel, name, number):
    defaults = panel["fieldConfig"]["defaults"]
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["options"] == name:
            return COLORS[override["properties"][0]["value"]["fixedColor"]]
    if defaults["color"]["mode"] == "shades":
        return tuple(part * (1 - 0.13 * (number % 6)) for part in to_rgb(COLORS[defaults["color"]["fixedColor"]]))
    return PALETTE[number % len(PALETTE)]


def draw_stat(axes, panel, prometheus):
    found = prometheus.now(panel["targets"][0]["expr"])
    defaults = panel["fieldConfig"]["defaults"]
    axes.set_xticks([])
    axes.set_yticks([])
    if not found:
        axes.text(0.5, 0.5, defaults["noValue"], ha="center", va="center", color=INK, transform=axes.transAxes)
        return False
    value = float(found[0]["value"][1])
    if defaults.get("decimals") == 0:
        value = round(value)
    color, text = step_color(defaults["thresholds"], value), unit_text(defaults["unit"], round(value, 4))
    for mapping in defaults["mappings"]:
        if word := mapping["options"].get(f"{value:g}"):
            color, text = word["color"], word["text"]
    axes.set_facecolor(COLORS[color])
    axes.text(0.5, 0.5, text, ha="center", va="center", color="white", fontsize=13, weight="bold", transform=axes.transAxes)
    return True


def draw_table(axes, panel, prometheus):
    found = prometheus.now(panel["targets"][0]["expr"])
    columns = panel["transformations"][0]["options"]["renameByName"]
    unit = panel["fieldConfig"]["defaults"]["unit"]
    axes.set_xticks([])
    axes.set_yticks([])
    rows = [
        [unit_text(unit, float(one["value"][1])) if name == "Value" else one["metric"].get(name, "") for name in columns]
        for one in found
    ]
    for one in panel["options"]["sortBy"]:
        rows.sort(key=lambda row: row[list(columns.values()).index(one["displayName"])])
    lines = [list(columns.values()), *rows[:4]]
    for number, line in enumerate(lines):
        for place, text in enumerate(line):
            axes.text(
                0.02 + 0.98 * place / len(columns), 0.86 - 0.16 * number, text, color=INK, fontsize=7,
                weight="bold" if number == 0 else "normal", transform=axes.transAxes,
            )
    return bool(found)


def draw_timeline(axes, panel, prometheus):
    words = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    names = []
    for target in panel["targets"]:
        for series in prometheus.over_time(target["expr"]):
            row = len(names)
            names.append(legend(target["legendFormat"], series["metric"]))
            times, values = points(series)
            width = prometheus.step / 86400
            for at, value in zip(times, values):
                axes.barh(row, width, left=at, height=0.7, color=COLORS[words[f"{value:g}"]["color"]], linewidth=0)
            axes.text(times[0], row, " " + words[f"{values[0]:g}"]["text"], va="center", color="white", fontsize=6)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    return bool(names)


def draw_heatmap(axes, panel, prometheus):
    found = prometheus.over_time(panel["targets"][0]["expr"])
    found = sorted((one for one in found if one["metric"]["le"] != "+Inf"), key=lambda one: float(one["metric"]["le"]))
    if not found:
        return False
    times = sorted({at for one in found for at, _ in one["values"]})
    by_time = [{at: float(value) for at, value in one["values"]} for one in found]
    rows, below = [], dict.fromkeys(times, 0)
    for values in by_time:
        rows.append([max(values.get(at, 0) - below[at], 0) ** 0.5 for at in times])
        below = {at: values.get(at, 0) for at in times}
    axes.pcolormesh([datetime.fromtimestamp(at) for at in times], range(len(rows)), rows, cmap="inferno", shading="nearest")
    axes.set_yticks(range(len(found)), [unit_text("s", float(one["metric"]["le"])) for one in found])
    return True


def draw_lines(axes, panel, prometheus):
    defaults = panel["fieldConfig"]["defaults"]
    custom = defaults["custom"]
    base, drawn = {}, 0
    for target in panel["targets"]:
        for series in prometheus.over_time(target["expr"]):
            times, values = points(series)
            name = legend(target["legendFormat"], series["metric"])
            color = series_color(panel, name, drawn)
            drawn += 1
            if custom["stacking"]["mode"] == "normal" or custom["drawStyle"] == "bars":
                bottom = [base.get(at, 0) for at in times]
                top = [low + value for low, value in zip(bottom, values)]
                base.update(zip(times, top))
                width = prometheus.step / 86400
                axes.bar(times, values, width, bottom, color=color, label=name, linewidth=0, alpha=0.8)
            else:
                axes.plot(times, values, color=color, label=name, linewidth=1, marker="." if len(times) == 1 else None)
    if drawn:
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.13), ncol=3, fontsize=5.5, frameon=False, labelcolor=INK,
            handlelength=1, columnspacing=1,
        )
    else:
        axes.text(0.5, 0.5, defaults["noValue"], ha="center", va="center", color=INK, transform=axes.transAxes)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: unit_text(defaults["unit"], value)))
    return bool(drawn)


DRAW = {
    "stat": draw_stat, "table": draw_table, "state-timeline": draw_timeline, "heatmap": draw_heatmap,
    "timeseries": draw_lines,
}


def main():
    address, start, end, step, picture = sys.argv[1:]
    prometheus = Prometheus(address, float(start), float(end), int(step))
    dashboard = json.loads((Path(__file__).resolve().parent / "im-callback.json").read_text())
    height = max(one["gridPos"]["y"] + one["gridPos"]["h"] for one in dashboard["panels"])
    inch = 0.27
    figure = plt.figure(figsize=(24 * 0.6, height * inch), facecolor=BACKGROUND)
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        if panel["type"] == "row":
            figure.text(0.01, 1 - (place["y"] + 0.75) / height, panel["title"], color=INK, fontsize=11, weight="bold")
            continue
        x, y, w, h = (place[key] for key in "xywh")
        # Room for the title above, and for axes and legend below.
        left, below = (0.15, 0.2) if panel["type"] in ("stat", "table") else (1.3, 2.1)
        if panel["type"] == "state-timeline":
            left, below = 3.2, 1
        axes = figure.add_axes(
            ((x + left) / 24, 1 - (y + h - below) / height, (w - left - 0.25) / 24, (h - below - 1.1) / height),
            facecolor=PANEL,
        )
        axes.set_title(panel["title"], color=INK, fontsize=8, loc="left", pad=3)
        axes.tick_params(colors=INK, labelsize=6, length=2)
        for spine in axes.spines.values():
            spine.set_color(FAINT)
        if panel["type"] not in ("stat", "table"):
            axes.grid(color=FAINT, linewidth=0.5)
            axes.set_xlim(datetime.fromtimestamp(prometheus.start), datetime.fromtimestamp(prometheus.end))
            axes.xaxis.set_major_formatter(matplotlib.dates.DateFormatter("%H:%M"))
        if not DRAW[panel["type"]](axes, panel, prometheus):
            print(f"no data: {panel['title']}")
    figure.savefig(picture, dpi=100, facecolor=BACKGROUND)
    # A hundred colours are enough, and a third of the bytes.
    Image.open(picture).convert("RGB").quantize(100).save(picture, optimize=True)


if __name__ == "__main__":
    main()
