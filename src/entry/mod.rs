//! What a source yields.
