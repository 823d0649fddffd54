//! Composition of the rooms below.

pub mod config;
