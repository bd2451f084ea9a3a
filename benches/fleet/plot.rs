//! Line charts, as SVG.

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

/// How many of the values lie at or below each.
pub fn cumulated(values: &[f64]) -> Vec<(f64, f64)> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    std::iter::once((0.0, 0.0)).chain(sorted.into_iter().zip(1_u32..).map(|(at, n)| (at, f64::from(n)))).collect()
}
