"""Expressions and Grafana's JSON, for dashboard.py."""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
GREEN, YELLOW, ORANGE, RED, BLUE, GREY = "green", "yellow", "orange", "red", "blue", "text"


def rate(metric, labels, by):
    return f"sum by ({by}) (rate(im_callback_{metric}{{{labels}}}[$__rate_interval]))"


def quantile(q, metric, labels, by=""):
    grouped = f"{by}, le" if by else "le"
    inner = f"sum by ({grouped}) (rate(im_callback_{metric}_bucket{{{labels}}}[$__rate_interval]))"
    return f"histogram_quantile({q}, {inner})"


SECONDS = {
    "$__range": "$__range_s",
    # It is the interval and that of the scrapes, and a minute at least.
    "$__rate_interval": "($__interval_ms / 1000 + 60)",
}


def counted(metric, labels, time, by=""):
    """How often in this time. A process that is younger has counted all that it shows, and `increase` would miss what
    it counted before its first scrape."""
    series = f"im_callback_{metric}{{{labels}}}"
    grouped = f" by ({by})" if by else ""
    increase = f"increase({series}[{time}])"
    young = f'time() - process_start_time_seconds{{job="im-callback"}} < {SECONDS[time]}'
    return f"sum{grouped} (({series} and on (instance) {young}) > {increase} or {increase})"


def happened(expr):
    """Without the series of what did not happen: all codes begin at zero, so that alerts see the first."""
    return f"{expr} > 0"


def number(expr):
    """Zero where nothing was counted."""
    return f"{expr} or vector(0)"


def thresholds(*steps):
    """Colours from values on: the first from the start."""
    return {"mode": "absolute", "steps": [{"color": color, "value": value} for color, value in steps]}


def target(expr, legend, **more):
    return {"datasource": DATASOURCE, "editorMode": "code", "expr": expr, "legendFormat": legend, "range": True, **more}


def panel(kind, title, description, width, height, unit, targets, defaults=None, options=None, overrides=None, **more):
    for target_of, ref in zip(targets, "ABCDEF"):
        target_of["refId"] = ref
    return {
        "type": kind,
        "title": title,
        "description": description,
        "gridPos": {"w": width, "h": height},
        "datasource": DATASOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": unit, **(defaults or {})}, "overrides": overrides or []},
        "options": options or {},
        **more,
    }


def stat(title, description, unit, expr, steps, mappings=None, none="none", decimals=None, size=(3, 4)):
    defaults = {"thresholds": thresholds(*steps), "noValue": none, "mappings": mappings or []}
    if decimals is not None:
        defaults["decimals"] = decimals
    options = {
        "colorMode": "background",
        "graphMode": "none",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "value",
    }
    # Instant, since the last value of a range may be an hour old.
    query = target(expr, title, instant=True, range=False)
    return panel("stat", title, description, *size, unit, [query], defaults, options)


def lines(title, description, unit, series, width=8, stacked=False, bars=False, colors=None, others=None, limits=()):
    """`colors` are of series by name, and `others` is the colour whose shades all others have."""
    custom = {
        "drawStyle": "bars" if bars else "line",
        "fillOpacity": 60 if stacked or bars else 8,
        "lineWidth": 1,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if limits else "off"},
    }
    color = {"mode": "shades", "fixedColor": others} if others else {"mode": "palette-classic"}
    defaults = {"custom": custom, "min": 0, "color": color, "noValue": "none"}
    if limits:
        defaults["thresholds"] = thresholds((GREEN, None), *((RED, limit) for limit in limits))
    overrides = [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}],
        }
        for name, color in (colors or {}).items()
    ]
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    targets = [target(expr, legend) for expr, legend in series]
    return panel("timeseries", title, description, width, 8, unit, targets, defaults, options, overrides)


def table(title, description, width, expr, columns, unit="short", sort=None):
    """`columns` are the labels that are shown, with their headings; `Value` is the value. `sort` is a heading."""
    options = {"showHeader": True, "sortBy": [{"displayName": sort}] if sort else []}
    transformations = [
        {
            "id": "organize",
            "options": {
                "renameByName": columns,
                "includeByName": {name: True for name in columns},
                "indexByName": {name: place for place, name in enumerate(columns)},
            },
        }
    ]
    query = target(expr, "", format="table", instant=True, range=False)
    return panel(
        "table", title, description, width, 5, unit, [query], {"noValue": "none"}, options,
        transformations=transformations,
    )


def heatmap(title, description, unit, expr):
    options = {
        "calculate": False,
        "cellGap": 0,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "reverse": False},
        "filterValues": {"le": 1e-9},
        "tooltip": {"mode": "single", "yHistogram": False},
        "yAxis": {"unit": unit},
    }
    return panel("heatmap", title, description, 8, 8, unit, [target(expr, "{{le}}", format="heatmap")], None, options)


def timeline(title, description, width, series, words):
    mappings = [{"type": "value", "options": words}]
    custom = {"fillOpacity": 80, "lineWidth": 0}
    defaults = {"mappings": mappings, "custom": custom, "thresholds": thresholds((GREY, None))}
    options = {"mergeValues": True, "rowHeight": 0.8, "showValue": "auto", "legend": {"showLegend": False}}
    targets = [target(expr, legend) for expr, legend in series]
    return panel("state-timeline", title, description, width, 6, "short", targets, defaults, options)


def word(text, color, index=0):
    return {"text": text, "color": color, "index": index}


def placed(rows):
    """All panels, with their places: from left to right, below each other where a line is full."""
    panels, y = [], 0
    for title, inside in rows:
        place = {"w": COLUMNS, "h": 1, "x": 0, "y": y}
        panels.append({"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": place})
        y, x, height = y + 1, 0, 0
        for one in inside:
            place = one["gridPos"]
            if x + place["w"] > COLUMNS:
                x, y, height = 0, y + height, 0
            place.update(x=x, y=y)
            x, height = x + place["w"], max(height, place["h"])
            panels.append(one)
        y += height
    return [{"id": number_of, **one} for number_of, one in enumerate(panels, 1)]


def variable(name, label, query):
    return {
        "type": "query", "name": name, "label": label, "datasource": DATASOURCE, "refresh": 2, "sort": 1,
        "query": {"query": query, "refId": name}, "definition": query,
        "includeAll": True, "allValue": ".*", "multi": True, "current": {"text": "All", "value": "$__all"},
    }
