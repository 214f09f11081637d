//! The plots of the documentation.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::results::{PERCENTILES, Rates, Results, WithStored};

const SIZE: (u32, u32) = (860, 420);
/// What the legend takes on the right.
const LEGEND: i32 = 170;
const TEXT: (&str, i32) = ("sans-serif", 14);
const TITLE: (&str, i32) = ("sans-serif", 18);
/// Told apart with any colour vision (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

type Area<'p> = DrawingArea<SVGBackend<'p>, Shift>;

/// Draws all plots into a folder.
pub fn draw(results: &Results, folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    throughput(results).draw(&folder.join("throughput.svg"));
    latency(results).draw(&folder.join("latency.svg"));
    history(results).draw(&folder.join("unread.svg"));
    disk(results, &folder.join("disk.svg"));
}

/// Lines over logarithmic axes.
struct Plot {
    title: &'static str,
    x: &'static str,
    y: &'static str,
    lines: Vec<(String, Vec<(f64, f64)>)>,
}

fn throughput(results: &Results) -> Plot {
    let line = |name: &str, rate: &dyn Fn(&Rates) -> f64| {
        let points = results
            .rates
            .iter()
            .map(|rates| (rates.connections as f64, rate(rates)));
        (name.to_owned(), points.collect())
    };
    Plot {
        title: "Callbacks a second, by connections",
        x: "connections",
        y: "callbacks a second",
        lines: vec![
            line("im-callback", &|rates| rates.service),
            line("Express by hand", &|rates| rates.express),
            line("Rust by hand", &|rates| rates.rust),
            line("no-op", &|rates| rates.no_op),
            line("bare mongod", &|rates| rates.bare),
            line("limit", &|rates| rates.limit),
        ],
    }
}

fn latency(results: &Results) -> Plot {
    let line = |at: usize| {
        let points = results
            .latencies
            .iter()
            .map(|latency| (latency.rate.round(), latency.percentiles[at]));
        (format!("p{}", PERCENTILES[at]), points.collect())
    };
    Plot {
        title: "Time until a callback is acknowledged, by rate",
        x: "callbacks a second, open loop",
        y: "milliseconds",
        lines: (0..PERCENTILES.len()).rev().map(line).collect(),
    }
}

fn history(results: &Results) -> Plot {
    let line = |name: &str, time: &dyn Fn(&WithStored) -> f64| {
        let points = results
            .history
            .iter()
            .map(|at| (at.stored as f64, time(at)));
        (name.to_owned(), points.collect())
    };
    Plot {
        title: "Time of an unread query of 20 peers, by stored messages",
        x: "messages stored, 50,000 of them unread",
        y: "milliseconds",
        lines: vec![line("p99", &|at| at.p99), line("p50", &|at| at.p50)],
    }
}

impl Plot {
    fn draw(&self, path: &Path) {
        let root = page(path);
        let (left, right) = root.split_horizontally(SIZE.0 as i32 - LEGEND);
        let points = || self.lines.iter().flat_map(|(_, points)| points);
        let mut x_ticks: Vec<f64> = points().map(|(x, _)| *x).collect();
        x_ticks.sort_by(f64::total_cmp);
        x_ticks.dedup();
        let (least, most) = bounds(points().map(|(_, y)| *y));
        let x_range = x_ticks[0] / 1.15..x_ticks[x_ticks.len() - 1] * 1.15;
        let mut chart = ChartBuilder::on(&left)
            .caption(self.title, TITLE)
            .margin(12)
            .x_label_area_size(46)
            .y_label_area_size(70)
            .build_cartesian_2d(
                x_range.log_scale().with_key_points(x_ticks),
                (least..most)
                    .log_scale()
                    .with_key_points(ticks(least, most)),
            )
            .unwrap();
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&|x| grouped(*x))
            .y_label_formatter(&|y| grouped(*y))
            .label_style(TEXT)
            .light_line_style(TRANSPARENT)
            .draw()
            .unwrap();
        for ((_, points), colour) in self.lines.iter().zip(COLOURS) {
            let line = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
            chart.draw_series(line.point_size(3)).unwrap();
        }
        legend(&right, self.lines.iter().map(|(name, _)| name.as_str()));
        root.present().unwrap();
    }
}

