//! What the measurements find, as figures alone: the parts fill them in, [`crate::report`] and [`crate::plots`] show
//! them.

/// The results of a run.
#[derive(Default)]
pub struct Results {
    pub goals: Vec<Measured>,
    pub rates: Vec<Rates>,
    pub latencies: Vec<AtRate>,
    pub history: Vec<WithStored>,
    pub disk: Option<Sizes>,
}

impl Results {
    /// Adds a measurement that has a goal.
    pub fn goal(&mut self, what: impl Into<String>, value: f64, unit: &'static str, goal: Goal) {
        self.goals.push(Measured {
            what: what.into(),
            value,
            unit,
            goal,
        });
    }
}

/// A bound, and one that would be better still.
pub enum Goal {
    AtLeast(f64, f64),
    AtMost(f64, f64),
}

pub fn at_least(goal: f64, stretch: f64) -> Goal {
    Goal::AtLeast(goal, stretch)
}

pub fn at_most(goal: f64, stretch: f64) -> Goal {
    Goal::AtMost(goal, stretch)
}

/// A measurement that has a goal.
pub struct Measured {
    pub what: String,
    pub value: f64,
    pub unit: &'static str,
    pub goal: Goal,
}

/// Callbacks a second over some number of connections.
pub struct Rates {
    pub connections: usize,
    pub service: f64,
    pub express: f64,
    pub rust: f64,
    pub no_op: f64,
    pub bare: f64,
    pub limit: f64,
}

/// The percentiles that are shown.
pub const PERCENTILES: [f64; 4] = [50.0, 90.0, 99.0, 99.9];

/// Latencies at a rate, in milliseconds, by [`PERCENTILES`].
pub struct AtRate {
    pub rate: f64,
    pub percentiles: [f64; 4],
}

/// Latencies of a query with so many messages stored, in milliseconds.
pub struct WithStored {
    pub stored: usize,
    pub p50: f64,
    pub p99: f64,
}

/// Bytes of one message, and of its parts on disk.
pub struct Sizes {
    /// Its callback's body.
    pub json: f64,
    /// Its document, as it is compressed.
    pub data: f64,
    /// Its entries in each index.
    pub indexes: Vec<(String, f64)>,
}

impl Sizes {
    pub fn on_disk(&self) -> f64 {
        self.data + self.indexes.iter().map(|(_, bytes)| bytes).sum::<f64>()
    }
}
