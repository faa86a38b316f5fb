//! Being a Unix process: signals, locks, exit codes.
