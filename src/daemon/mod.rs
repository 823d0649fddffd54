//! Composition of the rooms below.

pub mod config;
pub mod metrics;
pub mod status;
pub mod telemetry;
