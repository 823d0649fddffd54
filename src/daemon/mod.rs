//! Composition of the rooms below.

pub mod config;
pub mod status;
pub mod telemetry;
