//! What a run is like, drawn from its seed.

use landfall_engine::store::Compaction;

use crate::dice::Dice;

use super::extras::Extras;
use super::network::Line;
use super::realm::Realm;
use super::restores::Mishap;
use super::wires::Shape;
use super::workload::{CHART, NODE};

/// How much happens in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// About ten transactions at two or three sites, and a fault or two. Most mistakes need no more
    /// to show, and of these runs there can be very many.
    Short,
    /// What only shows when much meets.
    Full,
}

/// Everything that the seed decides beforehand.
#[derive(Clone, Debug)]
pub struct Options {
    /// The run.
    pub seed: u64,
    /// Members with data of their own.
    pub sites: u64,
    /// Members that only pass on.
    pub relays: u64,
    /// Application transactions per client.
    pub transactions: u64,
    /// Clients per site.
    pub clients: u64,
    /// Keys that everybody changes.
    pub hot_keys: u64,
    /// How long a step in PostgreSQL takes, at most.
    pub postgres_ms_max: u64,
    /// Of a million statements so many lose their connection.
    pub lost_per_million: u64,
    /// Changes that share one apply transaction, at most.
    pub group_changes_max: usize,
    /// Faults, all kinds together.
    pub faults: u64,
    /// How long the first phase lasts.
    pub phase_ms: u64,
    /// How long the store takes for each step, at most.
    pub store_ms_max: u64,
    /// Plain bytes after which a unit is sealed.
    pub unit_bytes_max: usize,
    /// Memory for clocks; small ones are swept often.
    pub clock_bytes: usize,
    /// Whether what is overwritten is left out while nobody is there.
    pub compaction: Option<Compaction>,
    /// Bytes of a link that are written or read at once, at most; 0 for all.
    pub portion_max: u64,
    /// How often a site crashes when something of it has just reached another.
    pub ambushes: u64,
    /// Whether all clocks stand still in 1970, so that two lives of a site draw the same readings.
    pub has_dead_clocks: bool,
    /// Whether everybody inserts and deletes the same row all the time.
    pub is_contested: bool,
    /// What is set back to an old state.
    pub mishap: Option<Mishap>,
    /// How links are.
    pub(crate) line: Line,
    /// What there is beside that.
    pub extras: Extras,
    /// Tables that merge in all ways and whose rows hang together.
    pub realm: Option<Realm>,
    /// How often rows are deleted at the moment when apply has found that they are there.
    pub stalks: u64,
    /// Whether sites put one key into a document and take it out, rather than edit this and that.
    pub is_fight: bool,
    /// Rules that are switched off.
    pub planted: Vec<String>,
}

impl Options {
    /// The options of a seed's run of this length.
    pub fn of(length: Length, seed: u64, planted: &[String]) -> Self {
        match length {
            Length::Short => Self::short(seed, planted),
            Length::Full => Self::draw(seed, planted),
        }
    }

    /// The same seed's run with little of everything.
    pub fn short(seed: u64, planted: &[String]) -> Self {
        Self::draw(seed, planted).shortened(seed)
    }

    fn shortened(self, seed: u64) -> Self {
        let full = self;
        let mut dice = Dice::new(seed ^ 0x0073_686f_7274);
        let extras = full.extras.shortened(&mut dice);
        // With three there are half as many again of all things.
        let sites = if dice.below(3) == 0 { full.sites.min(3) } else { 2 };
        // Most of them take long.
        let is_short = |mishap: &Mishap| full.has_dead_clocks || *mishap == Mishap::Flipped;
        let mishap = full.mishap.filter(|mishap| is_short(mishap) || dice.below(3) == 0);
        let more = if full.realm.is_some() { 2 } else { 1 };
        Self {
            sites,
            relays: if extras.shape == Shape::Relays { 1 } else { 0 },
            transactions: more * (8 + dice.below(5)) / sites,
            clients: 1,
            faults: if mishap.is_some() { dice.below(2) } else { 1 + dice.below(2) },
            phase_ms: dice.pick(&[100, 400, 2_000]),
            store_ms_max: full.store_ms_max.min(40),
            ambushes: full.ambushes.min(1),
            mishap,
            extras,
            ..full
        }
    }

    /// The options of a seed's full run.
    pub fn draw(seed: u64, planted: &[String]) -> Self {
        Self::with_extras(seed, planted).special(seed).with_realm(seed).compacting(seed)
    }

    /// With links that come and go, and nothing said twice meanwhile. Of a site that is set back nobody
    /// could tell what was left out.
    fn compacting(mut self, seed: u64) -> Self {
        if matches!(seed % 16, 3 | 4) && self.mishap.is_none() {
            let mut dice = Dice::new(seed ^ 0x0063_6f6d_7061_6374);
            let bytes_max = dice.pick(&[300, 2_000, 1 << 20]);
            self.compaction = Some(Compaction { bytes_min: 1, bytes_max });
            self.unit_bytes_max = dice.pick(&[200, 1_000, 4 << 20]);
            self.hot_keys = self.hot_keys.min(2);
        }
        self
    }

