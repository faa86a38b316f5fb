//! The target: connections, pipelines, replies, ownership, error policy.
