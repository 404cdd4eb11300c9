//! Rules of the core that a simulator switches off on its thread, to see that it notices.
//!
//! | name | what is wrong then |
//! |---|---|
//! | `tombstone-forgets` | a delete drops the cells' stamps |
//! | `tie-break` | two lives of one site may write with one stamp, and the first that comes stays |
//! | `naked-deltas` | what travels of a counter is the last difference, not the sum |
//! | `loose-groups` | a column of a group is written without the others |
//! | `inserts-set` | of a tally, too, the insert after the latest delete sets what it begins with |
//! | `remove-wins` | an element of a set is out of it whatever its removal had seen |
//! | `whole-texts` | an edit of a text travels as the whole text |
//! | `last-extreme` | of a maximum or minimum the last write counts |
//! | `unseen-removal` | a key of a document is removed whatever the removal had seen |
//! | `no-update-wins` | a delete stands where updates win |
//! | `no-restrict` | a child that may not lose its parent keeps it not |
//! | `arrival-order` | of two equal clock readings the one that comes last wins |

use std::cell::RefCell;

thread_local! {
    static PLANTED: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Switches exactly these rules off from here on.
pub fn plant(rules: &[String]) {
    PLANTED.with(|planted| *planted.borrow_mut() = rules.to_vec());
}

pub(crate) fn active(rule: &str) -> bool {
    PLANTED.with(|planted| planted.borrow().iter().any(|planted| planted == rule))
}
