//! Expected time against the number of checkpoints, as SVG.

use anyhow::anyhow;
use plotters::prelude::*;
use workrs_core::plan::{
    model::{Costs, paper_expected},
    words::span,
};

use super::{drawn, plot};

const SIZE: (u32, u32) = (800, 500);
const POINTS: u64 = 400;

/// The figure.
pub fn svg(costs: &Costs) -> anyhow::Result<String> {
    let mut drawing = String::new();
    // The errors of the library borrow the drawing.
    draw(costs, &mut drawing).map_err(|error| anyhow!("cannot draw: {error}"))?;
    Ok(drawing)
}

fn draw(costs: &Costs, drawing: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let (low, high, last) = (plot::floor(costs), plot::ceiling(costs), drawn(costs));
    let root = SVGBackend::with_string(drawing, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let title =
        format!("{} of work, one fault in {}, C {}", span(costs.work), span(1.0 / costs.rate), span(costs.checkpoint));
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(15)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(0f64..last as f64, low..high)?;
    chart
        .configure_mesh()
        .x_desc("checkpoints")
        .y_desc("expected time")
        .y_label_formatter(&|time| span(*time))
        .x_label_formatter(&|count| format!("{count:.0}"))
        .light_line_style(WHITE)
        .draw()?;
    let counts: Vec<u64> = (0..=POINTS.min(last)).map(|step| step * last / POINTS.min(last)).collect();
    let curve = |time: &dyn Fn(u64) -> f64| {
        let points = counts.iter().map(|count| (*count as f64, time(count + 1)));
        points.filter(|(_, time)| *time <= high).collect::<Vec<_>>()
    };
    let legend = |colour: RGBColor| move |(x, y): (i32, i32)| PathElement::new([(x, y), (x + 20, y)], colour);
    chart
        .draw_series(LineSeries::new(curve(&|segments| costs.expected(segments)), BLUE.stroke_width(2)))?
        .label("exact model")
        .legend(legend(BLUE));
    chart
        .draw_series(LineSeries::new(curve(&|segments| paper_expected(costs, segments)), RED.stroke_width(2)))?
        .label("the paper's model")
        .legend(legend(RED));
    let best = costs.optimum();
    let at = (best.checkpoints().min(last) as f64, best.expected.clamp(low, high));
    chart
        .draw_series([Circle::new(at, 5, BLUE.filled())])?
        .label(format!("best: {} checkpoints, {}", best.checkpoints(), span(best.expected)))
        .legend(|(x, y)| Circle::new((x + 10, y), 5, BLUE.filled()));
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}