/// What a message takes as JSON and on disk, part on part.
fn disk(results: &Results, path: &Path) {
    let sizes = results.disk.as_ref().unwrap();
    let data = [("documents".to_owned(), sizes.data)];
    let parts: Vec<&(String, f64)> = data.iter().chain(&sizes.indexes).collect();
    let root = page(path);
    let (left, right) = root.split_horizontally(SIZE.0 as i32 - LEGEND);
    let longest = sizes.json.max(sizes.on_disk()) * 1.1;
    let mut chart = ChartBuilder::on(&left)
        .caption("Bytes a message", TITLE)
        .margin(12)
        .x_label_area_size(46)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..longest, 0.0..2.0)
        .unwrap();
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_desc("bytes")
        .x_label_formatter(&|x| grouped(*x))
        .label_style(TEXT)
        .light_line_style(TRANSPARENT)
        .draw()
        .unwrap();
    let mut bar = |from: f64, to: f64, at: f64, colour: RGBColor| {
        let corners = [(from, at - 0.3), (to, at + 0.3)];
        chart
            .draw_series([Rectangle::new(corners, colour.filled())])
            .unwrap();
    };
    bar(0.0, sizes.json, 1.5, COLOURS[0]);
    let mut from = 0.0;
    for ((_, bytes), colour) in parts.iter().zip(&COLOURS[1..]) {
        bar(from, from + bytes, 0.5, *colour);
        from += bytes;
    }
    for (name, y) in [("as JSON", 1.5), ("on disk", 0.5)] {
        let style = TextStyle::from(TEXT).color(&WHITE);
        let name = Text::new(name, (longest / 100.0, y), style);
        chart.draw_series([name]).unwrap();
    }
    let json = format!("JSON: {:.0}", sizes.json);
    let parts = parts
        .iter()
        .map(|(name, bytes)| format!("{name}: {bytes:.0}"));
    let names: Vec<String> = std::iter::once(json).chain(parts).collect();
    legend(&right, names.iter().map(String::as_str));
    root.present().unwrap();
}

/// White, so that it reads in dark surroundings, too.
fn page(path: &Path) -> Area<'_> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE).unwrap();
    root
}

/// The names of the colours, from the top.
fn legend<'n>(area: &Area<'_>, names: impl Iterator<Item = &'n str>) {
    for ((name, colour), y) in names.zip(COLOURS).zip((60..).step_by(24)) {
        area.draw(&Circle::new((8, y), 5, colour.filled())).unwrap();
        area.draw(&Text::new(name.to_owned(), (20, y - 7), TEXT))
            .unwrap();
    }
}

/// The nearest of 1, 2, 5, 10, 20, … below the least value and above the greatest.
fn bounds(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let least = values.clone().fold(f64::INFINITY, f64::min);
    let most = values.fold(0.0, f64::max);
    let round = ticks(least / 10.0, most * 10.0);
    let below = round.iter().rfind(|tick| **tick <= least);
    let above = round.iter().find(|tick| **tick >= most);
    (*below.unwrap(), *above.unwrap())
}

/// 1, 2, 5, 10, 20, … between two bounds.
fn ticks(least: f64, most: f64) -> Vec<f64> {
    let decades = least.log10().floor() as i32..=most.log10().ceil() as i32;
    let ticks = decades.flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(decade)));
    // A little generous: powers of ten are not exact.
    ticks
        .filter(|tick| (least * 0.999..=most * 1.001).contains(tick))
        .collect()
}

/// A number with its thousands apart.
fn grouped(number: f64) -> String {
    if number < 10.0 && number.fract() > 1e-9 {
        return format!("{number}");
    }
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
