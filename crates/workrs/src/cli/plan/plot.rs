//! Expected time against the number of checkpoints, drawn with letters.

use std::fmt::Write;

use workrs_core::plan::model::{Costs, paper_expected};

use super::drawn;

const WIDTH: usize = 66;
const HEIGHT: usize = 14;
const LABEL: usize = 9;

/// The highest time that is drawn: a time far above the best says nothing by its height.
pub fn ceiling(costs: &Costs) -> f64 {
    let best = costs.optimum().expected;
    let highest = costs.expected(1).max(costs.expected(drawn(costs) + 1));
    // Some height is needed, also where nothing makes a difference.
    highest.min(1.5 * best).max(1.02 * best).max(1e-3)
}

/// The lowest time that is drawn.
pub fn floor(costs: &Costs) -> f64 {
    costs.work.min(ceiling(costs) / 1.02)
}

/// The plot, with `*` for the exact model, `o` for the paper's and `B` for the best number.
pub fn plot(costs: &Costs) -> String {
    let (low, high, last) = (floor(costs), ceiling(costs), drawn(costs));
    let mut cells = vec![vec![' '; WIDTH]; HEIGHT];
    let row = |time: f64| {
        let height = ((time.clamp(low, high) - low) / (high - low) * (HEIGHT - 1) as f64).round() as usize;
        HEIGHT - 1 - height
    };
    let column = |count: u64| (count as f64 / last as f64 * (WIDTH - 1) as f64).round() as usize;
    for x in 0..WIDTH {
        let count = (x as f64 / (WIDTH - 1) as f64 * last as f64).round() as u64;
        let x = column(count);
        for (time, mark) in [(paper_expected(costs, count + 1), 'o'), (costs.expected(count + 1), '*')] {
            cells[row(time)][x] = if time > high { '^' } else { mark };
        }
    }
    let best = costs.optimum();
    cells[row(best.expected)][column(best.checkpoints().min(last))] = 'B';
    let mut text = String::from("expected time\n");
    for (y, line) in cells.iter().enumerate() {
        let time = high - (high - low) * y as f64 / (HEIGHT - 1) as f64;
        let label = if y % 4 == 0 || y == HEIGHT - 1 { label(time, high) } else { String::new() };
        let line: String = line.iter().collect();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{label:>LABEL$} |{}", line.trim_end());
    }
    let _ = writeln!(text, "{:LABEL$} +{}", "", "-".repeat(WIDTH));
    let middle = (last / 2).to_string();
    let (left, right) = (WIDTH / 2 - 1, WIDTH - WIDTH / 2);
    let _ = writeln!(text, "{:LABEL$}  0{middle:>left$}{last:>right$} checkpoints", "");
    let _ = writeln!(text, "{:LABEL$}  * exact model, o the paper's, B best, ^ beyond the top", "");
    text
}

/// A time at the axis, in the unit that suits the highest one.
fn label(seconds: f64, highest: f64) -> String {
    let units = [(86_400.0, "days"), (3_600.0, "h"), (60.0, "min")];
    let (unit, name) = units.into_iter().find(|(unit, _)| highest >= 2.0 * unit).unwrap_or((1.0, "s"));
    format!("{:.2} {name}", seconds / unit)
}
