//! The generated protocol, and its conversion from and to the model.
//!
//! Every message is checked here when it comes in: whoever gets a model value from this room need not distrust it.

/// The messages and services of `proto/syncd.proto`.
#[allow(missing_docs, clippy::pedantic)]
pub mod proto {
    tonic::include_proto!("syncd.v1");
}
