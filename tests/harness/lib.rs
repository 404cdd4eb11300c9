//! placeholder

pub mod relay;
