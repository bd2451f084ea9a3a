//! Line charts, as SVG.

use std::collections::HashMap;
use std::path::PathBuf;

use plotters::prelude::*;

use super::figures::folder;

/// A line of a chart.
pub struct Line<'a> {
    pub name: &'a str,
    pub points: Vec<(f64, f64)>,
}

/// Writes build/bench/NAME.svg.
pub fn lines(name: &str, title: &str, x: &str, y: &str, lines: &[Line<'_>]) {
    const COLOURS: [RGBColor; 4] =
        [RGBColor(0, 90, 181), RGBColor(220, 50, 32), RGBColor(120, 120, 120), RGBColor(20, 130, 60)];
    let top = |of: fn(&(f64, f64)) -> f64| {
        lines.iter().flat_map(|line| &line.points).map(of).fold(0.0, f64::max) * 1.05 + f64::EPSILON
    };
    let file = folder().join(format!("{name}.svg"));
    let area = SVGBackend::new(&file, (760, 420)).into_drawing_area();
    area.fill(&WHITE).unwrap();
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..top(|p| p.0), 0.0..top(|p| p.1))
        .unwrap();
    chart.configure_mesh().light_line_style(TRANSPARENT).x_desc(x).y_desc(y).draw().unwrap();
    for (line, colour) in lines.iter().zip(COLOURS.into_iter().cycle()) {
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)))
            .unwrap()
            .label(line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()
        .unwrap();
    area.present().unwrap();
}

/// A small chart beside others: lines by name over seconds.
pub struct Panel {
    pub title: String,
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
    /// Each line begins where the one before ends.
    pub is_stacked: bool,
}

/// Writes build/bench/NAME.svg, three charts a row.
pub fn panels(name: &str, panels: &[Panel]) -> PathBuf {
    const COLOURS: [RGBColor; 7] = [
        RGBColor(0, 90, 181),
        RGBColor(220, 50, 32),
        RGBColor(20, 130, 60),
        RGBColor(230, 145, 0),
        RGBColor(120, 70, 170),
        RGBColor(120, 120, 120),
        RGBColor(0, 150, 160),
    ];
    let rows = panels.len().div_ceil(3);
    let file = folder().join(format!("{name}.svg"));
    {
        let area = SVGBackend::new(&file, (1170, u32::try_from(rows).unwrap() * 250)).into_drawing_area();
        area.fill(&WHITE).unwrap();
        for (place, panel) in area.split_evenly((rows, 3)).into_iter().zip(panels) {
            let lines = panel.shown();
            let all = || lines.iter().flat_map(|(_, points)| points);
            let right = all().map(|point| point.0).fold(1.0, f64::max);
            let top = all().map(|point| point.1).fold(0.0, f64::max);
            let mut chart = ChartBuilder::on(&place)
                .caption(&panel.title, ("sans-serif", 15))
                .margin(10)
                .x_label_area_size(22)
                .y_label_area_size(44)
                .build_cartesian_2d(0.0..right, 0.0..(if top > 0.0 { top * 1.6 } else { 1.0 }))
                .unwrap();
            let mut mesh = chart.configure_mesh();
            mesh.light_line_style(TRANSPARENT).x_labels(5).y_labels(5).draw().unwrap();
            for ((name, points), colour) in lines.into_iter().zip(COLOURS.into_iter().cycle()) {
                chart
                    .draw_series(LineSeries::new(points, colour.stroke_width(2)))
                    .unwrap()
                    .label(name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 12, y)], colour.stroke_width(2)));
            }
            let mut labels = chart.configure_series_labels();
            labels
                .position(SeriesLabelPosition::UpperLeft)
                .label_font(("sans-serif", 10))
                .background_style(WHITE.mix(0.7));
            labels.draw().unwrap();
        }
        area.present().unwrap();
    }
    file
}

impl Panel {
    fn shown(&self) -> Vec<(String, Vec<(f64, f64)>)> {
        let mut below: HashMap<u64, f64> = HashMap::new();
        let mut shown = self.lines.clone();
        for (_, points) in shown.iter_mut().filter(|_| self.is_stacked) {
            for (at, value) in points {
                let sum = below.entry(at.to_bits()).or_default();
                *sum += *value;
                *value = *sum;
            }
        }
        shown
    }
}

/// How many of the values lie at or below each.
pub fn cumulated(values: &[f64]) -> Vec<(f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    std::iter::once((0.0, 0.0)).chain(sorted.into_iter().zip(1_u32..).map(|(at, n)| (at, f64::from(n)))).collect()
}
