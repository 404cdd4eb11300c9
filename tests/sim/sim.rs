//! The simulator: the real code of the protocol and the engine in a world made of a seed.
//!
//! ```text
//! let report = run(Options::of(Length::Short, seed, &[]), Trace::Off);
//! assert_eq!(report.failure, None);
//! ```
//!
//! One seed is two runs: a short one, of which there can be very many, and a full one. A run has two
//! phases: in the first things go wrong, in the second nothing does, and everything must come to rest
//! within a bound of simulated time.

mod ambush;
mod checks;
mod damages;
mod executor;
mod extras;
mod faults;
mod ledger;
mod mishaps;
mod network;
mod options;
mod oracle;
mod parking;
#[cfg_attr(not(test), expect(dead_code, reason = "its own tests need more of it than the world"))]
mod postgres;
mod realm;
mod restores;
mod site;
mod wires;
mod workload;
mod world;

pub use executor::Steps;
pub use extras::Extras;
pub use options::{Length, Options};
pub use realm::{Node, NodeKey, Realm};
pub use restores::Mishap;
pub use wires::Shape;
pub use world::{Report, Trace, run};
