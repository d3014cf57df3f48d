//! The results: a table for people, JSON for programs.

use serde::Serialize;

use super::median;

#[derive(Default, Serialize)]
pub struct Report {
    rows: Vec<Row>,
}

#[derive(Serialize)]
pub struct Row {
    pub measure: String,
    pub unit: &'static str,
    pub arcpd: f64,
    pub floor: Option<f64>,
    /// arcpd over floor; of pairs, the middle of theirs.
    pub ratio: Option<f64>,
    pub target: Option<String>,
    pub met: Option<bool>,
}

/// What a figure should reach.
#[derive(Clone, Copy)]
pub enum Target {
    None,
    RatioAtLeast(f64),
    RatioAtMost(f64),
    AtLeast(f64),
    AtMost(f64),
}

impl Report {
    pub fn add(
        &mut self,
        measure: impl Into<String>,
        unit: &'static str,
        arcpd: f64,
        floor: Option<f64>,
        target: Target,
    ) {
        let ratio = floor.map(|floor| arcpd / floor);
        self.row(measure.into(), unit, (arcpd, floor, ratio), target);
    }

    /// The middle of pairs that were measured next to each other. Its ratio is that of
    /// the pairs' ratios: what the machine did meanwhile, it did to both of a pair.
    pub fn add_pairs(
        &mut self,
        measure: impl Into<String>,
        unit: &'static str,
        pairs: &[(f64, f64)],
        target: Target,
    ) {
        let middle =
            |of: fn(&(f64, f64)) -> f64| median(&mut pairs.iter().map(of).collect::<Vec<_>>());
        let (arcpd, floor) = (middle(|pair| pair.0), middle(|pair| pair.1));
        let ratio = middle(|pair| pair.0 / pair.1);
        self.row(
            measure.into(),
            unit,
            (arcpd, Some(floor), Some(ratio)),
            target,
        );
    }

    fn row(
        &mut self,
        measure: String,
        unit: &'static str,
        (arcpd, floor, ratio): (f64, Option<f64>, Option<f64>),
        target: Target,
    ) {
        let (text, met) = match (target, ratio) {
            (Target::RatioAtLeast(t), Some(r)) => (Some(format!("≥ {t} × floor")), Some(r >= t)),
            (Target::RatioAtMost(t), Some(r)) => (Some(format!("≤ {t} × floor")), Some(r <= t)),
            (Target::AtLeast(t), _) => (Some(format!("≥ {}", short(t))), Some(arcpd >= t)),
            (Target::AtMost(t), _) => (Some(format!("≤ {}", short(t))), Some(arcpd <= t)),
            _ => (None, None),
        };
        let row = Row {
            measure,
            unit,
            arcpd,
            floor,
            ratio,
            target: text,
            met,
        };
        eprintln!("{}", line(&row));
        self.rows.push(row);
    }

    pub fn print(&self) {
        println!(
            "{:<60} {:>10} {:>10} {:>7}  target",
            "measure", "arcpd", "floor", "ratio"
        );
        for row in &self.rows {
            println!("{}", line(row));
        }
    }
}

fn line(row: &Row) -> String {
    let optional = |value: Option<f64>| value.map_or_else(|| "-".into(), short);
    let met = match row.met {
        Some(true) => "met",
        Some(false) => "MISSED",
        None => "",
    };
    let measure = format!("{} [{}]", row.measure, row.unit);
    format!(
        "{measure:<60} {:>10} {:>10} {:>7}  {} {met}",
        short(row.arcpd),
        optional(row.floor),
        row.ratio
            .map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}")),
        row.target.as_deref().unwrap_or(""),
    )
}

fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 10_000_000.0 => format!("{:.1}M", value / 1e6),
        v if v >= 10_000.0 => format!("{:.1}k", value / 1e3),
        v if v >= 100.0 => format!("{value:.0}"),
        _ => format!("{value:.3}"),
    }
}
