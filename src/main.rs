//! The order of the first milliseconds.

fn main() {}
