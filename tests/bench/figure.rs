//! Figures: what was measured, beside what it is measured against.

use std::fmt::Write as _;

/// Values of one thing over the rounds of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Adds the next round's value.
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The middle value, the mean of the two middle ones of an even number; 0 of none.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => 0.0,
            odd if odd % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    fn least(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn most(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// Which way a figure is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// What we want to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Aim {
    /// At least this ratio to the reference; 1 is as good, more is better.
    Ratio(f64),
    /// Ours is at most this.
    AtMost(f64),
    /// Ours is at least this.
    AtLeast(f64),
}

/// One line of the report.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    name: String,
    unit: &'static str,
    better: Better,
    ours: Samples,
    reference: Option<(String, Samples)>,
    aim: Option<Aim>,
}

impl Figure {
    /// A figure of our own; `unit` stands behind the numbers.
    pub(crate) fn new(name: &str, unit: &'static str, better: Better, ours: Samples) -> Self {
        Self { name: name.to_owned(), unit, better, ours, reference: None, aim: None }
    }

    /// What the same rounds gave for something else.
    pub(crate) fn against(mut self, name: &str, samples: &Samples) -> Self {
        self.reference = Some((name.to_owned(), samples.clone()));
        self
    }

    /// What we want to reach.
    pub(crate) fn aim(mut self, aim: Aim) -> Self {
        self.aim = Some(aim);
        self
    }

    /// Round by round how much better ours is, 1 being as good.
    fn ratios(&self) -> Option<Samples> {
        let (_, reference) = self.reference.as_ref()?;
        let pairs = self.ours.0.iter().zip(&reference.0);
        let ratios = pairs.map(|(ours, other)| match self.better {
            Better::Higher => ours / other,
            Better::Lower => other / ours,
        });
        Some(ratios.collect())
    }

    fn is_met(&self) -> Option<bool> {
        Some(match self.aim? {
            Aim::Ratio(least) => self.ratios()?.median() >= least,
            Aim::AtMost(most) => self.ours.median() <= most,
            Aim::AtLeast(least) => self.ours.median() >= least,
        })
    }

    /// Name, ours, reference, ratio, aim, whether it is met.
    fn cells(&self) -> [String; 6] {
        let reference = self.reference.as_ref();
        let ratio = self.ratios().map(|ratios| spread(&ratios));
        let aim = self.aim.map(|aim| match aim {
            Aim::Ratio(least) => format!("ratio ≥ {least}"),
            Aim::AtMost(most) => format!("≤ {most} {}", self.unit),
            Aim::AtLeast(least) => format!("≥ {least} {}", self.unit),
        });
        let met = self.is_met().map(|met| if met { "yes" } else { "no" });
        [
            self.name.clone(),
            format!("{} {}", spread(&self.ours), self.unit),
            reference.map(|(name, s)| format!("{name}: {}", spread(s))).unwrap_or_default(),
            ratio.unwrap_or_default(),
            aim.unwrap_or_default(),
            met.unwrap_or_default().to_owned(),
        ]
    }
}

/// Median, and in brackets the least and the most.
fn spread(samples: &Samples) -> String {
    let (median, least, most) = (samples.median(), samples.least(), samples.most());
    if samples.0.len() < 2 {
        return short(median);
    }
    format!("{} ({}..{})", short(median), short(least), short(most))
}

/// Three digits that say something.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        f64::INFINITY => "∞".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

const HEAD: [&str; 6] = ["figure", "ours", "reference", "ratio", "aim", "met"];

/// The figures as a table in Markdown.
pub(crate) fn table(figures: &[Figure]) -> String {
    let mut text = String::new();
    let mut line = |cells: &[String]| {
        writeln!(text, "| {} |", cells.join(" | ")).expect("a String takes all");
    };
    line(&HEAD.map(str::to_owned));
    line(&HEAD.map(|_| "---".to_owned()));
    for figure in figures {
        line(&figure.cells());
    }
    text
}
