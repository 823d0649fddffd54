//! This node's own durable data: content by hash, generations, what was applied.
