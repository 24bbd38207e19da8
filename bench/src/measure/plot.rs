//! `bench/throughput.svg`, drawn from the curves that were written last.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::measure::report::grouped;
use crate::measure::targets::curve;
use crate::stack::Result;

const SVG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/throughput.svg");
const HEIGHT: u32 = 420;
const PANEL_WIDTH: u32 = 560;
const TEXT: u32 = 15;

type Panel<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Points = Vec<(f64, f64)>;

/// Draws as many panels as there are curves for.
pub fn draw() -> Result<()> {
    let mut by_batch = Vec::new();
    for (name, key, color) in [
        (
            "floor: bare COPY",
            "batch-curve-floor",
            RGBColor(110, 110, 110),
        ),
        ("one hot account", "batch-curve-hot", RGBColor(213, 94, 0)),
        (
            "zipf 1.1, 10,000 accounts",
            "batch-curve-zipf",
            RGBColor(0, 114, 178),
        ),
        (
            "uniform, 1,000,000 accounts",
            "batch-curve-uniform",
            RGBColor(0, 158, 115),
        ),
    ] {
        if let Some(points) = curve(key)? {
            by_batch.push((name, color, points));
        }
    }
    if by_batch.is_empty() {
        return Ok(());
    }
    let by_log_rows = curve("log-rows-curve")?;
    let panels = 1 + u32::from(by_log_rows.is_some());
    let area = SVGBackend::new(SVG, (panels * PANEL_WIDTH, HEIGHT)).into_drawing_area();
    area.fill(&WHITE)?;
    let panels = area.split_evenly((1, panels as usize));
    batch_panel(&panels[0], &by_batch)?;
    if let Some(points) = by_log_rows {
        log_rows_panel(&panels[1], points)?;
    }
    Ok(area.present()?)
}

/// Both axes are logarithmic: the floor is several times as high as the apply.
fn batch_panel(panel: &Panel<'_>, curves: &[(&str, RGBColor, Points)]) -> Result<()> {
    let points = || curves.iter().flat_map(|(_, _, points)| points);
    let (left, right) = range(points().map(|(x, _)| *x));
    let (bottom, top) = range(points().map(|(_, y)| *y));
    let (bottom, top) = (bottom / 4.0, top * 1.5);
    let mut chart = panel_with("Events per second by batch size", panel).build_cartesian_2d(
        (left / 1.3..right * 1.3)
            .log_scale()
            .with_key_points(curves[0].2.iter().map(|(x, _)| *x).collect()),
        (bottom..top)
            .log_scale()
            .with_key_points(steps(bottom..top)),
    )?;
    chart
        .configure_mesh()
        .max_light_lines(0)
        .label_style(("sans-serif", TEXT))
        .x_desc("events in a batch")
        .x_label_formatter(&|x| grouped(*x))
        .y_label_formatter(&|y| grouped(*y))
        .draw()?;
    for (name, color, points) in curves {
        let style = color.stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style).point_size(3))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .label_font(("sans-serif", TEXT))
        .draw()?;
    Ok(())
}

fn log_rows_panel(panel: &Panel<'_>, points: Points) -> Result<()> {
    let (_, right) = range(points.iter().map(|(x, _)| *x));
    let (_, top) = range(points.iter().map(|(_, y)| *y));
    let mut chart = panel_with("Events per second by rows already in the log", panel)
        .build_cartesian_2d(0.0..right * 1.05, 0.0..top * 1.2)?;
    chart
        .configure_mesh()
        .max_light_lines(0)
        .label_style(("sans-serif", TEXT))
        .x_desc("million rows in the log")
        .x_label_formatter(&|x| (x / 1e6).to_string())
        .y_label_formatter(&|y| grouped(*y))
        .draw()?;
    let style = RGBColor(0, 158, 115).stroke_width(2);
    chart.draw_series(LineSeries::new(points, style).point_size(3))?;
    Ok(())
}

fn panel_with<'p, 'b>(caption: &str, panel: &'p Panel<'b>) -> ChartBuilder<'p, 'p, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(panel);
    builder
        .caption(caption, ("sans-serif", TEXT + 3))
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(70);
    builder
}

/// 1, 2 and 5 of each power of ten.
fn steps(range: Range<f64>) -> Vec<f64> {
    let powers = (0..10).map(|power| 10f64.powi(power));
    let steps = powers.flat_map(|power| [power, 2.0 * power, 5.0 * power]);
    steps.filter(|step| range.contains(step)).collect()
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, 0.0), |(least, most), value| {
        (least.min(value), f64::max(most, value))
    })
}