    /// With the tables of the seed's realm, if it has any, and without what is not tried there.
    fn with_realm(mut self, seed: u64) -> Self {
        self.realm = Realm::draw(seed);
        if let Some(realm) = &self.realm {
            (self.extras.long_above, self.extras.transaction_bytes_max) = (None, None);
            // What is rolled back in part leaves commits without a change, which capture has only when
            // something else follows.
            self.extras.sync_standby = false;
            self.mishap = self.mishap.filter(|_| !realm.has_remedies());
            self.stalks = if seed % 16 == 12 { 4 } else { 0 };
            self.is_fight = seed % 32 == 20;
        }
        self
    }

    /// The tables that the run has.
    pub(crate) fn tables(&self) -> usize {
        self.realm.as_ref().map_or(CHART, |realm| NODE + realm.nodes.len())
    }

    /// Those without what only some seeds have.
    pub fn with_extras(seed: u64, planted: &[String]) -> Self {
        let extras = Extras::draw(seed);
        let plain = Self::plain(seed, planted);
        // Four sites take as long as four runs with two, and rarely show more.
        let sites = if seed.is_multiple_of(4) { plain.sites } else { plain.sites.min(3) };
        Self { sites, relays: plain.relays.max(extras.relays), extras, ..plain }
    }

    /// The number of the site that refuses some rows.
    pub(crate) fn refusing_site(&self) -> Option<u64> {
        self.extras.refused_above.map(|_| 1 + self.seed % self.sites)
    }

    /// Those without extras, too.
    pub fn plain(seed: u64, planted: &[String]) -> Self {
        let mut dice = Dice::new(seed ^ 0x006f_7074_696f_6e73);
        let line = Line {
            delay_ms: dice.pick(&[0, 1, 10, 50, 300]),
            jitter_ms: dice.pick(&[0, 1, 20, 400]),
            bytes_per_ms: dice.pick(&[1, 10, 1_000, 100_000]),
        };
        Self {
            seed,
            sites: dice.pick(&[2, 2, 2, 3, 3, 4]),
            relays: dice.pick(&[0, 0, 0, 1]),
            transactions: 2 + dice.below(4),
            clients: dice.pick(&[1, 1, 2]),
            hot_keys: dice.pick(&[1, 2, 4, 8]),
            postgres_ms_max: dice.pick(&[1, 2, 10]),
            lost_per_million: dice.pick(&[0, 0, 2_000, 20_000]),
            group_changes_max: dice.pick(&[1, 3, 1_000]),
            faults: dice.pick(&[0, 1, 2, 4, 6]),
            phase_ms: dice.pick(&[500, 5_000, 60_000]),
            store_ms_max: dice.pick(&[0, 1, 5, 40, 400]),
            unit_bytes_max: dice.pick(&[1, 200, 4 << 20]),
            clock_bytes: dice.pick(&[0, 2_000, 6 << 20]),
            compaction: None,
            portion_max: dice.pick(&[0, 0, 16, 200]),
            ambushes: 0,
            has_dead_clocks: false,
            is_contested: false,
            mishap: None,
            line,
            extras: Extras::default(),
            realm: None,
            stalks: 0,
            is_fight: false,
            planted: planted.to_vec(),
        }
    }

    /// What only some seeds have. It is drawn apart, and changes nothing of what else a seed decides.
    fn special(mut self, seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x7370_6563_6961_6c00);
        match dice.below(10) {
            0..=2 => self.mishap = Some(Mishap::draw(&mut dice)),
            3 => self.ambushes = 1 + dice.below(3),
            4 => {
                self.is_contested = true;
                (self.hot_keys, self.clients) = (1, 2);
                self.transactions = 6 + dice.below(10);
                self.phase_ms = self.phase_ms.min(5_000);
                self.postgres_ms_max = dice.pick(&[2, 10]);
            }
            5 => {
                (self.mishap, self.has_dead_clocks) = (Some(Mishap::Rebuilt), true);
                self.hot_keys = 1;
                self.transactions = 6 + dice.below(6);
                self.phase_ms = self.phase_ms.min(5_000);
            }
            7 => self.mishap = Some(Mishap::Flipped),
            6 => {
                // Capture keeps up while rows are being locked.
                self.transactions = 6 + dice.below(10);
                self.phase_ms = self.phase_ms.min(5_000);
                (self.hot_keys, self.clients) = (dice.pick(&[2, 4]), 2);
                (self.store_ms_max, self.postgres_ms_max) = (dice.below(2), 10);
            }
            _ => {}
        }
        self
    }

    /// The same without the tables that only some seeds have: the run that the seed was before there
    /// were any.
    #[must_use]
    pub fn before_realms(length: Length, seed: u64, planted: &[String]) -> Self {
        let full = Self::with_extras(seed, planted).special(seed);
        match length {
            Length::Short => full.shortened(seed),
            Length::Full => full,
        }
    }

    /// The same without faults.
    #[must_use]
    pub fn calm(self) -> Self {
        let extras = Extras { breaks: 0, ..self.extras };
        Self { faults: 0, lost_per_million: 0, ambushes: 0, mishap: None, extras, ..self }
    }
}
