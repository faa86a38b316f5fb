//! Measured values, their medians, and how they compare with a goal.

/// One line of a table.
pub struct Row {
    name: String,
    unit: &'static str,
    values: Vec<f64>,
    goal: Option<Goal>,
}

/// Where a median must stand.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// At this or above.
    AtLeast(f64),
    /// At this or below.
    AtMost(f64),
}

impl Row {
    /// Values that are only shown.
    pub fn new(name: impl Into<String>, unit: &'static str, values: Vec<f64>) -> Self {
        let name = name.into();
        Self {
            name,
            unit,
            values,
            goal: None,
        }
    }

    /// The same with a goal for the median.
    pub fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }
}

/// The middle one, or the mean of the two in the middle; NaN of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.get(middle) {
        None => f64::NAN,
        Some(upper) if sorted.len() % 2 == 1 => *upper,
        Some(upper) => (upper + sorted.get(middle - 1).unwrap_or(upper)) / 2.0,
    }
}

/// Prints a table.
pub fn print(title: &str, rows: &[Row]) {
    println!("{title}");
    println!(
        "  {:<46}{:>12}  {:<22}{:<14}verdict",
        "", "median", "(min to max)", "goal"
    );
    for row in rows {
        let middle = median(&row.values);
        let low = row.values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = row.values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (goal, verdict) = match row.goal {
            None => (String::new(), ""),
            Some(Goal::AtLeast(least)) => {
                (format!(">= {}", short(least)), verdict(middle >= least))
            }
            Some(Goal::AtMost(most)) => (format!("<= {}", short(most)), verdict(middle <= most)),
        };
        let name = format!("{}, {}", row.name, row.unit);
        let spread = format!("({} to {})", short(low), short(high));
        println!(
            "  {:<46}{:>12}  {:<22}{:<14}{verdict}",
            name,
            short(middle),
            spread,
            goal
        );
    }
    println!();
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

/// Three or more significant digits.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
