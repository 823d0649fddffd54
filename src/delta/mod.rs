//! Content on the wire: one zstd stream per batch.
